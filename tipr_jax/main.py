"""The command line: python -m tipr_jax.main --config=configs/irra.py[:variant] --workdir=DIR.

Modes:
  train   train (or continue) a run, evaluate it, write results.json and report.html
  eval    evaluate a run's best checkpoint, or the one of --config.init_from
  embed   write the features of the evaluation splits to WORKDIR/embeddings/
  export  write a run's best model to WORKDIR/export/: parameters, programs, tokenizer, model card
          (--onnx: programs as ONNX, too; --names=official: parameters with the released names)

Examples:
  python -m tipr_jax.main --config=configs/irra.py:quickstart --workdir=runs/quickstart
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/cuhk --config.data.root=/data \\
      --config.init_from=weights/clip_vit_b16
  python -m tipr_jax.main --config=configs/irra.py --workdir=runs/cuhk --mode=eval
  python -m tipr_jax.main --config=configs/irra.py --workdir=gs://BUCKET/runs/cuhk ...

On several hosts, start the same command on each. On a Cloud TPU slice, under SLURM or Open MPI
they find each other, elsewhere tell them how. Process 0 alone prints and writes, but all of them
must see the run directory:
  python -m tipr_jax.main ... --coordinator=10.0.0.1:4321 --num_processes=2 --process_id=0

--verbosity=1 shows the traceback of an error.
"""

if __name__ == "__main__":
    from tipr_jax import interrupt

    interrupt.watch()

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from absl import app, flags
from ml_collections import ConfigDict, config_flags

from tipr_jax import command_line

if __name__ == "__main__":
    command_line.check_platform()
    command_line.use_huge_pages()  # It may restart the process, so it runs before JAX is imported.

from tipr_jax import distributed, shutdown

if TYPE_CHECKING:
    from data_pipelines.data_config import RunConfig
    from data_pipelines.data_module import DataModule
    from tipr_jax.data import Data, Split
    from tipr_jax.evaluator import SplitFeatures
    from tipr_jax.experiment import Experiment
    from tipr_jax.models.method import Params
    from tipr_jax.results import Scores

_CONFIG = config_flags.DEFINE_config_file(
    "config", None, "Config file and variant, e.g. configs/irra.py:quickstart", lock_config=True
)
_WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run (created if missing)")
_MODE = flags.DEFINE_enum("mode", "train", ["train", "eval", "embed", "export"], "What to do")
_NAMES = flags.DEFINE_enum(
    "names", "own", ["own", "official"], "Names of the parameters that --mode=export writes"
)
_ONNX = flags.DEFINE_bool("onnx", False, "Whether --mode=export writes ONNX, too")
_COORDINATOR = flags.DEFINE_string("coordinator", None, "host:port of process 0, for several hosts")
_NUM_PROCESSES = flags.DEFINE_integer("num_processes", None, "How many processes take part")
_PROCESS_ID = flags.DEFINE_integer("process_id", None, "Which one this is, from 0")
_PEER_TIMEOUT = flags.DEFINE_integer("peer_timeout", 300, "Seconds to wait for the others")


def main(argv: list[str]) -> None:
    command_line.setup_process()
    with (
        shutdown.shared_fate(),
        command_line.mistakes_in_one_line(traceback=flags.FLAGS.verbosity > 0),
    ):
        if _MODE.value != "export" and (_ONNX.value or _NAMES.value != "own"):
            raise ValueError("--onnx and --names are for --mode=export; add it, or drop them")
        join()
        typed = config_flags.get_override_values(flags.FLAGS["config"])
        workdir = _WORKDIR.value
        assert workdir, "command_line.parse refuses an empty --workdir"
        run(_CONFIG.value, workdir, _MODE.value, frozenset(typed))


def join() -> None:
    """Finds the other processes, if there are any, and checks that they run the same thing."""
    distributed.initialize(
        _COORDINATOR.value,
        _NUM_PROCESSES.value,
        _PROCESS_ID.value,
        timeout=_PEER_TIMEOUT.value,
        preemption=_MODE.value == "train",  # elsewhere SIGTERM ends a process at once
    )
    command_line.check_devices()
    if distributed.several():
        shutdown.watch_for_failure()
        from tipr_jax import __version__
        from tipr_jax.run_files import flat_fields

        run_of = {"version": __version__, "mode": _MODE.value, "workdir": _WORKDIR.value}
        distributed.agree(flat_fields(_CONFIG.value) | run_of)


def run(
    config: ConfigDict, workdir: str | Path, mode: str, typed: frozenset[str] = frozenset()
) -> None:
    """Runs one mode; raises ValueError or OSError with a one-line message.

    typed: the fields of the config that the user set on the command line.
    """
    from tipr_jax import bucket
    from tipr_jax.paths import run_path, with_local_paths

    config, workdir = with_local_paths(config), run_path(workdir, "--workdir")
    if workdir.exists() and not workdir.is_dir():
        raise ValueError(f"--workdir={workdir} is a file; use a directory, new or of an older run")
    modes = {"train": train, "eval": evaluate, "embed": embed, "export": export}
    with bucket.mistakes_in_one_line():
        (dry_run if config.dry_run else modes[mode])(config, workdir, typed)


def train(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    """Trains or continues, then shows the selected checkpoint: table, results.json, report.html."""
    from tipr_jax.run_lock import locked

    with locked(workdir) if distributed.is_writer() else contextlib.nullcontext():
        train_and_report(config, workdir, typed)


def train_and_report(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    from tipr_jax import experiment, result_table, results, trainer
    from tipr_jax.pretrained import start

    source = start.last_source(config.init_from)
    alphas = config.interpolate.alphas if "interpolate" in config else ()
    if alphas and not source and not config.warm_start:
        raise ValueError("config.interpolate needs --config.init_from, the model before")
    config = start.sized_like(config, source, training=True, typed=typed)
    if config.warm_start and not config.init_from:
        config = warm_start(config, workdir)
    data = open_data(config, workdir)
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    trainer.train(exp, data, workdir)
    summary = distributed.from_writer(lambda: results.write_results(workdir, config))
    write_report(config, workdir, data, summary["split"])
    say(result_table.table(summary))
    say(f"report: {workdir / 'report.html'}")
    if alphas:
        compare_interpolated(config, workdir, data, alphas)


def compare_interpolated(
    config: ConfigDict, workdir: Path, data: "DataModule", alphas: Sequence[float]
) -> None:
    """Evaluates the weights between init_from's and the run's; keeps the best, see `interpolation`.

    The best has the highest harmonic mean of rank-1 on the new and the old `eval.select_on`.
    """
    from tipr_jax import experiment, interpolation
    from tipr_jax.evaluator import Evaluator
    from tipr_jax.pretrained import start

    exp, source = experiment.build(config), start.last_source(config.init_from)
    _, before = experiment.inference_arrays(exp, source)
    step, after = experiment.inference_arrays(exp, workdir)
    data_sets = {"new": data}
    if old := old_data(config, source):
        data_sets["old"] = open_data(old, workdir)
    evaluators = {name: Evaluator(exp, data_set) for name, data_set in data_sets.items()}

    def evaluate(name: str, arrays: "Params") -> "Scores":
        splits = data_sets[name].evaluation_splits(config.eval.splits)
        return evaluators[name].evaluate(experiment.put_inference_params(exp, arrays), splits)

    asked = {name: functools.partial(evaluate, name) for name in data_sets}
    rows = interpolation.measure(before, after, alphas, asked)
    chosen = interpolation.best(rows, [f"{name} {config.eval.select_on}" for name in data_sets])
    say(interpolation.table(rows, chosen))
    if distributed.is_writer():
        interpolation.save(rows, chosen, workdir)
        params = interpolation.interpolate(before, after, chosen.alpha)
        output = workdir / interpolation.DIRECTORY
        save_model(output, params, exp, step, workdir, data)
        say(f"alpha {chosen.alpha} is in {output}, a model for --config.init_from and the gallery")
        say(f"table and picture: {workdir / interpolation.PICTURE}")


def save_model(
    output: Path, params: "Params", exp: "Experiment", step: int, run: Path, data: "DataModule"
) -> None:
    """Writes towers as a model directory, in the place of an earlier one."""
    from tipr_jax import bucket, checkpoints, run_files
    from tipr_jax.text import save_tokenizer

    config = {
        "method": exp.config.method,
        "model": dataclasses.asdict(exp.model_config.for_inference()),
        "test_resize": exp.config.data.test_resize,
        "step": step,
        run_files.DATA_FACTS: run_files.read_config(run).get(run_files.DATA_FACTS, {}),
    }
    bucket.remove_tree(output)
    checkpoints.save_params(output, params, config)
    save_tokenizer(data.tokenizer, output)


def old_data(config: ConfigDict, source: str) -> ConfigDict | None:
    """The config with the data that a model was trained on; None, with a line, if it is gone."""
    from tipr_jax import run_files

    section = run_files.read_config(source).get("data", {})
    name = config.interpolate.old_name or section.get("name", "")
    root = config.interpolate.old_root or section.get("root", "")
    if not name or not root or not Path(root).exists():
        say(
            f"the data that {source} was trained on is not here ({root or 'not recorded'}), so "
            "only the new data is compared: --config.interpolate.old_name=... .old_root=..."
        )
        return None
    old = config.copy_and_resolve_references()
    old.data.name, old.data.root = name, root
    return old


def say(line: str) -> None:
    if distributed.is_writer():
        print(line)


def warm_start(config: ConfigDict, workdir: Path) -> ConfigDict:
    """Runs the config with its `warm_start` changes first; the config that starts from there.

    The changes may name a warm start, too, which runs before them, with changes on top of theirs.
    """
    from tipr_jax import experiment, run_files, trainer

    before = workdir / run_files.WARM_START
    if not run_files.is_run(workdir):
        first = config.copy_and_resolve_references()
        first.warm_start = ConfigDict()
        first.update(config.warm_start)
        if first.warm_start:
            first = warm_start(first, before)
        data = open_data(first, before)
        exp = experiment.build(first, num_persons=data.splits["train"].num_persons)
        trainer.train(exp, data, before)
    config = config.copy_and_resolve_references()
    config.init_from = str(before)
    return config


def evaluate(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    """Ranks the evaluation splits with a run's best checkpoint, or with --config.init_from.

    Writes results.json, except into a run's workdir: there it keeps the run's selections.
    """
    from tipr_jax import experiment, result_table, results, run_files
    from tipr_jax.evaluator import Evaluator
    from tipr_jax.pretrained import start

    config = start.sized_like(config, experiment.source_of(config, workdir), typed=typed)
    data = open_data(config, workdir)
    exp = experiment.build(config)
    evaluator, scores, steps = Evaluator(exp, data), {}, {}
    for language, splits in by_language(data, config.eval.splits):
        steps[language], params = experiment.inference_params(exp, workdir, language)
        scores |= evaluator.evaluate(params, splits)
    first, *others = steps
    for language in others:
        if steps[language] != steps[first]:
            say(f"{language}: step {steps[language]}, the best in this language")
    evaluation = results.Evaluation(steps[first], scores, config.eval.rerank_k)
    summary = results.summarise([evaluation], config, selected_on="given")
    if distributed.is_writer() and not run_files.is_run(workdir):
        results.save(workdir, summary)
    say(result_table.table(summary))


def by_language(data: "Data", wanted: tuple[str, ...]) -> list[tuple[str, list[str]]]:
    """(language, evaluation splits with captions in it), the source first; "" for one language.

    A run in several languages keeps the best weights for each.
    """
    splits: dict[str, list[str]] = {}
    for split in data.evaluation_splits(wanted):
        splits.setdefault(data.splits[split].language, []).append(split)
    return list(splits.items())


def embed(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    """Writes embeddings/<split>.npz: image and text features, unit rows, with paths and ids."""
    from tipr_jax import experiment
    from tipr_jax.evaluator import Evaluator
    from tipr_jax.pretrained import start

    config = start.sized_like(config, experiment.source_of(config, workdir), typed=typed)
    data = open_data(config, workdir)
    exp = experiment.build(config)
    evaluator = Evaluator(exp, data)
    for language, names in by_language(data, config.eval.splits):
        _, params = experiment.inference_params(exp, workdir, language)
        for name, features in evaluator.features(params, names):
            if distributed.is_writer():
                save_features(workdir / "embeddings" / f"{name}.npz", features, data.splits[name])


def save_features(path: Path, features: "SplitFeatures", split: "Split") -> None:
    """Writes the features of a split with paths, captions and ids."""
    import numpy as np

    from tipr_jax.metrics.unit_vectors import l2_normalise

    path.parent.mkdir(parents=True, exist_ok=True)
    columns: dict[str, Any] = dict(
        image=l2_normalise(features.image),
        image_path=split.image_path,
        image_person_id=split.image_person_id,
        **({} if split.image_box is None else {"image_box": split.image_box}),
        text=l2_normalise(features.text),
        caption=split.caption,
        caption_person_id=split.caption_person_id,
    )
    with path.open("wb") as file:
        np.savez(file, **columns)
    print(f"{path}: {len(features.image)} images, {len(features.text)} captions")


def export(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    """Writes a run's best model as a directory for others, WORKDIR/export; see `artifact`.

    For a language in which another step is the best, also WORKDIR/export_<language>.
    """
    from data_pipelines.datasets.layouts import LAYOUTS
    from tipr_jax import checkpoints
    from tipr_jax.inference.artifact import export_run
    from tipr_jax.languages import languages_of

    del typed
    if not distributed.is_writer():
        return
    data = LAYOUTS.get(config.data.name)
    licence = data.licence if data else ""
    typed_flags = flags.FLAGS.is_parsed()  # a call from Python has the defaults
    names = _NAMES.value if typed_flags else "own"
    onnx = bool(typed_flags and _ONNX.value)
    first = checkpoints.best_step(workdir)
    for language in ("", *languages_of(config.data)):
        output = workdir / (f"export_{language}" if language else "export")
        if not language or checkpoints.best_step(workdir, language) != first:
            step = export_run(workdir, output, language, names=names, onnx=onnx, licence=licence)
            print(f"{output}: parameters of step {step}; load with --config.init_from")


def dry_run(config: ConfigDict, workdir: Path, typed: frozenset[str]) -> None:
    """Checks every file of the data set and builds the model, without running either."""
    from data_pipelines.check import check_dataset
    from tipr_jax import experiment
    from tipr_jax.pretrained import start
    from tipr_jax.train_state import count_parameters

    config = start.sized_like(config, experiment.source_of(config, workdir), typed=typed)
    data = open_data(config, workdir)
    reader = (data.tokenizer, config.data.text_length)
    report = check_dataset(
        config.data.eval_name if config.data.caption_lists else config.data.name,
        data.root,
        data.languages,
        reader=reader,
        image_root=config.data.image_root,
    )
    say(str(report))
    if report.problems:
        raise ValueError(f"{config.data.name}: {len(report.problems)} problems, listed above")
    exp = experiment.build(config, num_persons=data.splits["train"].num_persons)
    count = count_parameters(exp.abstract_params)
    say(f"{config.method}: {count:,} parameters on {exp.mesh.size} device(s); nothing was run")


def write_report(config: ConfigDict, workdir: Path, data: "Data", split: str) -> None:
    """report.html with retrieval sheets of `split` from the run's best checkpoint."""
    from tipr_jax import experiment, report
    from tipr_jax.evaluator import Evaluator, example_sheets

    exp = experiment.build(config)
    _, params = experiment.inference_params(exp, workdir)
    languages = data.evaluation_splits((split,))
    features = dict(Evaluator(exp, data).features(params, languages))
    if not distributed.is_writer():
        return
    sheets = example_sheets(features, data.splits)
    report.write_report(workdir, title=f"{config.method} on {config.data.name}", sheets=sheets)


def open_data(config: ConfigDict, workdir: Path) -> "DataModule":
    """The data set of the config, with the tokenizer that the run in `workdir` uses."""
    from data_pipelines.data_module import DataModule
    from data_pipelines.vocabulary import open_tokenizer
    from tipr_jax import experiment
    from tipr_jax.models import get_method
    from tipr_jax.paths import place
    from tipr_jax.pretrained import start

    method = get_method(config.method)
    # Process 0 generates the data and makes the vocabulary; on other disks every process does.
    with distributed.writer_first():
        data = DataModule(cast("RunConfig", config))
        data.tokenizer = open_tokenizer(
            method.tokenizer,
            config.data.vocab,
            experiment.make_model_config(method, config, {}).vocab_size,
            data.splits["train"],
            kept=(workdir, place(start.last_source(config.init_from) or workdir)),
        )
    return data


if __name__ == "__main__":
    app.run(main, flags_parser=command_line.parse)
