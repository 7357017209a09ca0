"""The exported form of a model: one directory that holds all that its use needs.

| file                     | holds                                                             |
|--------------------------|-------------------------------------------------------------------|
| params/                  | all parameters, a tree of Orbax; `--config.init_from` reads it    |
| model.safetensors        | the parameters that the programs take, by path; or all of them as |
|                          | the released code names them (`--names=official`)                 |
| programs/                | the encoders as StableHLO, see `inference.programs`               |
| onnx/                    | the same as ONNX (`--onnx`), see `inference.onnx_programs`        |
| config.json              | method, sizes, resize, and under "exported" what `exported` reads |
| preprocessor_config.json | the same for image libraries, see `inference.preprocessor`        |
| tokenizer/               | the vocabulary, if it does not come with the package              |
| tokenizer.json           | the tokenizer without our code, see `text.portable`               |
| golden.safetensors       | inputs, outputs and digests of all files, see `inference.golden`  |
| README.md                | the model card, see `inference.card`                              |

`inference.model.load` reads params/, `inference.exported` the programs. With the official names
there are no programs, for they take ours.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import argparse
import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from tipr_jax import __version__, checkpoints, command_line, hub, paths, run_files
from tipr_jax.inference import card, exported, golden, onnx_programs, preprocessor, programs
from tipr_jax.inference.embedder import Embedder
from tipr_jax.inference.model import TrainedModel, read
from tipr_jax.models import get_method
from tipr_jax.models.method import Params
from tipr_jax.param_tree import flatten
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.pretrained.converter import converters
from tipr_jax.text import portable, save_tokenizer

KEPT = 4  # models in the cache, each as large as its weights
OWN, OFFICIAL = NAMES = ("own", "official")


def export_run(
    workdir: str | Path,
    output: str | Path,
    language: str = "",
    *,
    names: str = OWN,
    onnx: bool = False,
    licence: str = "",
) -> int:
    """Writes a run's best parameters as an exported model; returns their step.

    Args:
      language: of a run in several languages, export the checkpoint that is best in this one.
      names: of the parameters in model.safetensors, "own" or "official".
      onnx: write the programs as ONNX, too.
      licence: of the training data, for the model card.

    Raises:
      ValueError: no checkpoint in `workdir`, or `output` is not empty; official names of a method
        that has none; the extra `onnx` is missing; ONNX gives other numbers than the model.
    """
    if not run_files.is_run(workdir):
        raise ValueError(
            f"{workdir} has no checkpoints to export; train first, or pass a run as --workdir"
        )
    if onnx:
        onnx_programs.check_installed()
    name, model_config, step, params, tokenizer = read(paths.place(workdir), language)
    official = official_names(name, params) if names == OFFICIAL else None
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
        if official is None:
            write_programs(draft, model, ComputePolicy(), programs.PLATFORMS, config)
        else:
            save_file(official, draft / exported.WEIGHTS, {"format": "pt"})
            write_config(draft, config)
        save_tokenizer(tokenizer, draft)
        write_for_others(draft, model, onnx)
        card.write(draft, model, paths.place(workdir), licence)
    return step


def official_names(method: str, params: Params) -> dict[str, np.ndarray]:
    """Parameters as the released code names and shapes them.

    Raises:
      ValueError: a method without released weights.
    """
    known = {c.method: c.reverse for c in converters().values() if c.reverse}
    if method not in known:
        raise ValueError(
            f"--names=official: no official names are known for {method!r}, only for "
            f"{', '.join(known)}; export with --names=own"
        )
    return {name: np.asarray(x, order="C") for name, x in known[method](params).items()}


def write_for_others(directory: Path, model: TrainedModel, onnx: bool) -> None:
    """What programs without tipr_jax read, and the check of all files, which come before."""
    preprocessor.write(directory, model.image_size, model.test_resize)
    tokenizer = portable.portable(model.tokenizer, model.text_length)
    (directory / portable.FILE).write_text(tokenizer + "\n", "utf-8")
    if onnx:
        onnx_programs.write(directory, model)
    golden.write(directory, golden.make(model))
    check(directory, say=lambda _: None)


def check(directory: str | Path, say: Callable[[str], None] = print) -> None:
    """Compares an exported directory with what it was when it was written; a line per program.

    Raises:
      ValueError: files have changed, or give other numbers; the message names them.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ValueError(paths.no_such_path(directory, "directory"))
    golden.check_files(directory)
    say(f"{'ok':5}SHA-256 of all files")
    failed = []
    for found in golden.checks(directory):
        say(str(found))
        failed += [] if found.passed else [f"{found.name} ({found.difference:.1e})"]
    if failed:
        raise ValueError(
            f"{directory} does not give what it gave when it was exported: {', '.join(failed)}"
        )


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
    write_config(directory, config | {exported.FACTS: facts})


def write_config(directory: Path, config: Mapping[str, Any]) -> None:
    text = json.dumps(config, indent=2)
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
    how = policy(attention="xla")
    config = {"method": model.method, "test_resize": model.test_resize}
    with contextlib.suppress(OSError):
        with paths.written_whole(place) as draft:
            write_programs(draft, model, how, (jax.default_backend(),), config)
            save_tokenizer(model.tokenizer, draft)
        by_use = sorted(place.parent.iterdir(), key=lambda path: path.stat().st_mtime)
        for old in by_use[:-KEPT]:
            shutil.rmtree(old, ignore_errors=True)


PROGRAM = "python -m tipr_jax.inference.artifact"
DESCRIPTION = """\
Checks an exported model, and gives it to others.

  verify  compare all files and what they compute with the day of the export; exit 1 on a difference
  push    verify, then upload as a model repository of the Hugging Face Hub"""
EXAMPLES = f"""\
examples:
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/cuhk --mode=export
  {PROGRAM} verify runs/cuhk/export
  {PROGRAM} push runs/cuhk/export hf://me/my-model --private"""


def make_parser() -> argparse.ArgumentParser:
    example = f"{PROGRAM} verify runs/quickstart/export"
    parser = command_line.Parser(
        prog=PROGRAM, description=DESCRIPTION, epilog=EXAMPLES, example=example
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="verify|push")
    for name, use in (("verify", "compare a directory"), ("push", "upload a directory")):
        command = commands.add_parser(name, help=use, example=example.replace("verify", name))
        command.add_argument("directory", help="what --mode=export wrote")
        if name == "push":
            command.add_argument("address", help="hf://OWNER/NAME")
            command.add_argument("--private", action="store_true", help="for its owner alone")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    options = make_parser().parse_args(argv)
    command_line.setup_process()
    with command_line.mistakes_in_one_line():
        command_line.check_devices()
        directory = paths.local_path(options.directory, "DIRECTORY")
        if options.command == "push":
            hub.parse(options.address, "push")
        check(directory)
        if options.command == "push":
            print(hub.push(directory, options.address, private=options.private))


if __name__ == "__main__":
    main()
