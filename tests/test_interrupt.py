"""Ctrl-C ends every command with exit code 130 and without a traceback, wherever it is."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from machine import HANGS, environment
from test_trainer import run_arguments

from tipr_jax import interrupt, run_files

ROOT = Path(__file__).resolve().parents[1]


def interrupted(process: subprocess.Popen, sign: str, times: int = 1) -> str:
    """Sends Ctrl-C when `sign` was printed; everything that the process printed."""
    printed = ""
    while sign not in printed:
        piece = process.stdout.read(1)
        assert piece, f"ended without {sign!r}: {printed[-2000:]}"
        printed += piece
    for _ in range(times):
        process.send_signal(signal.SIGINT)
    printed += process.stdout.read()  # not `communicate`, which loses what is buffered
    process.wait(HANGS)
    assert process.returncode == interrupt.EXIT_CODE, printed[-2000:]
    assert "Traceback" not in printed and "stopped by" in printed, printed[-2000:]
    return printed


def start(*arguments: str, **more: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, "-u", *arguments], cwd=ROOT, env=environment(**more),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


WATCHED = "from tipr_jax import interrupt; interrupt.watch()\n"
PLACES = {
    "between two instructions": "while True: pass",
    "in a wait": "import threading; threading.Event().wait()",
    "in a pool of threads": (
        "import time; from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(2) as pool: pool.submit(time.sleep, 10**6).result()"
    ),
    "in code that catches everything": (
        "import time\nwhile True:\n    try: time.sleep(10**6)\n    except BaseException: pass"
    ),
    "in a library": "import numpy as np; np.linalg.svd(np.random.rand(20000, 20000))",
}


@pytest.mark.parametrize("place", PLACES)
def test_wherever_the_main_thread_is(place):
    process = start("-c", f"{WATCHED}print('there', end='', flush=True)\n{PLACES[place]}")
    interrupted(process, "there")


def test_what_is_to_be_done_before_the_end(tmp_path):
    code = f"interrupt.before_end(lambda: open({str(tmp_path / 'told')!r}, 'w'))\nprint('there')\n"
    interrupted(start("-c", WATCHED + code + PLACES["in a wait"]), "there")
    assert (tmp_path / "told").exists()


@pytest.mark.slow
def test_training_saves_and_continues(tiny_config, tmp_path):
    changes = {"schedule.num_epochs": 500, "checkpoint.every_steps": 10**6}
    arguments = run_arguments(tiny_config, tmp_path, **changes)[1:]
    interrupted(start(*arguments), "memory estimate")  # before anything could be saved
    assert not run_files.is_run(tmp_path)
    printed = interrupted(start(*arguments), "step 1/")
    saved = run_files.saved_steps(tmp_path)
    assert f"saved step {saved[-1]}; rerun to continue" in printed
    printed = interrupted(start(*arguments), "continuing at step")
    assert f"continuing at step {saved[-1]}" in printed


@pytest.mark.slow
def test_a_second_time_ends_it_at_once(tiny_config, tmp_path):
    arguments = run_arguments(tiny_config, tmp_path, **{"schedule.num_epochs": 500})[1:]
    interrupted(start(*arguments), "step 1/", times=2)


@pytest.mark.slow
def test_generator(tmp_path):
    """It has processes of its own; none of them stays, nor half a data set."""
    module = "data_pipelines.synth_pedes"
    printed = interrupted(start("-m", module, f"--root={tmp_path}", TQDM_MININTERVAL="0"), "img/s")
    assert "semaphore" not in printed
    again = start(
        "-m", module, f"--root={tmp_path}", "--train-ids=2", "--val-ids=1", "--test-ids=1"
    )
    assert "is ready" in again.communicate(timeout=HANGS)[0]
