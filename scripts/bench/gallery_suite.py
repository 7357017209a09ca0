"""Suite gallery: a stored gallery's search, adding and opening, at 200,000 vectors of 512 numbers.

The other side of a search is faiss' flat index with one thread, if faiss-cpu is installed.
"""

import importlib
import importlib.util
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Call, Case
from tipr_jax.gallery.index import Index
from tipr_jax.gallery.store import Item, Model, Store

COUNT, WIDTH, BATCH = 200_000, 512, 1000
TINY = 300


def cases(options: Any) -> Iterator[Case]:
    count = TINY if options.tiny else COUNT
    vectors = _unit(count)
    queries = iter(_unit(10_000, seed=1))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bench.gallery"
        store = Store.create(path)
        model = store.register_model("f" * 64, "bench", WIDTH, {})
        size = min(BATCH, count // 3)
        parts = (vectors[start : start + size] for start in range(0, count, size))
        yield Case(
            "gallery",
            f"gallery add {size} at once",
            rows=size,
            ours=_adding(store, model, parts),
            rounds=count // size - 1,  # one part goes to the warm-up
        )
        for part in parts:
            _add(store, model, part)
        extra = {"file_share": path.stat().st_size / (count * WIDTH * 2)}
        yield Case(
            "gallery",
            "gallery add 1, durable",
            rows=1,
            ours=lambda: _add(store, model, np.zeros((1, WIDTH), np.float32)),
            extra=extra,
        )
        store.close()
        yield Case(
            "gallery",
            f"gallery open {count}, search",
            rows=count,
            ours=lambda: opened(path).search(vectors[:1], 10),
            rounds=3,
        )
        index = opened(path)
        twins: dict[str, Call] = {}
        if options.recipes and importlib.util.find_spec("faiss"):
            twins["faiss, 1 thread"] = _faiss(vectors, queries)
        yield Case(
            "gallery",
            f"gallery search {count} x {WIDTH}",
            rows=1,
            ours=lambda: index.search(next(queries)[None], 10),
            twins=twins,
            extra={"recall_share": recall(index, vectors)},
        )


def opened(path: Path) -> Index:
    """The index of a gallery file, as a process that starts reads it."""
    with Store.open(path) as store:
        (model,) = store.models()
        index = Index(WIDTH)
        for ids, vectors in store.vectors(model):
            index.add(ids, vectors.astype(np.float32))
    return index


def recall(index: Index, vectors: np.ndarray) -> float:
    """The share of the true ten nearest that the index gives, over 100 queries."""
    stored = vectors.astype(np.float16).astype(np.float32)
    shares = []
    for query in _unit(100, seed=2):
        true = np.argpartition(-(stored @ query), 9)[:10] + 1  # ids count from 1
        shares.append(len(np.intersect1d(true, index.search(query[None], 10)[0][0])) / 10)
    return float(np.mean(shares))


def _adding(store: Store, model: Model, parts: Iterator[np.ndarray]) -> Call:
    return lambda: _add(store, model, next(parts))


def _add(store: Store, model: Model, vectors: np.ndarray) -> None:
    rng = np.random.default_rng()
    items = [Item(rng.bytes(32).hex(), f"/photos/{rng.integers(10**9)}.jpg") for _ in vectors]
    store.add(items, vectors, model)


def _faiss(vectors: np.ndarray, queries: Iterator[np.ndarray]) -> Call:
    faiss = importlib.import_module("faiss")  # of no extra: whoever compares installs it
    faiss.omp_set_num_threads(1)
    flat = faiss.IndexFlatIP(WIDTH)
    flat.add(vectors)
    return lambda: flat.search(next(queries)[None], 10)


def _unit(count: int, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((count, WIDTH), np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)
