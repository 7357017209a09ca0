"""What a run says while it trains: progress bar, `metrics.jsonl`, TensorBoard. Process 0 only.

`metrics.jsonl` has one JSON object per line: `{"step": 7, "time": unix seconds, name: value}`.
It is the record that `report.py` reads; TensorBoard, where installed, shows the same numbers live.
"""

import json
import math
import os
import pathlib
import socket
import sys
import time
from collections.abc import Mapping
from typing import Any, BinaryIO, SupportsFloat, TextIO

import tqdm

from tipr_jax import run_files
from tipr_jax.bucket import is_address
from tipr_jax.paths import place

_BAR_INTERVAL = 0.5  # seconds between refreshes of the bar's loss terms
_BAR_FORMAT = "{percentage:3.0f}% |{bar:20}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}]{postfix}"


class MetricWriter:
    """Progress, scalars and messages of one run.

    Scalars may be anything `float()` takes. A JAX array is only fetched when its value is shown or
    written, so calling `progress` at every step does not make the accelerator wait.

    Args:
      workdir: the run directory; made if absent. In a bucket there are no TensorBoard files, and
        `metrics.jsonl` appears there twice a minute and when `keep` or `close` is called.
      total_steps: the step at which training ends, for the bar and the ETA.
      start_step: the step training resumes from; 0 for a fresh run. Lines of `metrics.jsonl` with a
        later step, written by a run that was killed, are dropped; a fresh run starts a new file.
      batch_size: images per step, for images/s.
      enabled: False (every process but the first) makes all methods do nothing.
      tensorboard: also write event files to `workdir/tensorboard`; needs the `tensorboard` package.
      log_seconds: seconds between progress lines where standard error is not a terminal.
    """

    def __init__(
        self,
        workdir: str | os.PathLike,
        total_steps: int,
        *,
        start_step: int = 0,
        batch_size: int = 1,
        enabled: bool = True,
        tensorboard: bool = True,
        log_seconds: float = 30.0,
    ):
        self._progress: _Progress | None = None
        self._jsonl: TextIO | _BucketFile | None = None
        self._events: _EventFile | None = None
        if not enabled:
            return
        workdir = place(workdir)
        workdir.mkdir(parents=True, exist_ok=True)
        self._progress = _Progress(start_step, total_steps, batch_size, log_seconds)
        path = workdir / run_files.METRICS
        if dropped := _keep_lines_up_to(path, start_step):
            self.message(f"{path}: dropped {dropped} line(s) written after step {start_step}")
        if is_address(path):
            self._jsonl = _BucketFile(path)
            self.message(f"no TensorBoard files in a bucket; {run_files.REPORT} has the curves")
            return
        self._jsonl = path.open("a", encoding="utf-8")
        if tensorboard:
            self._events = self._open_events(workdir / run_files.TENSORBOARD, start_step)

    def _open_events(self, directory: pathlib.Path, start_step: int) -> "_EventFile | None":
        try:
            return _EventFile(directory, start_step)
        except ImportError:
            self.message("no TensorBoard files: the tensorboard package is not installed")
            return None

    def write_scalars(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Appends one line to `metrics.jsonl`, flushed, and the same values to TensorBoard.

        NaN and infinity, which JSON does not know, are written as null.

        Raises:
          ValueError: a scalar is called "step" or "time".
        """
        if self._jsonl is None:
            return
        if reserved := {"step", "time"} & set(scalars):
            raise ValueError(f"scalar name {min(reserved)!r} is reserved; rename the metric")
        values = {name: float(value) for name, value in scalars.items()}
        line = {"step": int(step), "time": round(time.time(), 3)}
        line |= {name: v if math.isfinite(v) else None for name, v in values.items()}
        self._jsonl.write(json.dumps(line) + "\n")
        self._jsonl.flush()
        if self._events:
            self._events.write_scalars(step, values)

    def progress(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        """Says that `step` steps are done; shows the scalars, images/s and the time left."""
        if self._progress:
            self._progress.update(step, scalars)

    def message(self, text: str) -> None:
        """Prints a line without breaking the progress bar."""
        if self._progress:
            self._progress.message(text)

    def keep(self) -> None:
        """Makes what was written outlast a killed process; to be called before a checkpoint."""
        if isinstance(self._jsonl, _BucketFile):
            self._jsonl.save()

    def close(self) -> None:
        """Closes bar and files; nothing happens the second time."""
        for part in (self._progress, self._jsonl, self._events):
            if part is not None:
                part.close()

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class _Progress:
    """A bar on a terminal, otherwise a line now and then; on standard error."""

    def __init__(self, start_step: int, total_steps: int, batch_size: int, log_seconds: float):
        self._total, self._batch_size = total_steps, batch_size
        self._on_terminal = sys.stderr.isatty()
        self._interval = _BAR_INTERVAL if self._on_terminal else log_seconds
        self._shown_step = start_step
        self._shown_time: float | None = None
        self._bar = tqdm.tqdm(
            total=total_steps,
            initial=start_step,
            unit="step",
            dynamic_ncols=True,
            disable=not self._on_terminal,
            bar_format=_BAR_FORMAT,
        )

    def update(self, step: int, scalars: Mapping[str, SupportsFloat]) -> None:
        self._bar.update(step - self._bar.n)
        before, last = self._shown_time, step >= self._total
        if before is not None and not last and time.monotonic() - before < self._interval:
            return
        words = [f"{name.rpartition('/')[2]} {float(v):.4g}" for name, v in scalars.items()]
        now = time.monotonic()  # after float(), which waits for the device
        if before is not None:  # the first step's time is mostly compilation
            rate = max(step - self._shown_step, 1) / max(now - before, 1e-9)
            words.insert(0, f"{rate * self._batch_size:.4g} images/s")
            if not self._on_terminal:
                words.insert(0, tqdm.tqdm.format_interval((self._total - step) / rate) + " left")
        self._shown_step, self._shown_time = step, now
        if self._on_terminal:
            self._bar.set_postfix_str("  ".join(words))
        else:
            self.message("  ".join([f"step {step}/{self._total}", *words]))

    def message(self, text: str) -> None:
        self._bar.write(text, file=sys.stderr)
        sys.stderr.flush()

    def close(self) -> None:
        self._bar.close()


def _keep_lines_up_to(path: pathlib.Path, step: int) -> int:
    """Drops the lines of later steps and half-written ones, atomically; returns how many."""
    if not path.exists():
        return 0
    lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    kept = [line for line in lines if step > 0 and _step_of(line) <= step]
    draft = path.with_name(path.name + ".tmp")
    draft.write_text("".join(line + "\n" for line in kept), "utf-8")
    draft.replace(path)
    return len(lines) - len(kept)


def _step_of(line: str) -> float:
    """The line's step; infinity for a line that is not a whole record."""
    try:
        return float(json.loads(line)["step"])
    except (ValueError, TypeError, KeyError):
        return math.inf


class _BucketFile:
    """A text file in a bucket, to which nothing can be appended: it is written whole at times.

    seconds: between two times. A killed process loses the lines after the last one.
    """

    def __init__(self, path: pathlib.Path, seconds: float = 30.0):
        self._path, self._seconds = path, seconds
        self._lines = [path.read_text("utf-8")] if path.exists() else []
        self._saved, self._when = len(self._lines), time.monotonic()

    def write(self, line: str) -> None:
        self._lines.append(line)

    def flush(self) -> None:
        if time.monotonic() - self._when >= self._seconds:
            self.save()

    def save(self) -> None:
        if self._saved < len(self._lines):
            self._path.write_text("".join(self._lines), "utf-8")
        self._saved, self._when = len(self._lines), time.monotonic()

    def close(self) -> None:
        self.save()


class _EventFile:
    """A TensorBoard event file with scalars, written without TensorFlow.

    Raises:
      ImportError: the tensorboard package is not installed.
    """

    def __init__(self, directory: pathlib.Path, start_step: int):
        from tensorboard.compat.proto import event_pb2, summary_pb2
        from tensorboard.summary.writer.record_writer import RecordWriter

        # Protobuf makes the contents of these modules at import; no type checker sees them.
        events: Any = event_pb2
        summaries: Any = summary_pb2
        self._event, self._summary = events.Event, summaries.Summary
        directory.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time():.0f}.{socket.gethostname()}.{os.getpid()}"
        file: BinaryIO = (directory / name).open("ab")
        self._records = RecordWriter(file)
        self._write(file_version="brain.Event:2")
        # A session start makes TensorBoard forget what an earlier, killed run wrote from here on.
        start = events.SessionLog(status=events.SessionLog.START)
        self._write(step=start_step + 1 if start_step else 0, session_log=start)

    def write_scalars(self, step: int, values: Mapping[str, float]) -> None:
        value = [self._summary.Value(tag=k, simple_value=v) for k, v in values.items()]
        self._write(step=step, summary=self._summary(value=value))

    def _write(self, **fields: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **fields).SerializeToString())
        self._records.flush()

    def close(self) -> None:
        self._records.close()
