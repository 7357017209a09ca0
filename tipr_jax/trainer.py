"""The training loop, in reading order: restore, step, log, evaluate, save."""

import logging
import math
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from tipr_jax import experiment
from tipr_jax.batch import abstract_batch, validate
from tipr_jax.checkpoints import Checkpoints
from tipr_jax.evaluator import Evaluator
from tipr_jax.experiment import Experiment
from tipr_jax.metric_writer import MetricWriter
from tipr_jax.results import evaluation_row
from tipr_jax.sharding import put_batch
from tipr_jax.train_state import TrainState, count_parameters, create_state
from tipr_jax.train_step import make_train_step

log = logging.getLogger("tipr_jax")


class NonFiniteLoss(ValueError):
    """A loss term became NaN or infinite."""


def train(exp: Experiment, data: Any, workdir: Path) -> TrainState:
    """Trains from the newest checkpoint of `workdir`, or from the beginning, to the last epoch.

    Raises:
      NonFiniteLoss: naming the term and the step.
      ValueError: a checkpoint of another model; an optimiser table, an interval or an
        evaluation split that does not fit.
      SystemExit: with code 0, after saving, when SIGTERM or SIGINT arrives.
    """
    config = exp.config
    check_config(config, data)
    per_epoch = data.steps_per_epoch
    total_steps = per_epoch * config.schedule.num_epochs
    optimizer, rates = experiment.make_optimizer(exp, per_epoch)
    abstract = experiment.abstract_state(exp, optimizer)
    train_step = jit_train_step(exp, optimizer, abstract)
    evaluator = Evaluator(exp, data)

    with Checkpoints(workdir, config.checkpoint.keep_last) as checkpoints, StopSignal() as stop:
        start, state = restore_or_init(exp, optimizer, abstract, checkpoints)
        experiment.save_config(config, workdir)  # not before: a refused run keeps its own
        with MetricWriter(
            workdir,
            total_steps,
            start_step=start,
            batch_size=config.data.batch_size,
            enabled=jax.process_index() == 0,
        ) as writer:
            writer.message(describe(exp, state, per_epoch, start))
            if start == 0:
                evaluate(evaluator, state, writer, 0)
            batches = data.train_batches(start)
            contract = abstract_batch(
                config.data.batch_size, tuple(config.data.image_size), config.data.text_length
            )
            for step in range(start + 1, total_steps + 1):
                began = time.perf_counter()
                batch = next(batches)
                waited = time.perf_counter() - began
                validate(batch, contract)
                state, metrics = train_step(state, put_batch(batch, exp.batch_sharding))
                metrics = check_finite(step, jax.device_get(metrics))
                writer.progress(step, metrics)
                if step % config.log_every_steps == 0:
                    seconds = time.perf_counter() - began
                    metrics |= {
                        "learning_rate": rates[(step - 1) // per_epoch].min(),
                        "images_per_second": config.data.batch_size / seconds,
                        "input_wait": waited / seconds,
                    }
                    writer.write_scalars(step, metrics)
                epoch, position = divmod(step, per_epoch)
                if step == total_steps or position == 0 and epoch % config.eval.every_epochs == 0:
                    score = evaluate(evaluator, state, writer, step)
                    checkpoints.save(step, state, score)
                elif step % config.checkpoint.every_steps == 0 or stop.requested:
                    checkpoints.save(step, state)
                if stop.requested:
                    checkpoints.wait()
                    writer.message(f"stopped by a signal, saved step {step}; rerun to continue")
                    raise SystemExit(0)
    return state


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
    step = make_train_step(exp.method, exp.model_config, exp.graphdef, optimizer, exp.keys[1])
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
    """Evaluates every configured split, logs the numbers, returns rank-1 of the selecting one."""
    config = evaluator.exp.config
    splits = evaluator.data.evaluation_splits(config.eval.splits)
    scores = {split: evaluator.metrics(state.params, split) for split in splits}
    writer.write_scalars(step, evaluation_row(scores))
    shown = "; ".join(
        f"{split} " + " ".join(f"{k} {v:.2f}" for k, v in s["t2i"].items())
        for split, s in scores.items()
    )
    writer.message(f"step {step}: {shown}")
    return scores[config.eval.select_on]["t2i"]["R1"]


def describe(exp: Experiment, state: TrainState, per_epoch: int, start: int) -> str:
    """One line about the run that begins."""
    config = exp.config
    resumed = f", continuing at step {start}" if start else ""
    return (
        f"{config.method} on {config.data.name}: {count_parameters(state.params):,} parameters, "
        f"{config.schedule.num_epochs} epochs x {per_epoch} steps of {config.data.batch_size}, "
        f"{exp.mesh.size} {jax.devices()[0].platform} device(s){resumed}"
    )


class StopSignal:
    """Turns SIGTERM and SIGINT into a request that the loop honours after the current step."""

    def __init__(self):
        self.requested = False

    def __enter__(self) -> "StopSignal":
        self._old = {s: signal.signal(s, self._stop) for s in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *exc) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _stop(self, number: int, frame: Any) -> None:
        if self.requested and number == signal.SIGINT:
            raise KeyboardInterrupt  # a second ctrl-C stops at once
        self.requested = True
