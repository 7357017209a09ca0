"""Items that are told apart by a number, and vectors of noise, for tests of stores."""

import numpy as np

from tipr_jax.gallery.store import FileState, Item

WIDTH = 8


def content(number: int) -> str:
    return f"{number:064x}"


def item(number: int, path: str = "", **facts) -> Item:
    return Item(content(number), path or f"/photos/{number}.jpg", **facts)


def state(number: int) -> FileState:
    return FileState(10, 20, content(number))


def rows(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH)).astype(np.float16)
