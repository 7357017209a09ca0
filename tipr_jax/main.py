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

On several hosts, start the same command on each. On a Cloud TPU slice, under SLURM or Open MPI
they find each other, elsewhere tell them how. Process 0 alone prints and writes, but all of them
must see the run directory:
  python -m tipr_jax.main ... --coordinator=10.0.0.1:4321 --num_processes=2 --process_id=0

--verbosity=1 shows the traceback of an error.
"""

import sys
from pathlib import Path
from typing import Any

from absl import app, flags
from ml_collections import config_flags

from tipr_jax import command_line, distributed

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and variant, e.g. configs/irra.py:quickstart", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run (created if missing)")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "embed", "export"], "What to do")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for several hosts")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes take part")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0")
_PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", 300, "Seconds to wait for the others")


def main(argv: list[str]) -> None:
    command_line.setup_process()
    with distributed.shared_fate():
        try:
            join()
            run(_CONFIG.value, Path(_WORKDIR.value), _MODE.value)
        except (ValueError, OSError) as error:
            if flags.FLAGS.verbosity > 0:
                raise
            lines = str(error).splitlines() or [type(error).__name__]
            sys.exit(f"error: {' '.join(lines)}")


def join() -> None:
    """Finds the other processes, if there are any, and checks that they run the same thing."""
    distributed.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        timeout=_PEER_TIMEOUT.value,
        preemption=_MODE.value == "train",  # elsewhere SIGTERM ends a process at once
    )
    if distributed.several():
        from tipr_jax import __version__
        from tipr_jax.experiment import flat_fields

        run_of = {"version": __version__, "mode": _MODE.value, "workdir": _WORKDIR.value}
        distributed.agree(flat_fields(_CONFIG.value) | run_of)


def run(config: Any, workdir: Path, mode: str) -> None:
    """Runs one mode; raises ValueError or OSError with a one-line message."""
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; use a directory, new or of an older run")
    if config.dry_run:
        return dry_run(config, workdir)
    modes = {"train": train, "eval": evaluate, "embed": embed, "export": export}
    modes[mode](config, workdir)


def train(config: Any, workdir: Path) -> None:
    """Trains or continues, then shows the selected checkpoint: table, results.json, report.html."""
    from tipr_jax import experiment, results, trainer

    config = experiment.adopt_model(config, config.init_from, training=True)
    if config.warm_start and not config.init_from:
        config = warm_start(config, workdir)
    data = open_data(config, workdir)
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    trainer.train(exp, data, workdir)
    summary = distributed.from_writer(lambda: results.write_results(workdir, config))
    write_report(config, workdir, data, summary["split"])
    say(results.table(summary))
    say(f"report: {workdir / 'report.html'}")


def say(line: str) -> None:
    if distributed.is_writer():
        print(line)


def warm_start(config: Any, workdir: Path) -> Any:
    """Runs the config with its `warm_start` changes first; the config that starts from there."""
    from tipr_jax import checkpoints, experiment, trainer

    first = config.copy_and_resolve_references()
    first.update(config.warm_start)
    if not checkpoints.is_run(workdir):
        data = open_data(first, workdir)
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
    data = open_data(config, workdir)
    exp = experiment.build(config)
    step, params = experiment.trained_towers(exp, workdir)
    evaluator = Evaluator(exp, data)
    scores = evaluator.evaluate(params, data.evaluation_splits(config.eval.splits))
    summary = results.summarise([(step, scores)], config, selected_on="given")
    if distributed.is_writer() and not checkpoints.is_run(workdir):
        results.save(workdir, summary)
    say(results.table(summary))


def embed(config: Any, workdir: Path) -> None:
    """Writes embeddings/<split>.npz: image and text features, unit rows, with paths and ids."""
    import numpy as np

    from tipr_jax import experiment
    from tipr_jax.evaluator import Evaluator
    from tipr_jax.metrics.retrieval import l2_normalise

    config = experiment.adopt_model(config, experiment.source_of(config, workdir))
    data = open_data(config, workdir)
    exp = experiment.build(config)
    _, params = experiment.trained_towers(exp, workdir)
    evaluator = Evaluator(exp, data)
    for name, features in evaluator.features(params, data.evaluation_splits(config.eval.splits)):
        split = data.splits[name]
        if not distributed.is_writer():
            continue
        path = workdir / "embeddings" / f"{name}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        np.savez(
            path,
            image=l2_normalise(features.image),
            image_path=split.image_path,
            image_person_id=split.image_person_id,
            text=l2_normalise(features.text),
            caption=split.caption,
            caption_person_id=split.caption_person_id,
        )
        print(f"{path}: {len(features.image)} images, {len(features.text)} captions")


def export(config: Any, workdir: Path) -> None:
    """Writes a run's best parameters as a model directory, WORKDIR/export."""
    from tipr_jax.export import export_run

    if not distributed.is_writer():
        return
    step = export_run(workdir, workdir / "export")
    print(f"{workdir / 'export'}: parameters of step {step}; load with --config.init_from")


def dry_run(config: Any, workdir: Path) -> None:
    """Checks every file of the data set and builds the model, without running either."""
    import jax

    from data_pipelines.check import check_dataset
    from tipr_jax import experiment
    from tipr_jax.train_state import count_parameters

    config = experiment.adopt_model(config, experiment.source_of(config, workdir))
    data = open_data(config, workdir)
    report = check_dataset(config.data.name, data.root, data.languages)
    say(str(report))
    if report.problems:
        raise ValueError(f"{config.data.name}: {len(report.problems)} problems, listed above")
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    count = count_parameters(jax.eval_shape(exp.init, exp.keys[0]))
    say(f"{config.method}: {count:,} parameters on {exp.mesh.size} device(s); nothing was run")


def write_report(config: Any, workdir: Path, data: Any, split: str) -> None:
    """report.html with retrieval sheets of `split` from the run's best checkpoint."""
    from tipr_jax import experiment, report
    from tipr_jax.evaluator import Evaluator, example_sheets

    exp = experiment.build(config)
    _, params = experiment.trained_towers(exp, workdir)
    languages = data.evaluation_splits((split,))
    features = dict(Evaluator(exp, data).features(params, languages))
    if not distributed.is_writer():
        return
    sheets = example_sheets(features, data.splits)
    report.write_report(workdir, title=f"{config.method} on {config.data.name}", sheets=sheets)


def open_data(config: Any, workdir: Path) -> Any:
    """The data set of the config, with the tokenizer that the run in `workdir` uses."""
    from data_pipelines.data_module import DataModule
    from data_pipelines.vocabulary import open_tokenizer
    from tipr_jax.models import MODELS

    # Process 0 generates the data and makes the vocabulary; on other disks the others do, too.
    with distributed.writer_first():
        data = DataModule(config)
        data.tokenizer = open_tokenizer(
            MODELS[config.method].tokenizer,
            config.data.vocab,
            config.model.vocab_size,
            data.splits["train"],
            kept=(workdir, Path(config.init_from or workdir)),
        )
    return data


if __name__ == "__main__":
    command_line.use_huge_pages()
    app.run(main, flags_parser=command_line.parse)
