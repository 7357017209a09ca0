"""Items that are told apart by a number, vectors of noise, and writers that are killed."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.store import FileState, Item

ROOT = Path(__file__).resolve().parents[2]
WIDTH = 8


def content(number: int) -> str:
    return f"{number:064x}"


def item(number: int, path: str = "", **facts) -> Item:
    return Item(content(number), path or f"/photos/{number}.jpg", **facts)


def state(number: int) -> FileState:
    return FileState(10, 20, content(number))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float16)


def killed_writers(
    program: str,
    place: str,
    *,
    kills: int,
    longest: float,
    after_each: Callable[[], object] = lambda: None,
) -> list[int]:
    """Runs a writer again and again, each killed after its first line and up to `longest` seconds.

    program: Python that adds items from a number on, deletes every third, and prints the number of
    each when it is done. Returns the numbers that were printed.
    """
    acknowledged: list[int] = []
    random.seed(0)
    for _ in range(kills):
        first = acknowledged[-1] + 2 if acknowledged else 0  # the one after may be there or not
        process = subprocess.Popen(
            [sys.executable, "-c", program, place, str(first)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdout
        acknowledged.append(int(process.stdout.readline()))
        time.sleep(random.uniform(0, longest))
        process.send_signal(signal.SIGKILL)
        acknowledged += map(int, process.stdout.read().split())
        process.wait()
        after_each()
    return acknowledged


def check_acknowledged(store: GalleryStore, acknowledged: Sequence[int]) -> None:
    """Every acknowledged change of `killed_writers` is there once."""
    numbers = [int(i.content, 16) for i in store.items(store.select())]
    assert len(set(numbers)) == len(numbers)
    expected = {number for number in acknowledged if number % 3}
    may_be = {number + 1 for number in acknowledged}  # done, but killed before it could say so
    assert expected <= set(numbers) <= expected | may_be
