"""The command line: python -m tipr_jax.main --config=configs/irra.py[:variant] --workdir=DIR.

Modes:
  train   train (or continue) a run, evaluate it, write results.json and report.html
  eval    evaluate a run's best checkpoint, or the one of --config.init_from
  embed   write the features of the evaluation splits to WORKDIR/embeddings/
  export  write a run's parameters and model config to WORKDIR/export/, for --config.init_from

Examples:
  python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=runs/quickstart
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/cuhk --config.data.root=/data \\
      --config.init_from=weights/clip_vit_b16
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/cuhk --mode=eval

--verbosity=1 shows the traceback of an error.
"""

import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from tipr_jax import command_line

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and variant, e.g. configs/irra.py:quickstart", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run (created if missing)")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "embed", "export"], "What to do")


def main(argv: list[str]) -> None:
    command_line.setup_process()
    try:
        run(_CONFIG.value, Path(_WORKDIR.value), _MODE.value)
    except (ValueError, OSError) as error:
        if flags.FLAGS.verbosity > 0:
            raise
        lines = str(error).splitlines() or [type(error).__name__]
        sys.exit(f"error: {' '.join(lines)}")


def run(config: Any, workdir: Path, mode: str) -> None:
    """Runs one mode; raises ValueError or OSError with a one-line message."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; use a directory, new or of an older run")
    if config.dry_run:
        return dry_run(config)
    modes = {"train": train, "eval": evaluate, "embed": embed, "export": export}
    modes[mode](config, workdir)


def train(config: Any, workdir: Path) -> None:
    """Trains or continues, then shows the selected checkpoint: table, results.json, report.html."""
    from tipr_jax import experiment, results, trainer

    config = experiment.adopt_model(config, config.init_from)
    if config.warm_start and not config.init_from:
        config = warm_start(config, workdir)
    data = open_data(config)
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    trainer.train(exp, data, workdir)
    summary = results.write_results(workdir, config)
    write_report(config, workdir, data, summary["split"])
    print(results.table(summary))
    print(f"report: {workdir / 'report.html'}")


def warm_start(config: Any, workdir: Path) -> Any:
    """Runs the config with its `warm_start` changes first; the config that starts from there."""
    from tipr_jax import checkpoints, experiment, trainer

    first = config.copy_and_resolve_references()
    first.update(config.warm_start)
    if not checkpoints.is_run(workdir):
        data = open_data(first)
        exp = experiment.build(first, num_persons=data.splits["train"].num_persons)
        trainer.train(exp, data, workdir / "warm_start")
    config = config.copy_and_resolve_references()
    config.init_from = str(workdir / "warm_start")
    return config


def evaluate(config: Any, workdir: Path) -> None:
    """Ranks the evaluation splits with a run's best checkpoint, or with --config.init_from.

    Writes results.json, except into a run's workdir: there it keeps the run's selections.
    """
    from tipr_jax import checkpoints, experiment, results
    from tipr_jax.evaluator import Evaluator

    config = experiment.adopt_model(config, experiment.source_of(config, workdir))
    data = open_data(config)
    exp = experiment.build(config)
    step, params = experiment.trained_towers(exp, workdir)
    evaluator = Evaluator(exp, data)
    scores = {s: evaluator.metrics(params, s) for s in data.evaluation_splits(config.eval.splits)}
    summary = results.summarise([(step, scores)], config, selected_on="given")
    if not checkpoints.is_run(workdir):
        results.save(workdir, summary)
    print(results.table(summary))


def embed(config: Any, workdir: Path) -> None:
    """Writes embeddings/<split>.npz: image and text features, unit rows, with paths and ids."""
    import numpy as np

    from tipr_jax import experiment
    from tipr_jax.evaluator import Evaluator

    config = experiment.adopt_model(config, experiment.source_of(config, workdir))
    data = open_data(config)
    exp = experiment.build(config)
    _, params = experiment.trained_towers(exp, workdir)
    evaluator = Evaluator(exp, data)
    for name in data.evaluation_splits(config.eval.splits):
        features, split = evaluator.features(params, name), data.splits[name]
        path = workdir / "embeddings" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            image=_unit(features.image),
            image_path=split.image_path,
            image_person_id=split.image_person_id,
            text=_unit(features.text),
            caption=split.caption,
            caption_person_id=split.caption_person_id,
        )
        print(f"{path}: {len(features.image)} images, {len(features.text)} captions")


def _unit(features: Any) -> Any:
    """[N,C] -> rows of length one."""
    import numpy as np

    return features / np.linalg.norm(features, axis=1, keepdims=True)


def export(config: Any, workdir: Path) -> None:
    """Writes a run's best parameters as a model directory, WORKDIR/export."""
    from tipr_jax.export import export_run

    step = export_run(workdir, workdir / "export")
    print(f"{workdir / 'export'}: parameters of step {step}; load with --config.init_from")


def dry_run(config: Any) -> None:
    """Checks every file of the data set and builds the model, without running either."""
    import jax

    from data_pipelines.check import check_dataset
    from tipr_jax import experiment
    from tipr_jax.train_state import count_parameters

    data = open_data(config)
    report = check_dataset(config.data.name, data.root)
    print(report)
    if report.problems:
        raise ValueError(f"{config.data.name}: {len(report.problems)} problems, listed above")
    config = experiment.adopt_model(config, config.init_from)
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    count = count_parameters(jax.eval_shape(exp.init, exp.keys[0]))
    print(f"{config.method}: {count:,} parameters on {exp.mesh.size} device(s); nothing was run")


def write_report(config: Any, workdir: Path, data: Any, split: str) -> None:
    """report.html with retrieval sheets of `split` from the run's best checkpoint."""
    from tipr_jax import experiment, report
    from tipr_jax.evaluator import Evaluator, example_sheets

    exp = experiment.build(config)
    _, params = experiment.trained_towers(exp, workdir)
    features = Evaluator(exp, data).features(params, split)
    sheets = example_sheets(features, data.splits[split])
    report.write_report(workdir, title=f"{config.method} on {config.data.name}", sheets=sheets)


def open_data(config: Any) -> Any:
    """The data set of the config; the one place where TensorFlow comes in."""
    from data_pipelines.data_module import DataModule
    from tipr_jax.text.clip_bpe import ClipTokenizer

    return DataModule(
        config.data, ClipTokenizer(), seed=config.seed, eval_batch_size=config.eval.batch_size
    )


if __name__ == "__main__":
    command_line.use_huge_pages()
    app.run(main, flags_parser=command_line.parse)
