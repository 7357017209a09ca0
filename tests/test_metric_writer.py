"""MetricWriter: the record survives kills and resumes, other processes stay silent."""

import builtins
import json
import struct
import sys

import numpy as np
import pytest

from tipr_jax import metric_writer
from tipr_jax.metric_writer import MetricWriter


def records(workdir):
    return [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]


def event_steps(workdir):
    """(step, {tag: value}) of every scalar event in the run's TensorBoard files."""
    event_pb2 = pytest.importorskip("tensorboard.compat.proto.event_pb2")
    found = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        data = path.read_bytes()
        while data:
            (length,) = struct.unpack("<Q", data[:8])
            event = event_pb2.Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            if event.HasField("summary"):
                found.append((event.step, {v.tag: v.simple_value for v in event.summary.value}))
    return found


def test_scalars_are_written_at_once_and_readable(tmp_path):
    with MetricWriter(tmp_path / "run", 10) as writer:
        writer.write_scalars(1, {"train/loss": np.float32(0.5), "val/R1": 25})
        (line,) = records(tmp_path / "run")  # before close: a kill loses nothing
        writer.write_scalars(2, {"train/loss": float("nan")})
    assert line["step"] == 1 and line["train/loss"] == 0.5 and line["val/R1"] == 25.0
    assert line["time"] > 1.7e9
    assert records(tmp_path / "run")[1]["train/loss"] is None
    assert event_steps(tmp_path / "run")[0] == (1, {"train/loss": 0.5, "val/R1": 25.0})


def test_resume_drops_later_and_half_written_lines(tmp_path, capsys):
    with MetricWriter(tmp_path, 10) as writer:
        for step in (1, 2, 3, 4):
            writer.write_scalars(step, {"loss": step})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')  # killed while writing
    with MetricWriter(tmp_path, 10, start_step=2) as writer:
        writer.write_scalars(3, {"loss": 30})
    assert [(r["step"], r["loss"]) for r in records(tmp_path)] == [(1, 1), (2, 2), (3, 30)]
    assert "dropped 3 line(s) written after step 2" in capsys.readouterr().err
    assert not list(tmp_path.glob("*.tmp"))


def test_fresh_run_starts_a_new_record(tmp_path):
    for value in (1, 2):
        with MetricWriter(tmp_path, 10, tensorboard=False) as writer:
            writer.write_scalars(0, {"untrained/R1": value})
    assert [r["untrained/R1"] for r in records(tmp_path)] == [2]
    assert not (tmp_path / "tensorboard").exists()


def test_disabled_writer_does_nothing(tmp_path, capsys):
    with MetricWriter(tmp_path / "run", 10, enabled=False) as writer:
        writer.write_scalars(1, {"loss": 1})
        writer.progress(1, {"loss": 1})
        writer.message("hello")
    assert not (tmp_path / "run").exists()
    assert capsys.readouterr() == ("", "")


def test_without_tensorboard_the_record_is_still_written(tmp_path, monkeypatch, capsys):
    real_import = builtins.__import__

    def no_tensorboard(name, *args, **kwargs):
        if name.startswith("tensorboard"):
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", no_tensorboard)
    with MetricWriter(tmp_path, 10) as writer:
        writer.write_scalars(1, {"loss": 1})
    assert "tensorboard package is not installed" in capsys.readouterr().err
    assert len(records(tmp_path)) == 1


class Fetch:
    """A scalar that counts how often its value is fetched."""

    count = 0

    def __float__(self):
        Fetch.count += 1
        return 0.25


def test_progress_lines_without_a_terminal(tmp_path, monkeypatch, capsys):
    clock = iter(np.arange(0, 1e6, 0.5))
    monkeypatch.setattr(metric_writer.time, "monotonic", lambda: float(next(clock)))
    Fetch.count = 0
    with MetricWriter(tmp_path, 100, batch_size=8, log_seconds=10, tensorboard=False) as writer:
        for step in range(1, 101):
            writer.progress(step, {"train/sdm_loss": Fetch()})
        writer.message("done")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "step 1/100  sdm_loss 0.25"  # no rate: the first step compiles
    assert lines[-2].startswith("step 100/100  00:00 left  ")
    assert lines[-1] == "done"
    assert "images/s  sdm_loss 0.25" in lines[1]
    assert 3 <= len(lines) - 1 == Fetch.count <= 10  # values are fetched only to be shown


def test_progress_bar_on_a_terminal(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with MetricWriter(tmp_path, 6, start_step=2, batch_size=4, tensorboard=False) as writer:
        for step in range(3, 7):
            writer.progress(step, {"train/loss": 0.5})
        writer.message("evaluated")
    text = capsys.readouterr().err
    assert "6/6" in text and "images/s  loss 0.5" in text and "evaluated\n" in text


def test_reserved_names(tmp_path):
    with MetricWriter(tmp_path, 1, tensorboard=False) as writer:
        with pytest.raises(ValueError, match="'step' is reserved"):
            writer.write_scalars(1, {"step": 3})
        writer.close()  # and again on leaving
