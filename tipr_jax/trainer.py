"""The training loop, in reading order: restore, step, log, evaluate, save.

Every process runs it, on its rows of the batch; process 0 alone prints and writes.
"""

import contextlib
import dataclasses
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import jax
import optax
from ml_collections import ConfigDict

from tipr_jax import distributed, experiment, optim, run_files, run_identity, shutdown
from tipr_jax.analysis import cost
from tipr_jax.batch import validate
from tipr_jax.checkpoints import Checkpoints, check_room
from tipr_jax.data import Data
from tipr_jax.epoch_hook import PairPass
from tipr_jax.evaluator import Evaluator, Interrupted
from tipr_jax.experiment import Experiment
from tipr_jax.meter import Meter
from tipr_jax.metric_writer import MetricWriter
from tipr_jax.results import (
    Evaluation,
    chosen_by,
    criterion_of,
    evaluation_row,
    from_row,
    read_evaluations,
    select,
    selection_score,
)
from tipr_jax.sharding import process_rows, put_batch
from tipr_jax.text import save_tokenizer
from tipr_jax.text.reading import share_cut
from tipr_jax.train_state import TrainState, count_parameters
from tipr_jax.train_step import make_train_step

log = logging.getLogger("tipr_jax")


class OutOfMemory(ValueError):
    """The devices cannot hold what the run needs."""


def train(exp: Experiment, data: Data, workdir: Path) -> TrainState:
    """Trains from the newest checkpoint of `workdir`, or from the beginning, to the last epoch.

    Raises:
      NonFiniteLoss: naming the term and the step.
      OutOfMemory: naming what to change.
      ValueError: a checkpoint of another model, or of other data or steps (`run_identity`); no
        room on the disk; an optimiser table, an interval or an evaluation split that does not fit.
      SystemExit: after saving, with code 0 when SIGTERM arrives at any process, with code 130
        after Ctrl-C.
    """
    config = exp.config
    check_config(config, data)
    facts = run_identity.data_facts(data)
    run_identity.check_unchanged(workdir, config, facts)
    per_epoch = data.steps_per_epoch
    optimizer, _ = experiment.make_optimizer(exp, per_epoch)
    abstract = experiment.abstract_state(exp, optimizer, data.num_pairs)
    check_room(workdir, abstract, config.checkpoint.keep_last)
    log.info(cost.describe(exp, abstract))
    step_function = jit_train_step(exp, optimizer, abstract)
    criterion = criterion_of(config.eval)
    with (
        explained_out_of_memory(config, exp.method.parts is not None),
        Checkpoints(workdir, config.checkpoint.keep_last, criterion=criterion) as checkpoints,
        shutdown.StopSignal() as stop,
    ):
        start, state = restore_or_init(exp, optimizer, abstract, checkpoints)
        # Not before: a run that is refused keeps its own.
        run_files.save_config(config, workdir, dataclasses.asdict(exp.model_config), facts)
        if distributed.is_writer():
            save_tokenizer(data.tokenizer, workdir)
        with MetricWriter(
            workdir,
            per_epoch * optim.epochs(config.schedule),
            start_step=start,
            batch_size=config.data.batch_size,
            enabled=distributed.is_writer(),
        ) as writer:
            writer.message(describe(exp, state, per_epoch, start))
            tell_cut_captions(data, config.data.text_length)
            earlier = {e.step: e for e in read_evaluations(workdir) if e.step <= start}
            run = Run(exp, data, step_function, checkpoints, writer, stop, earlier)
            return run.loop(state, start)


class Run:
    """What the loop works with, from one step to the next."""

    def __init__(
        self,
        exp: Experiment,
        data: Data,
        step_function: Callable[[TrainState, dict], tuple[TrainState, dict]],
        checkpoints: Checkpoints,
        writer: MetricWriter,
        stop: shutdown.StopSignal,
        evaluations: dict[int, Evaluation],
    ):
        self.evaluations = evaluations  # of this run so far, by step; some are made twice
        self.exp, self.data, self.config = exp, data, exp.config
        self.step_function = step_function
        self.checkpoints, self.writer, self.stop = checkpoints, writer, stop
        self.evaluator = Evaluator(exp, data, stop.poll)
        self.pair_pass = PairPass(exp, data, stop.poll) if exp.method.epoch_hook else None
        self.per_epoch = data.steps_per_epoch
        self.total_steps = self.per_epoch * optim.epochs(exp.config.schedule)
        self.meter = Meter(exp.config, self.per_epoch, writer)

    def loop(self, state: TrainState, start: int) -> TrainState:
        """Trains from step `start` to the end, or until evaluations no longer improve."""
        meter = self.meter
        if start and self.has_stalled():
            return state
        first = start == 0 or self.is_evaluated(start) and not self.checkpoints.is_evaluated(start)
        if first:
            self.evaluate_and_save(state, start)
        batches = device_batches(self.exp, self.data, start, meter)
        for step in range(start + 1, self.total_steps + 1):
            if self.pair_pass and (step - 1) % self.per_epoch == 0:
                state = self.before_epoch(state, step - 1)
            # The step is only dispatched here. While it runs, the metrics of the step before
            # are read and the next batch is copied to the devices.
            state, metrics = self.step_function(state, next(batches))
            meter.push(step, metrics)
            stopping = self.stop.poll()
            if self.is_evaluated(step):
                meter.flush()
                self.evaluate_and_save(state, step)
                meter.restart()
                if self.has_stalled():
                    break
            elif stopping or step % self.config.checkpoint.every_steps == 0:
                meter.flush()
                self.save(state, step)
            if self.stop.requested:
                self.stop_here(step)
        meter.flush()
        return state

    def has_stalled(self) -> bool:
        """Whether the last `eval.patience` evaluations brought nothing better; says so, if so."""
        patience, criterion = self.config.eval.patience, criterion_of(self.config.eval)
        best = select(self.evaluations.values(), criterion)
        if not patience or best is None:
            return False
        since = sum(step > best.step for step in self.evaluations)
        if since < patience:
            return False
        self.writer.message(
            f"stopped early: step {best.step} is the best on {criterion.select_on}, and "
            f"{since} evaluations since brought nothing better (--config.eval.patience)"
        )
        return True

    def is_evaluated(self, step: int) -> bool:
        """Whether the run evaluates itself at this step."""
        epoch, position = divmod(step, self.per_epoch)
        due = position == 0 and epoch % self.config.eval.every_epochs == 0
        return due or step == self.total_steps

    def before_epoch(self, state: TrainState, step: int) -> TrainState:
        """`state` with what the method's epoch hook finds out about the pairs."""
        assert self.pair_pass, "the method has no hook before an epoch"
        self.meter.flush()
        with self.saved_if_stopped(state, step):
            state = self.pair_pass(state, step // self.per_epoch)
        self.meter.restart()
        return state

    def evaluate_and_save(self, state: TrainState, step: int) -> None:
        """Evaluates and saves `step`; a request to stop ends the run in between.

        A run that is stopped during an evaluation makes it up when it continues.
        """
        with self.saved_if_stopped(state, step):
            row = evaluate(self.evaluator, state, self.writer, step)
        if evaluation := from_row(step, row):
            self.evaluations[step] = evaluation
        if step:  # step 0 is the initialisation again
            self.save(state, step, row)

    def save(self, state: TrainState, step: int, row: dict[str, float] | None = None) -> None:
        """Saves `step` and, before it, its record. row: of its evaluation."""
        self.writer.keep()
        self.checkpoints.save(step, state.as_tree(), row)

    @contextlib.contextmanager
    def saved_if_stopped(self, state: TrainState, step: int) -> Iterator[None]:
        """Saves `step` and ends the run if a request to stop interrupts what happens inside."""
        try:
            yield
        except Interrupted:
            if step:
                self.save(state, step)
            self.stop_here(step)

    def stop_here(self, step: int) -> NoReturn:
        self.checkpoints.wait()
        done = f"saved step {step}" if step else "before the first step"
        self.writer.message(f"stopped by a signal, {done}; rerun to continue")
        raise SystemExit(self.stop.exit_code)


def device_batches(
    exp: Experiment, data: Data, start: int, meter: Meter
) -> Iterator[dict[str, jax.Array]]:
    """The global batches from step `start` on, of which this process reads and feeds its rows."""
    rows = process_rows(exp.batch_sharding, exp.config.data.batch_size)
    contract = experiment.abstract_batch(exp, len(rows))
    batches = iter(data.train_batches(start, rows, exp.column_specs))
    while True:
        with meter.waiting():
            batch = next(batches)
        validate(batch, contract)
        yield put_batch(batch, exp.batch_sharding)


@contextlib.contextmanager
def explained_out_of_memory(config: ConfigDict, can_be_cut: bool) -> Iterator[None]:
    """Turns the error of the devices into one line about what to change.

    can_be_cut: whether the method's objective works in micro-batches.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise OutOfMemory(
            f"out of memory with data.batch_size {config.data.batch_size}; use a smaller "
            "--config.data.batch_size (and --config.eval.batch_size), --config.remat=full"
            f"{', --config.micro_batches=2' if can_be_cut else ''}, or on several devices "
            "--config.mesh.rules=fully_sharded; what was saved stays, the same command continues "
            "from there"
        ) from error


def check_config(config: ConfigDict, data: Data) -> None:
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
    if config.eval.patience < 0:
        raise ValueError(f"eval.patience is {config.eval.patience}, expected 0 (never) or more")
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
    if restored := checkpoints.restore_latest(abstract.as_tree()):
        step, tree = restored
        return step, TrainState(**tree)
    layout = jax.tree.map(lambda x: x.sharding, abstract)
    num_pairs = max(map(len, abstract.pairs.values()), default=0)
    pairs = experiment.initial_pairs(exp, num_pairs)
    make = jax.jit(
        lambda weights, pairs: experiment.new_state(exp, weights, optimizer, pairs),
        out_shardings=layout,
        donate_argnums=0,
    )
    return 0, make(experiment.initial_params(exp), pairs)


def evaluate(
    evaluator: Evaluator, state: TrainState, writer: MetricWriter, step: int
) -> dict[str, float]:
    """Evaluates every configured split and logs the numbers; returns them as a flat row."""
    config = evaluator.config
    splits = evaluator.data.evaluation_splits(config.eval.splits)
    scores = evaluator.evaluate(state.weights, splits)
    # Refuses a metric that does not exist before the first checkpoint is due.
    selection_score(scores[config.eval.select_on], config.eval.select_by)
    row = evaluation_row(scores, config.eval.rerank_k)
    writer.write_scalars(step, row)
    shown = "; ".join(
        f"{split} " + " ".join(f"{k} {v:.2f}" for k, v in chosen_by(s).items())
        for split, s in scores.items()
    )
    writer.message(f"step {step}: {shown}")
    return row


def tell_cut_captions(data: Data, length: int) -> None:
    """Says how many captions the model does not read to the end, if it is worth saying."""
    share = share_cut(data.tokenizer, data.splits["train"].caption, length)
    if share >= 0.001:
        log.info(
            "%.1f %% of the training captions have more than %d tokens, their ends are not read "
            "(--config.data.text_length)",
            100 * share, length,
        )  # fmt: skip


def describe(exp: Experiment, state: TrainState, per_epoch: int, start: int) -> str:
    """One line about the run that begins."""
    config = exp.config
    resumed = f", continuing at step {start}" if start else ""
    return (
        f"{config.method} on {config.data.name}: {count_parameters(state.params):,} parameters, "
        f"{optim.epochs(config.schedule)} epochs x {per_epoch} steps of {config.data.batch_size}, "
        f"{exp.mesh.size} {jax.devices()[0].platform} device(s){resumed}"
    )
