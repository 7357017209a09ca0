"""A run in a bucket: what a local run leaves, killed or not, and one line for what goes wrong.

The bucket is on this machine (`gcs_server`); what talks to it is what talks to Google's: gcsfs,
TensorStore and google-cloud-storage. Not tested: credentials, quotas, hierarchical namespaces.
"""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from typing import Any

import gcs_server
import jax
import numpy as np
import pytest
from machine import HANGS, environment
from test_distributed import ROOT, free_port

from data_pipelines.datasets import annotations
from data_pipelines.images import decoded_cache
from tipr_jax import bucket, checkpoints, main, run_files
from tipr_jax.metric_writer import MetricWriter
from tipr_jax.paths import absolute, place, run_path, written_whole
from tipr_jax.run_lock import LOCK, locked
from tipr_jax.text import load_tokenizer, save_tokenizer, wordpiece

if importlib.util.find_spec("gcsfs") is None:
    pytest.skip("gcsfs is not installed: pip install 'tipr_jax[gcs]'", allow_module_level=True)

RUN = "gs://bucket/runs/one"
UNLIKE = ("time", "images_per_second", "input_wait")  # of two runs that are the same


@pytest.fixture(scope="session")
def _server():
    import fsspec.config

    # One for all tests of a process, for TensorStore reads its address once.
    with gcs_server.serving() as server, pytest.MonkeyPatch.context() as patch:
        for name, value in gcs_server.environment(server).items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        bucket._prepare.cache_clear()
        yield server
    bucket._prepare.cache_clear()


@pytest.fixture
def server(_server):
    """The storage service with an empty bucket."""
    _server.objects.clear()
    _server.fail_writes = ""
    return _server


@pytest.fixture
def config(tiny_config):
    tiny_config.eval.splits = ("test",)
    tiny_config.checkpoint.every_steps = 2
    return tiny_config


def rows(workdir) -> list[dict]:
    """What a run logged, without what depends on the clock."""
    lines = [row for _, row in run_files.read_metrics(workdir)]
    return [{k: v for k, v in row.items() if k not in UNLIKE} for row in lines]


def assert_same_run(one, other):
    for step in run_files.saved_steps(one):
        expected, found = (checkpoints.load_run_params(place, step)[1] for place in (one, other))
        jax.tree.map(np.testing.assert_array_equal, expected, found)
    assert run_files.saved_steps(one) == run_files.saved_steps(other)
    assert rows(one) == rows(other)
    # The hash is of the config, which may name the directory of a warm start.
    results = [json.loads((place(p) / run_files.RESULTS).read_text()) for p in (one, other)]
    assert results[0] | {"config_hash": results[1]["config_hash"]} == results[1]


class Killed(BaseException):
    """Ends a run as no error that it handles does."""


def killed_at(step: int, monkeypatch) -> None:
    """Lets the next run end at a step, without any of its clean endings."""
    progress = MetricWriter.progress

    def end(self, now, scalars):
        progress(self, now, scalars)
        if now == step:
            monkeypatch.undo()
            monkeypatch.setattr(MetricWriter, "close", lambda self: None)
            raise Killed

    monkeypatch.setattr(MetricWriter, "progress", end)


@pytest.mark.slow
def test_every_mode(server, config, tmp_path, capsys):
    """From the warm start to the exported model, a run is what a local run is, to the bit."""
    config.warm_start = {"model": {"losses": ("itc",)}, "schedule": {"num_epochs": 1}}
    for workdir in (tmp_path / "run", RUN):
        main.run(config, workdir, "train")
    assert_same_run(tmp_path / "run", RUN)
    assert rows(tmp_path / "run" / "warm_start") == rows(f"{RUN}/warm_start")
    here = {str(p.relative_to(tmp_path / "run")) for p in (tmp_path / "run").rglob("*.png")}
    there = {n.removeprefix("runs/one/") for n in server.objects if n.endswith(".png")}
    assert here == there and len(here) > 1
    assert "report/" in server.objects["runs/one/report.html"].data.decode()
    capsys.readouterr()

    for workdir in (tmp_path / "run", RUN):
        for mode in ("eval", "embed", "export"):
            main.run(config, workdir, mode)
    shown = capsys.readouterr().out
    table = [line for line in shown.splitlines() if line.startswith("given weights")]
    assert len(table) == 2 and table[0] == table[1]
    config.init_from = f"{RUN}/export"
    main.run(config, tmp_path / "other", "eval")
    assert table[0].split()[4:] == next(
        line.split()[4:] for line in capsys.readouterr().out.splitlines() if "given" in line
    )
    (tmp_path / "test.npz").write_bytes(server.objects["runs/one/embeddings/test.npz"].data)
    local = np.load(tmp_path / "run" / "embeddings" / "test.npz")
    copy = np.load(tmp_path / "test.npz")
    assert set(local) == set(copy)
    assert all(np.array_equal(local[name], copy[name]) for name in local)


@pytest.mark.slow
def test_killed_and_continued(server, config, tmp_path, monkeypatch):
    main.run(config, tmp_path / "whole", "train")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        killed_at(3, patch)
        main.run(config, RUN, "train")
    assert [row["step"] for row in rows(RUN)] == [0, 1, 2]
    # A save that the end cut off: arrays, but not the file that says that all of them are there.
    server.put("runs/one/checkpoints/4/default/d/half", b"half", None)
    main.run(config, RUN, "train")
    assert_same_run(tmp_path / "whole", RUN)
    assert "runs/one/checkpoints/4/default/d/half" not in server.objects


@pytest.mark.slow
def test_an_unreadable_step_is_set_aside(server, config, tmp_path):
    main.run(config, RUN, "train")
    expected, last = rows(RUN), max(run_files.saved_steps(RUN))
    damaged = [name for name in server.objects if f"checkpoints/{last}/default/" in name]
    for name in damaged:
        if "/d/" in name or "manifest" in name:
            server.put(name, b"\0" * 20, None)
    main.run(config, RUN, "train")
    assert any(f"checkpoints/unreadable_{last}/" in name for name in server.objects)
    assert rows(RUN) == expected and last in run_files.saved_steps(RUN)


def test_the_record_is_written_at_times(server):
    path = place(RUN) / run_files.METRICS
    with MetricWriter(RUN, 10) as writer:
        writer.write_scalars(1, {"loss": 1.0})
        assert not path.exists()
        writer.keep()
        assert len(rows(RUN)) == 1
        writer.write_scalars(2, {"loss": 1.0})
        record: Any = writer._jsonl
        record._seconds = 0
        writer.write_scalars(3, {"loss": 1.0})
        assert len(rows(RUN)) == 3
        record._seconds = 1e9
        writer.write_scalars(4, {"loss": 1.0})
    assert [row["step"] for row in rows(RUN)] == [1, 2, 3, 4]
    with MetricWriter(RUN, 10, start_step=2) as writer:
        writer.write_scalars(3, {"loss": 2.0})
    assert [(row["step"], row["loss"]) for row in rows(RUN)] == [(1, 1), (2, 1), (3, 2)]
    assert list(server.objects) == ["runs/one/metrics.jsonl"]


def test_a_vocabulary(server):
    tokenizer = wordpiece.train(["a man in a red coat", "a woman with a bag"], 200)
    save_tokenizer(tokenizer, RUN)
    again = load_tokenizer("wordpiece", f"{RUN}/tokenizer")
    assert np.array_equal(again(["a red bag"], 8), tokenizer(["a red bag"], 8))
    with pytest.raises(FileNotFoundError, match="no WordPiece vocabulary"):
        load_tokenizer("wordpiece", "gs://bucket/elsewhere")


def test_the_lock_says_who_came_last(server, caplog):
    caplog.set_level("INFO", "tipr_jax")
    with locked(place(RUN)):
        (place(RUN) / "config.json").write_text("{}")
    assert "a bucket has no locks" in caplog.text
    assert f"process {os.getpid()}" in server.objects[f"runs/one/{LOCK}"].data.decode()
    server.objects.clear()
    with pytest.raises(ValueError, match="refused"), locked(place(RUN)):
        raise ValueError("refused")
    assert not server.objects


@pytest.mark.parametrize("given", ["gs://bucket/a/b", "gs:/bucket/a/b", "gs://bucket/a/b/"])
def test_forms_of_an_address(server, given):
    for path in (place(given), absolute(given), run_path(given, "--workdir"), place(place(given))):
        assert str(path) == f"{path}" == os.fspath(path) == "gs://bucket/a/b"
        assert str(path / "c") == "gs://bucket/a/b/c" and str(path.parent) == "gs://bucket/a"
        assert str(path.with_name("d")) == "gs://bucket/a/d" and path.name == "b"


@pytest.mark.parametrize("given", ["gs://", "gs:/", "gs:///run"])
def test_an_address_without_a_bucket(server, given):
    with pytest.raises(ValueError, match="--workdir=.*expected gs://BUCKET/PATH"):
        run_path(given, "--workdir")


def test_a_bucket_that_is_not_there(server, config):
    with pytest.raises(ValueError, match=r"--workdir=gs://nowhere/run: no such bucket"):
        main.run(config, "gs://nowhere/run", "train")


@pytest.mark.parametrize("field", ["init_from", "data.cache_dir", "data.vocab"])
def test_a_bucket_of_somebody_else(server, config, tmp_path, field):
    config.update_from_flattened_dict({field: "gs://forbidden/x"})
    with pytest.raises(ValueError, match=f"--config.{field}=gs://forbidden/x: .*roles/storage"):
        main.run(config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()


def test_without_gcsfs(server, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    bucket._prepare.cache_clear()
    with pytest.raises(ValueError, match=r"--workdir=gs://bucket/run: .*install 'tipr_jax\[gcs\]'"):
        run_path("gs://bucket/run", "--workdir")


@pytest.mark.parametrize(
    "part, error",
    [
        ("checkpoints", "cannot save into gs://bucket/runs/one/checkpoints .*see to its access"),
        (LOCK, "no storage.objects.create access"),
    ],
)
def test_a_bucket_that_cannot_be_written(server, config, part, error):
    server.fail_writes = f"runs/one/{part}"
    with pytest.raises((ValueError, OSError), match=error):
        main.run(config, RUN, "train")


def test_a_directory_appears_at_the_end(server):
    with pytest.raises(KeyError), written_whole(f"{RUN}/export") as draft:
        (draft / "config.json").write_text("{}")
        raise KeyError
    assert not server.objects
    written = []
    put, server.put = server.put, lambda name, *rest: (written.append(name), put(name, *rest))[1]
    try:
        with written_whole(f"{RUN}/export") as draft:
            (draft / "config.json").write_text("{}")
            (draft / "params" / "d").mkdir(parents=True)
            (draft / "params" / "d" / "array").write_bytes(b"1" * 2**23)
    finally:
        del server.put
    assert written == ["runs/one/export/params/d/array", "runs/one/export/config.json"]
    assert len(server.objects[written[0]].data) == 2**23
    with pytest.raises(ValueError, match="gs://bucket/runs/one/export exists and is not empty"):
        with written_whole(f"{RUN}/export"):
            pass


@pytest.fixture
def open_cache(server, tmp_path, monkeypatch):
    """Opens the image cache of a data set in the bucket, as a host with its own disk."""

    def opened(root, disk: str, may_decode: bool = True):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / disk))
        split = annotations.load_dataset("cuhk_pedes", str(root))["test"]

        def read(image_id: int) -> np.ndarray:
            assert may_decode, "the bucket has these pixels"
            return np.full((16, 8, 3), image_id, np.uint8)

        return decoded_cache.open_cache(
            split,
            read,
            name="cuhk_pedes",
            image_size=(16, 8),
            allow_truncated=False,
            resize_filter="bilinear",
            cache_dir="gs://bucket/images",
        )

    return opened


def test_an_image_cache(server, open_cache, tiny_root, tmp_path):
    """One host builds it; another one, with a copy of the photos elsewhere, does not."""
    first = open_cache(tiny_root, "one")
    assert first.path.is_relative_to(tmp_path / "one") and len(server.objects) == 1
    shutil.copytree(tiny_root, tmp_path / "copy")  # keeps the modification times
    second = open_cache(tmp_path / "copy", "two", may_decode=False)
    ids = np.arange(5)
    assert second.path.is_relative_to(tmp_path / "two")
    assert np.array_equal(first(ids), second(ids)) and first(ids)[4].max() == 4
    (name,) = server.objects
    server.put(name, b"short", None)
    open_cache(tmp_path / "copy", "two", may_decode=False)  # from its own disk
    with pytest.raises(ValueError, match=r"gs://bucket/images/.*damaged image cache \(5 bytes"):
        open_cache(tmp_path / "copy", "three")
    photo = next((tmp_path / "copy").rglob("*.jpg"))
    os.utime(photo, (1, 1))
    open_cache(tmp_path / "copy", "two")
    assert len(server.objects) <= 2


@pytest.mark.slow
def test_two_processes(server, tiny_root, tmp_path):
    """All of them write the arrays, process 0 alone the files."""
    port, processes = free_port(), []
    for index in range(2):
        command = [sys.executable, "-m", "tipr_jax.main", "--config=configs/irra.py:debug"]
        command += [f"--coordinator=127.0.0.1:{port}", "--num_processes=2", f"--workdir={RUN}"]
        command += [f"--process_id={index}", f"--config.data.root={tiny_root}"]
        command += [f"--config.data.cache_dir={tmp_path}", "--config.mesh.rules=fully_sharded"]
        env = environment(OMP_NUM_THREADS="1")
        processes.append(subprocess.Popen(command, cwd=ROOT, env=env, stderr=subprocess.PIPE))
    for process in processes:
        _, error = process.communicate(timeout=HANGS)
        assert process.returncode == 0, error.decode()[-3000:]
    assert any("ocdbt.process_1" in name for name in server.objects)
    step, params = checkpoints.load_params(RUN)
    assert step and all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))
    assert json.loads(server.objects["runs/one/results.json"].data)["step"] == step
