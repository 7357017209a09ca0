"""Suite ranking: R@1/5/10, mAP and mINP from embeddings, against a full sort in PyTorch."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bench.measure import Case
from tipr_jax.metrics.retrieval import retrieval_metrics

SIZES = ((6156, 3074, 1000), (10_000, 20_000, 3000))  # queries, gallery rows, persons
LARGE = (20_000, 100_000, 15_000)  # ours alone: a full sort of it takes 24 GB
TINY = (60, 30, 10)
WIDTH = 512
Problem = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def problem(num_query: int, num_gallery: int, persons: int) -> Problem:
    """Random embeddings around a centre per person, and person ids; every query has a positive."""
    rng = np.random.default_rng(0)
    gallery_id = rng.integers(0, persons, num_gallery)
    query_id = rng.choice(gallery_id, num_query)
    centre = 0.5 * rng.standard_normal((persons, WIDTH), np.float32)

    def around(ids: np.ndarray) -> np.ndarray:
        return centre[ids] + rng.standard_normal((len(ids), WIDTH), np.float32)

    return around(query_id), around(gallery_id), query_id, gallery_id


def exact_problem(num_query: int, num_gallery: int, persons: int) -> Problem:
    """The same with entries +-1 in width 256: exact products, and ties everywhere."""
    query, gallery, query_id, gallery_id = problem(num_query, num_gallery, persons)
    return np.sign(query[:, :256]), np.sign(gallery[:, :256]), query_id, gallery_id


def cases(options: Any) -> Iterator[Case]:
    sizes = (TINY,) if options.tiny else SIZES
    if options.recipes:
        check_equal(sizes[0])
    for size in sizes:
        data, twins = problem(*size), {}
        if options.recipes:
            twins["full sort"] = lambda data=data: torch_metrics(*data)
            twins["released form"] = lambda data=data: torch_metrics(*data, in_loops=True)
        yield Case(
            "ranking",
            f"ranking {size[0]} x {size[1]}",
            rows=size[0],
            ours=lambda data=data: retrieval_metrics(*data, progress=False),
            twins=twins,
            extra={"equal_numbers": True} if twins else {},
            rounds=None if size is sizes[0] else 3,
        )
    large = TINY if options.tiny else LARGE
    extra: dict[str, float] = {}
    yield Case(
        "ranking",
        f"ranking {large[0]} x {large[1]}",
        rows=large[0],
        ours=lambda: extra.update(_in_own_process(large)),
        rounds=1,
        warm_up=False,
        extra=extra,
    )


def check_equal(size: tuple[int, int, int]) -> None:
    """Raises ValueError unless both evaluators give the same numbers where products are exact."""
    data = exact_problem(*size)
    ours, theirs = retrieval_metrics(*data, progress=False), torch_metrics(*data)
    if any(abs(ours[k] - theirs[k]) > 1e-4 for k in ours):
        raise ValueError(f"ranking differs: ours {ours}, full sort {theirs}")


def torch_metrics(
    query: np.ndarray,
    gallery: np.ndarray,
    query_id: np.ndarray,
    gallery_id: np.ndarray,
    *,
    in_loops: bool = False,
) -> dict[str, float]:
    """The metrics from a sort of the whole similarity matrix.

    in_loops: as the released evaluators are written, an unstable sort, precision rank by rank and
    the last positive query by query; else without Python loops, and ties as ours.
    """
    import torch

    rows, columns = (torch.nn.functional.normalize(torch.from_numpy(x)) for x in (query, gallery))
    order = torch.argsort(rows @ columns.T, dim=1, descending=True, stable=not in_loops)
    match = torch.from_numpy(gallery_id)[order] == torch.from_numpy(query_id)[:, None]
    found, place = match.cumsum(1), torch.arange(1, len(gallery) + 1)
    count = match.sum(1)
    values = {f"R{k}": (found[:, k - 1] > 0).float() for k in (1, 5, 10)}
    if in_loops:
        precision = torch.stack([found[:, i] / (i + 1.0) for i in range(len(gallery))], 1)
        last = torch.cat([row.nonzero()[-1] + 1 for row in match])
    else:
        precision, last = found / place, (match * place).amax(1)
    values["mAP"] = (match * precision).sum(1) / count
    values["mINP"] = count / last
    return {name: 100 * value.double().mean().item() for name, value in values.items()}


def _in_own_process(size: tuple[int, int, int]) -> dict[str, float]:
    """Peak resident memory and seconds of a ranking with nothing else in its process."""
    code = f"from bench import ranking; ranking.report_memory{size}"
    command, scripts = [sys.executable, "-c", code], Path(__file__).parents[1].resolve()
    env = os.environ | {"PYTHONPATH": f"{scripts}{os.pathsep}{scripts.parent}"}
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=env)
    return json.loads(result.stdout)


def report_memory(num_query: int, num_gallery: int, persons: int) -> None:
    data = problem(num_query, num_gallery, persons)
    start = time.perf_counter()
    retrieval_metrics(*data, progress=False)
    seconds = time.perf_counter() - start
    # Not ru_maxrss, in which a child starts with its parent's peak.
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"VmHWM:\s*(\d+) kB", status)
    assert peak, "Linux tells the peak of the resident memory"
    peak_mb = int(peak[1]) / 1024
    print(json.dumps({"peak_resident_mb": peak_mb, "ranking_seconds": seconds}))
