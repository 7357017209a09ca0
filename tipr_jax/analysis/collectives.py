"""Collective operations: what a compiled program moves between devices, from its HLO text."""

import collections
import math
import re
from typing import NamedTuple

KINDS = ("all-gather", "all-reduce", "reduce-scatter", "all-to-all", "collective-permute")

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s*(?:ROOT )?%?[\w.\-]+ = (?P<type>.*?) (?P<op>[a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_LIMIT = re.compile(r" = s32\[\]\S* constant\((\d+)\)")
_SOURCE = re.compile(r'op_name="([^"]*)"')


class CollectiveOp(NamedTuple):
    """One instruction: how often it runs per step, bytes of its result each time, its origin."""

    kind: str
    count: int
    size: int
    source: str  # the JAX operation that it was made for


def collective_ops(hlo: str) -> list[CollectiveOp]:
    """Of a compiled module (`compiled.as_text()`); in a loop each counts for all trips.

    The size is the size of the result on one device. Both branches of a conditional count; a loop
    whose number of trips cannot be read counts once.
    """
    computations, entry = _computations(hlo)
    found: list[CollectiveOp] = []

    def visit(name: str, times: int) -> None:
        for line in computations.get(name, ()):
            if not (match := _INSTRUCTION.match(line)):
                continue
            op = match["op"]
            kind = op.removesuffix("-start")
            if kind in KINDS:
                source = _SOURCE.search(line)
                size = _result_bytes(match["type"], op)
                found.append(CollectiveOp(kind, times, size, source[1] if source else ""))
                continue
            called = _CALLED.findall(line)
            for branches in _BRANCHES.findall(line):
                called += [b.strip(" %") for b in branches.split(",")]
            runs = times * _trips(line, computations) if op == "while" else times
            for other in called:
                visit(other, runs)

    visit(entry, 1)
    return found


def totals_by_kind(found: list[CollectiveOp]) -> dict[str, tuple[int, int]]:
    """{kind: (runs per step, bytes per step on one device)}."""
    sums: dict[str, tuple[int, int]] = collections.defaultdict(lambda: (0, 0))
    for kind, count, size, _ in found:
        runs, moved = sums[kind]
        sums[kind] = runs + count, moved + count * size
    return dict(sorted(sums.items()))


def _computations(hlo: str) -> tuple[dict[str, list[str]], str]:
    """Lines of every computation by name, and the name of the entry."""
    computations: dict[str, list[str]] = {}
    entry = name = ""
    for line in hlo.splitlines():
        if match := _COMPUTATION.match(line):
            name = match[2]
            computations[name] = []
            entry = name if match[1] else entry
        elif name:
            computations[name].append(line)
    return computations, entry


def _trips(line: str, computations: dict[str, list[str]]) -> int:
    """How often a while loop runs: as stated, or what its condition compares the counter with."""
    if known := _KNOWN_TRIPS.search(line):
        return int(known[1])
    name = _CONDITION.search(line)
    condition = "\n".join(computations.get(name[1], ()) if name else ())
    limits = _LIMIT.findall(condition)
    return int(limits[0]) if len(limits) == 1 and "direction=LT" in condition else 1


def _result_bytes(shape: str, op: str) -> int:
    """Bytes of a result type; an asynchronous start names its operands first."""
    shapes = _SHAPE.findall(re.sub(r"\{[^}]*\}", "", shape))
    if op in ("all-gather-start", "collective-permute-start"):
        shapes = [s for s in shapes if s != ("u32", "")]  # contexts
        shapes = shapes[len(shapes) // 2 :]
    return sum(math.prod(int(d) for d in dims.split(",") if d) * _width(t) for t, dims in shapes)


def _width(dtype: str) -> int:
    """Bytes of one element, from names like f32, s8, pred, bf16."""
    digits = re.sub(r"\D", "", dtype)
    return max(1, int(digits) // 8) if digits else 1
