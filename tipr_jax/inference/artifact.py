"""The exported form of a model: a directory with `params/` (Orbax), `config.json` and tokenizer.

`python -m tipr_jax.convert` writes the same form from released weights; `inference.model.load`
reads it.
"""

import dataclasses
from pathlib import Path

from tipr_jax import checkpoints, run_files
from tipr_jax.inference.model import read
from tipr_jax.text import save_tokenizer


def export_run(workdir: str | Path, output: str | Path, language: str = "") -> int:
    """Writes a run's best parameters as a model directory; returns their step.

    language: of a run in several languages, export the checkpoint that is best in this one.

    Raises:
      ValueError: no checkpoint in `workdir`, or `output` is not empty.
    """
    if not run_files.is_run(workdir):
        raise ValueError(
            f"{workdir} has no checkpoints to export; train first, or pass a run as --workdir"
        )
    method, model_config, step, params, tokenizer = read(Path(workdir), language)
    config = {
        "method": method,
        "model": dataclasses.asdict(model_config),
        "test_resize": run_files.test_resize(workdir),
        "step": step,
        run_files.DATA_FACTS: run_files.read_config(workdir).get(run_files.DATA_FACTS, {}),
    }
    checkpoints.save_params(output, params, config)
    save_tokenizer(tokenizer, output)
    return step
