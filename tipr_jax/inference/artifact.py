"""The exported form of a model: one directory that holds all that its use needs.

| file              | holds                                                                  |
|-------------------|------------------------------------------------------------------------|
| params/           | all parameters, a plain tree of Orbax; `--config.init_from` reads it   |
| model.safetensors | the parameters that the programs take, by path                         |
| programs/         | the encoders as StableHLO, see `inference.programs`                    |
| config.json       | method, sizes, resize, and under "exported" what `exported` reads      |
| tokenizer/        | the vocabulary, if it does not come with the package                   |

`inference.model.load` reads params/, `inference.exported` the programs.
"""

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import jax
import numpy as np
from safetensors.numpy import save_file

from tipr_jax import __version__, checkpoints, paths, run_files
from tipr_jax.inference import exported, programs
from tipr_jax.inference.embedder import Embedder
from tipr_jax.inference.model import TrainedModel, read
from tipr_jax.models import get_method
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.text import save_tokenizer

KEPT = 4  # models in the cache, each as large as its weights


def export_run(workdir: str | Path, output: str | Path, language: str = "") -> int:
    """Writes a run's best parameters as an exported model; returns their step.

    language: of a run in several languages, export the checkpoint that is best in this one.

    Raises:
      ValueError: no checkpoint in `workdir`, or `output` is not empty.
    """
    if not run_files.is_run(workdir):
        raise ValueError(
            f"{workdir} has no checkpoints to export; train first, or pass a run as --workdir"
        )
    name, model_config, step, params, tokenizer = read(Path(workdir), language)
    facts = run_files.read_config(workdir).get(run_files.DATA_FACTS, {})
    model = TrainedModel(
        name,
        model_config,
        params,
        tokenizer,
        test_resize=run_files.test_resize(workdir),
        caption_languages=tuple(facts.get("languages", ())),
    )
    config = {
        "method": name,
        "model": dataclasses.asdict(model_config),
        "test_resize": model.test_resize,
        "step": step,
        run_files.DATA_FACTS: facts,
    }
    with paths.written_whole(output) as draft:
        checkpoints.write_params(draft / run_files.PARAMS, params)
        write_programs(draft, model, ComputePolicy(), programs.PLATFORMS, config)
        save_tokenizer(tokenizer, draft)
    return step


def write_programs(
    directory: Path,
    model: TrainedModel,
    how: ComputePolicy,
    platforms: Sequence[str],
    config: dict,
) -> None:
    """Writes what `ExportedModel` reads of a directory, besides the vocabulary."""
    method = get_method(model.method)
    made = programs.make_programs(method, model.config, how, platforms)
    (directory / exported.PROGRAMS).mkdir()
    for name, program in made.items():
        path = directory / exported.PROGRAMS / (name + exported.SUFFIX)
        path.write_bytes(program.module)
    arrays = {path: np.ascontiguousarray(x) for path, x in flatten(model.params).items()}
    save_file(arrays, directory / exported.WEIGHTS, {"format": "np"})
    facts = {
        "tipr_jax": __version__,
        "jax": jax.__version__,
        "fingerprint": model.fingerprint,
        "feature_size": model.feature_size,
        "image_size": model.image_size,
        "text_length": model.text_length,
        "languages": model.languages,
        "caption_languages": model.caption_languages,
        "can_match": model.can_match,
        "tokenizer": method.tokenizer,
        "programs": {name: program.parameters for name, program in made.items()},
    }
    text = json.dumps(config | {exported.FACTS: facts}, indent=2)
    (directory / exported.CONFIG).write_text(text + "\n", "utf-8")


def keep(model: Embedder) -> None:
    """Puts a model into the cache of this machine, from where `kept` takes it.

    An exported model needs no copy, and a cache that cannot be written stays as it is.
    """
    if not isinstance(model, TrainedModel) or "." in model.method:
        return  # the code of a method outside of the package may change without notice
    place = exported.kept_at(model.fingerprint)
    if exported.is_exported(place):
        os.utime(place)
        return
    how = dataclasses.replace(policy(), attention="xla")
    config = {"method": model.method, "test_resize": model.test_resize}
    with contextlib.suppress(OSError):
        with paths.written_whole(place) as draft:
            write_programs(draft, model, how, (jax.default_backend(),), config)
            save_tokenizer(model.tokenizer, draft)
        by_use = sorted(place.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in by_use[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)
