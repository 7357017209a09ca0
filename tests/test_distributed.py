"""Several processes as one run: agreeing, failing together, stopping together, one writer."""

import json
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from machine import HANGS, environment

from tipr_jax import checkpoints, distributed

ROOT = Path(__file__).resolve().parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def start(process_id: int, port: int, *arguments: str, count: int = 2) -> subprocess.Popen:
    """One process of a run of the debug config."""
    env = environment(OMP_NUM_THREADS="1")
    command = [sys.executable, "-m", "tipr_jax.main", "--config=configs/irra.py:debug"]
    command += [f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}"]
    command += [f"--process_id={process_id}", *arguments]
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def refusals(*processes: subprocess.Popen) -> list[str]:
    """The only line of each process that fails."""
    messages = []
    for process in processes:
        _, error = process.communicate(timeout=HANGS)
        assert process.returncode == 1, error[-3000:]
        assert error.startswith("error: ") and error.count("\n") == 1, error
        messages.append(error)
    return messages


@pytest.mark.slow
def test_a_peer_that_never_arrives(tmp_path):
    workdir = f"--workdir={tmp_path / 'run'}"
    alone = [start(i, free_port(), workdir, "--peer_timeout=3") for i in (0, 1)]
    coordinator, other = refusals(*alone)
    assert "waited 3 s for process 1" in coordinator and "same --coordinator" in coordinator
    assert "waited 3 s for process 0" in other and "check address, port and firewall" in other
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_processes_with_different_configs(tmp_path):
    port, workdir = free_port(), f"--workdir={tmp_path / 'run'}"
    both = [start(i, port, workdir, f"--config.seed={3 + i}") for i in (0, 1)]
    for message in refusals(*both):
        assert "started differently, in 1 settings (seed 3 and 4)" in message
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"coordinator": "a:1", "num_processes": 2}, "--process_id missing"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "expected HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "number them 0 to 1"),
    ],
)
def test_arguments_that_do_not_fit(arguments, expected):
    with pytest.raises(ValueError, match=expected):
        distributed.initialize(**arguments)


def test_a_port_that_is_taken():
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ValueError, match="use a free port"):
            distributed.initialize(address, 2, 0)


def test_one_machine_starts_alone(monkeypatch):
    """Also inside a SLURM job of one task, where JAX would hide all GPUs but one."""
    distributed.initialize()
    slurm = {"JOB_ID": "1", "STEP_NODELIST": "n1", "NTASKS": "1", "PROCID": "0", "LOCALID": "0"}
    for name, value in slurm.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    distributed.initialize()
    assert not distributed.several() and distributed.is_writer()
    monkeypatch.setenv("SLURM_NTASKS", "4")
    name, coordinator, count, process_id = distributed._detect(1)
    assert (name, count, process_id) == ("slurm", 4, 0) and coordinator.startswith("n1:")


def rows(workdir: Path) -> list[dict]:
    path = workdir / "metrics.jsonl"
    return [json.loads(x) for x in path.read_text().splitlines()] if path.exists() else []


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes(tiny_root, tmp_path):
    """They share a model by tensor parallelism, save at one step, and only process 0 speaks."""
    port, run = free_port(), tmp_path / "run"
    arguments = [
        f"--workdir={run}",
        f"--config.data.root={tiny_root}",
        "--config.data.image_size=(32,16)",
        "--config.data.text_length=16",
        "--config.model.patch=8",
        "--config.model.stride=8",
        "--config.model.losses=('itc',)",
        "--config.eval.splits=('test',)",
        "--config.schedule.num_epochs=500",
        "--config.eval.every_epochs=500",
        "--config.log_every_steps=1",
        "--config.mesh.model=2",
        "--config.mesh.rules=tensor_parallel",
    ]
    both = [start(i, port, *arguments) for i in (0, 1)]
    deadline = time.time() + HANGS
    while max((row["step"] for row in rows(run)), default=0) < 2:
        assert all(p.poll() is None for p in both) and time.time() < deadline, [
            p.communicate()[1][-2000:] for p in both
        ]
        time.sleep(0.05)
    both[1].send_signal(signal.SIGTERM)
    outputs = [p.communicate(timeout=HANGS) for p in both]
    assert [p.returncode for p in both] == [0, 0], outputs
    assert "rerun to continue" in outputs[0][1] and "step" not in outputs[1][1].lower()
    with checkpoints.Checkpoints(run, read_only=True) as saved:
        assert saved.latest_step() == rows(run)[-1]["step"]


FAILS_ALONE = """
import sys, time
from tipr_jax import distributed, shutdown
process, port = map(int, sys.argv[1:])
with shutdown.shared_fate():
    distributed.initialize(f"127.0.0.1:{port}", 2, process)
    shutdown.watch_for_failure()
    if process == 1:
        sys.exit("error: the disk is full")
    time.sleep(200)
"""


def test_a_failure_of_one_process_ends_the_other_with_its_reason():
    port, env = free_port(), environment()
    both = [
        subprocess.Popen(
            [sys.executable, "-c", FAILS_ALONE, str(process), str(port)],
            cwd=ROOT,
            env=env,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in (0, 1)
    ]
    messages = refusals(*both)
    assert messages[1] == "error: the disk is full\n"
    assert messages[0] == "error: process 1 stopped: the disk is full\n"
