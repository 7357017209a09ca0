"""Reads the metrics of every training step: checks that they are finite, shows and logs them."""

import contextlib
import math
import time
from collections.abc import Iterator

import jax
import numpy as np
from ml_collections import ConfigDict

from tipr_jax import optim
from tipr_jax.metric_writer import MetricWriter


class NonFiniteLoss(ValueError):
    """A loss term became NaN or infinite."""


class Meter:
    """Reads the metrics of a step while the next one runs: checks, shows and logs them.

    images_per_second and input_wait (the share of the time that the loop waited for batches from
    the host) cover the steps since the last log line, without compilation and evaluations.
    """

    def __init__(self, config: ConfigDict, per_epoch: int, writer: MetricWriter):
        self.config, self.writer = config, writer
        schedule, rate = config.schedule, config.optimizer.learning_rate
        table = optim.learning_rate_table(schedule, rate, (1.0,), per_epoch)[:, 0]
        self.rates = np.repeat(table, per_epoch * optim.epochs(schedule) // len(table))
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
        """Takes the metrics of `step`, reads the metrics of the step before."""
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
