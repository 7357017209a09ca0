"""A run directory is guarded: one training at a time, the same data and steps, room on the disk."""

import collections
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import jax.numpy as jnp
import pytest
from machine import HANGS, environment

from tipr_jax import checkpoints, main, run_files
from tipr_jax.checkpoints import Checkpoints, SaveFailed, check_room
from tipr_jax.run_lock import LOCK, locked

ROOT = Path(__file__).resolve().parents[1]
HOLD = "from pathlib import Path; from tipr_jax.run_lock import locked\n{body}"


def python(body: str, *arguments: str) -> subprocess.Popen:
    command = [sys.executable, "-u", "-c", body, *arguments]
    pipe = subprocess.PIPE
    return subprocess.Popen(
        command,
        cwd=ROOT,
        env=environment(),
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
    )


def holder(workdir: Path) -> subprocess.Popen:
    """A process that holds the lock until it is killed."""
    body = f"with locked(Path({str(workdir)!r})):\n    print('held'); input()"
    process = python(HOLD.format(body=body), "--workdir=theirs")
    assert process.stdout.readline() == "held\n"
    return process


def test_the_second_training_is_refused_and_told_who_holds_the_directory(tiny_config, tmp_path):
    process = holder(tmp_path)
    with pytest.raises(
        ValueError, match=f"another process trains in.*process {process.pid} on .*theirs"
    ):
        main.run(tiny_config, tmp_path, "train")
    assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK]
    process.communicate("\n", timeout=HANGS)
    with locked(tmp_path):
        pass


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM, signal.SIGABRT])
def test_a_dead_process_leaves_no_lock(tmp_path, end):
    (tmp_path / "config.json").touch()  # so that the directory stays
    process = holder(tmp_path)
    process.send_signal(end)
    process.wait()
    assert (tmp_path / LOCK).exists()
    with locked(tmp_path):
        pass


def test_a_directory_without_locks_is_used_without(tmp_path, monkeypatch):
    """As on some network mounts."""
    import errno
    import fcntl

    def no_locks(*args):
        raise OSError(errno.ENOTSUP, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path):
        pass


# Continuing with other steps or data


@pytest.fixture
def finished(tiny_config, tmp_path):
    """A run of two epochs, with its own copy of the data set."""
    shutil.copytree(tiny_config.data.root, tmp_path / "data")
    tiny_config.data.root = str(tmp_path / "data")
    main.run(tiny_config, tmp_path / "run", "train")
    return tiny_config


def swap_captions(root: str) -> None:
    path = Path(root) / "CUHK-PEDES" / "reid_raw.json"
    entries = json.loads(path.read_text())
    entries[0]["captions"], entries[1]["captions"] = entries[1]["captions"], entries[0]["captions"]
    path.write_text(json.dumps(entries))


CHANGES = {
    "data.batch_size": 8,
    "data.last_batch": "pad",
    "data.sampler": "identity",
    "seed": 9,
    "captions": None,
}


def test_a_changed_meaning_of_steps_is_refused_unless_confirmed(finished, tmp_path):
    config, workdir = finished, tmp_path / "run"
    before = run_files.saved_steps(workdir)
    for field, value in CHANGES.items():
        changed = config.copy_and_resolve_references()
        if field == "captions":
            swap_captions(config.data.root)
            words = "annotations of the"
        else:
            changed.update_from_flattened_dict({field: value})
            words = field
        with pytest.raises(ValueError, match=f"{words}.*accept_changes=True"):
            main.run(changed, workdir, "train")
    assert run_files.saved_steps(workdir) == before
    changed = config.copy_and_resolve_references()
    changed.data.batch_size, changed.schedule.num_epochs = 8, 3
    changed.checkpoint.accept_changes = True
    main.run(changed, workdir, "train")
    assert max(run_files.saved_steps(workdir)) > max(before)


def test_a_moved_data_set_and_more_epochs_are_the_same_run(finished, tmp_path):
    config, workdir = finished, tmp_path / "run"
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    config.data.root, config.schedule.num_epochs = str(tmp_path / "elsewhere"), 3
    before = max(run_files.saved_steps(workdir))
    main.run(config, workdir, "train")
    assert max(run_files.saved_steps(workdir)) > before


# Room on the disk

STATE = {"weights": jnp.zeros(250_000)}  # 1 MB
Usage = collections.namedtuple("Usage", "total used free")


@pytest.fixture
def disk(monkeypatch):
    """Sets the free bytes that every disk seems to have."""

    def leave(free: int) -> None:
        monkeypatch.setattr(checkpoints.shutil, "disk_usage", lambda path: Usage(0, 0, free))

    return leave


@pytest.mark.parametrize(("free", "keep_last", "fits"), [(3, 1, True), (3, 2, False), (5, 3, True)])
def test_room_for_the_checkpoints(disk, tmp_path, free, keep_last, fits):
    disk(free * 1_000_000)
    if fits:
        check_room(tmp_path / "new" / "run", STATE, keep_last)
    else:
        with pytest.raises(ValueError, match=r"0.00 GB of room.*keep_last=1"):
            check_room(tmp_path / "new" / "run", STATE, keep_last)


def test_no_room_is_said_before_training(disk, tiny_config, tmp_path):
    tiny_config.data.cache = False
    disk(1_000_000)
    with pytest.raises(ValueError, match="make room, use another --workdir"):
        main.run(tiny_config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()


def test_a_disk_that_fills_up_keeps_the_checkpoints_before(disk, tmp_path):
    with Checkpoints(tmp_path) as saved:
        saved.save(1, STATE)
    disk(900_000)
    with (
        pytest.raises(SaveFailed, match="1.0 MB for step 2, 0.9 MB left"),
        Checkpoints(tmp_path) as saved,
    ):
        saved.save(2, STATE)
    assert run_files.saved_steps(tmp_path) == [1]


FULL = """
import resource, sys
from absl import app
resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))  # more fails, as on a full disk
from tipr_jax import command_line, main
app.run(main.main, flags_parser=command_line.parse)
"""


@pytest.mark.slow
def test_a_write_that_fails_is_one_line_and_the_run_continues(tiny_root, tmp_path):
    options = [
        "--config=configs/irra.py:debug", f"--workdir={tmp_path / 'run'}",
        f"--config.data.root={tiny_root}", "--config.data.cache=False",
    ]  # fmt: skip
    output, _ = (process := python(FULL, *options)).communicate(timeout=HANGS)
    assert process.returncode == 1, output
    assert "error: cannot save into" in output and "same command continues" in output
    assert run_files.saved_steps(tmp_path / "run") == []
    command = [sys.executable, "-m", "tipr_jax.main", *options]
    again = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, timeout=HANGS)
    assert again.returncode == 0 and (tmp_path / "run" / "report.html").exists()
