"""The training loop, in reading order: restore, step, log, evaluate, save.

Every process runs it, on its rows of the batch; process 0 alone prints and writes.
"""

import contextlib
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
import optax

from tipr_jax import distributed, experiment, optim, shutdown
from tipr_jax.analysis import cost
from tipr_jax.batch import validate
from tipr_jax.checkpoints import Checkpoints
from tipr_jax.evaluator import Evaluator, Interrupted
from tipr_jax.experiment import Experiment
from tipr_jax.metric_writer import MetricWriter
from tipr_jax.results import chosen_by, evaluation_row, selection_score
from tipr_jax.sharding import process_rows, put_batch
from tipr_jax.text import save_tokenizer
from tipr_jax.train_state import TrainState, count_parameters, create_state
from tipr_jax.train_step import make_train_step

log = logging.getLogger("tipr_jax")


class NonFiniteLoss(ValueError):
    """A loss term became NaN or infinite."""


class OutOfMemory(ValueError):
    """The devices cannot hold what the run needs."""


def train(exp: Experiment, data: Any, workdir: Path) -> TrainState:
    """Trains from the newest checkpoint of `workdir`, or from the beginning, to the last epoch.

    Raises:
      NonFiniteLoss: naming the term and the step.
      OutOfMemory: naming what to change.
      ValueError: a checkpoint of another model; an optimiser table, an interval or an
        evaluation split that does not fit.
      SystemExit: with code 0, after saving, when SIGTERM or SIGINT arrives at any process.
    """
    config = exp.config
    check_config(config, data)
    per_epoch = data.steps_per_epoch
    total_steps = per_epoch * config.schedule.num_epochs
    optimizer, _ = experiment.make_optimizer(exp, per_epoch)
    abstract = experiment.abstract_state(exp, optimizer)
    log.info(cost.describe(exp, abstract))
    train_step = jit_train_step(exp, optimizer, abstract)

    def is_evaluated(step: int) -> bool:
        epoch, position = divmod(step, per_epoch)
        return step == total_steps or position == 0 and epoch % config.eval.every_epochs == 0

    with (
        explained_out_of_memory(config),
        Checkpoints(workdir, config.checkpoint.keep_last) as checkpoints,
        shutdown.StopSignal() as stop,
    ):
        start, state = restore_or_init(exp, optimizer, abstract, checkpoints)
        experiment.save_config(config, workdir)  # not before: a refused run keeps its own
        if distributed.is_writer():
            save_tokenizer(data.tokenizer, workdir)
        with MetricWriter(
            workdir,
            total_steps,
            start_step=start,
            batch_size=config.data.batch_size,
            enabled=distributed.is_writer(),
        ) as writer:
            writer.message(describe(exp, state, per_epoch, start))
            evaluator = Evaluator(exp, data, stop.poll)
            meter = Meter(config, per_epoch, writer)
            if start == 0 or is_evaluated(start) and not checkpoints.has_score(start):
                evaluate_and_save(evaluator, checkpoints, state, writer, start)
            batches = device_batches(exp, data, start, meter)
            for step in range(start + 1, total_steps + 1):
                # The step is only dispatched here. While it runs, the metrics of the step before
                # are read and the next batch is copied to the devices.
                state, metrics = train_step(state, next(batches))
                meter.push(step, metrics)
                stopping = stop.poll()
                if is_evaluated(step):
                    meter.flush()
                    evaluate_and_save(evaluator, checkpoints, state, writer, step)
                    meter.restart()
                elif stopping or step % config.checkpoint.every_steps == 0:
                    meter.flush()
                    checkpoints.save(step, state)
                if stop.requested:
                    stop_here(checkpoints, writer, step)
            meter.flush()
    return state


def device_batches(
    exp: Experiment, data: Any, start: int, meter: "Meter"
) -> Iterator[dict[str, jax.Array]]:
    """The global batches from step `start` on, of which this process reads and feeds its rows."""
    rows = process_rows(exp.batch_sharding, exp.config.data.batch_size)
    contract = experiment.abstract_batch(exp, len(rows))
    batches = iter(data.train_batches(start, rows))
    while True:
        with meter.waiting():
            batch = next(batches)
        validate(batch, contract)
        yield put_batch(batch, exp.batch_sharding)


def evaluate_and_save(
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    state: TrainState,
    writer: MetricWriter,
    step: int,
) -> None:
    """Evaluates and saves `step` with its score; a request to stop ends the run in between.

    A run that is stopped during an evaluation makes it up when it continues.
    """
    try:
        score = evaluate(evaluator, state, writer, step)
    except Interrupted:
        if step:
            checkpoints.save(step, state)
        stop_here(checkpoints, writer, step)
    if step:  # step 0 is the initialisation again
        checkpoints.save(step, state, score)


def stop_here(checkpoints: Checkpoints, writer: MetricWriter, step: int) -> NoReturn:
    checkpoints.wait()
    done = f"saved step {step}" if step else "before the first step"
    writer.message(f"stopped by a signal, {done}; rerun to continue")
    raise SystemExit(0)


class Meter:
    """Reads the metrics of a step while the next one runs: checks, shows and logs them.

    images_per_second and input_wait (the share of the time that the loop waited for batches from
    the host) are those of the steps since the last log line, without compilation and evaluations.
    """

    def __init__(self, config: Any, per_epoch: int, writer: MetricWriter):
        self.config, self.writer = config, writer
        schedule, rate = config.schedule, config.optimizer.learning_rate
        table = optim.learning_rate_table(schedule, rate, (1.0,), per_epoch)[:, 0]
        self.rates = np.repeat(table, per_epoch * schedule.num_epochs // len(table))
        self._pending: tuple[int, dict] | None = None
        self._compiled = False
        self.restart()

    def restart(self) -> None:
        """Starts the clock of the interval anew."""
        self._began, self._steps, self._waited = time.perf_counter(), 0, 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self._waited += time.perf_counter() - began

    def push(self, step: int, metrics: dict[str, jax.Array]) -> None:
        """Takes the metrics of `step`, reads those of the step before."""
        before, self._pending = self._pending, (step, metrics)
        self._read(before)

    def flush(self) -> None:
        """Reads what is left. Before every save: a state after a NaN is never written."""
        before, self._pending = self._pending, None
        self._read(before)

    def _read(self, pending: tuple[int, dict] | None) -> None:
        if pending is None:
            return
        step, metrics = pending[0], check_finite(pending[0], jax.device_get(pending[1]))
        self._steps += 1
        self.writer.progress(step, metrics)
        if step % self.config.log_every_steps == 0:
            metrics |= {"learning_rate": self.rates[step - 1]}
            if self._compiled:
                seconds = time.perf_counter() - self._began
                metrics |= {
                    "images_per_second": self._steps * self.config.data.batch_size / seconds,
                    "input_wait": self._waited / seconds,
                }
            self.writer.write_scalars(step, metrics)
            self.restart()
        if not self._compiled:  # the first step's time is mostly compilation
            self._compiled = True
            self.restart()


@contextlib.contextmanager
def explained_out_of_memory(config: Any) -> Iterator[None]:
    """Turns the error of the devices into one line about what to change."""
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(
            f"out of memory with data.batch_size {config.data.batch_size}; use a smaller "
            "--config.data.batch_size (and --config.eval.batch_size), --config.remat=full, "
            "--config.micro_batches=2 (IRRA, IVT), or --config.mesh.rules=fully_sharded on several "
            "devices; "
            "what was saved stays, the same command continues from there"
        ) from error


def check_config(config: Any, data: Any) -> None:
    """Raises ValueError for what would stop the loop halfway, before anything is written."""
    intervals = {
        "log_every_steps": config.log_every_steps,
        "eval.every_epochs": config.eval.every_epochs,
        "checkpoint.every_steps": config.checkpoint.every_steps,
    }
    for field, value in intervals.items():
        if value < 1:
            raise ValueError(
                f"{field} is {value}, expected at least 1; for 'never' use --config.{field}=1000000"
            )
    splits = data.evaluation_splits(config.eval.splits)
    if config.eval.select_on not in splits:
        raise ValueError(
            f"eval.select_on is {config.eval.select_on!r}, but {config.data.name} has evaluation "
            f"splits {splits}; set --config.eval.select_on"
        )


def jit_train_step(
    exp: Experiment, optimizer: optax.GradientTransformation, abstract: TrainState
) -> Callable[[TrainState, dict], tuple[TrainState, dict]]:
    """The one place where the training step is compiled, with its layouts; donates the state."""
    step = make_train_step(
        exp.method,
        exp.model_config,
        exp.graphdef,
        optimizer,
        exp.keys[1],
        exp.config.micro_batches,
    )
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(layout, exp.batch_sharding),
        out_shardings=(layout, exp.replicated),
    )


def restore_or_init(
    exp: Experiment,
    optimizer: optax.GradientTransformation,
    abstract: TrainState,
    checkpoints: Checkpoints,
) -> tuple[int, TrainState]:
    """(steps done, state): the newest checkpoint, else fresh or pre-trained parameters."""
    if restored := checkpoints.restore_latest(abstract):
        return restored
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    make = jax.jit(lambda p: create_state(p, optimizer), out_shardings=layout, donate_argnums=0)
    return 0, make(experiment.initial_params(exp))


def check_finite(step: int, metrics: dict[str, np.ndarray]) -> dict[str, float]:
    """Python floats of a step's metrics; raises NonFiniteLoss if one is NaN or infinite."""
    values = {name: float(value) for name, value in metrics.items()}
    if bad := sorted(name for name, value in values.items() if not math.isfinite(value)):
        shown = ", ".join(f"{name} = {values[name]}" for name in bad)
        raise NonFiniteLoss(
            f"step {step}: {shown}; the last checkpoint is from before this step. "
            "Lower --config.optimizer.learning_rate or raise --config.schedule.warmup_epochs"
        )
    return values


def evaluate(evaluator: Evaluator, state: TrainState, writer: MetricWriter, step: int) -> float:
    """Evaluates every configured split, logs the numbers, returns the selecting one's score."""
    config = evaluator.exp.config
    splits = evaluator.data.evaluation_splits(config.eval.splits)
    scores = evaluator.evaluate(state.params, splits)
    writer.write_scalars(step, evaluation_row(scores))
    shown = "; ".join(
        f"{split} " + " ".join(f"{k} {v:.2f}" for k, v in chosen_by(s).items())
        for split, s in scores.items()
    )
    writer.message(f"step {step}: {shown}")
    return selection_score(scores[config.eval.select_on], config.eval.select_by)


def describe(exp: Experiment, state: TrainState, per_epoch: int, start: int) -> str:
    """One line about the run that begins."""
    config = exp.config
    resumed = f", continuing at step {start}" if start else ""
    return (
        f"{config.method} on {config.data.name}: {count_parameters(state.params):,} parameters, "
        f"{config.schedule.num_epochs} epochs x {per_epoch} steps of {config.data.batch_size}, "
        f"{exp.mesh.size} {jax.devices()[0].platform} device(s){resumed}"
    )
