"""Collective operations: what a compiled program moves between devices."""

import collections
from typing import NamedTuple

from tipr_jax.analysis.hlo import Instruction, Module

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")


class CollectiveOp(NamedTuple):
    """One instruction: how often it runs per step, bytes of its result each time, its origin."""

    kind: str
    count: int
    size: int
    source: str  # the JAX operation that it was made for


def collective_ops(module: Module) -> list[CollectiveOp]:
    """Of a compiled module; in a loop each counts for all trips.

    The size is the size of the result on one device.
    """
    found = []
    for _, instruction, runs in module.executed:
        kind = instruction.op.removesuffix("-start")
        if kind in KINDS:
            size = _result_bytes(instruction)
            found.append(CollectiveOp(kind, runs, size, instruction.source))
    return found


def totals_by_kind(found: list[CollectiveOp]) -> dict[str, tuple[int, int]]:
    """{kind: (runs per step, bytes per step on one device)}."""
    sums: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for kind, count, size, _ in found:
        runs, moved = sums[kind]
        sums[kind] = runs + count, moved + count * size
    return dict(sorted(sums.items()))


def _result_bytes(instruction: Instruction) -> int:
    """Bytes of a result; an asynchronous start names its operands first."""
    arrays = instruction.arrays
    if instruction.op in ("all-gather-start", "collective-permute-start"):
        arrays = [a for a in arrays if (a.dtype, a.dims) != ("u32", ())]  # contexts
        arrays = arrays[len(arrays) // 2 :]
    return sum(array.size for array in arrays)
