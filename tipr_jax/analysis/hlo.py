"""Reads the text of a compiled program: its instructions, shapes, and the trips of its loops.

The text is XLA's HLO after all of its passes: https://openxla.org/xla/operation_semantics; layouts
with tiles and memory spaces, as `{1,0:T(8,128)(2,1)S(1)}`: https://openxla.org/xla/tiled_layout.
"""

import math
import re
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(
    r"^\s*(?P<root>ROOT )?%?(?P<name>[\w.\-]+) = (?P<type>.*?) (?P<op>[a-z][\w\-]*)\((?P<rest>.*)$"
)
_OPERAND = re.compile(r"%([\w.\-]+)")
_ARRAY = re.compile(
    r"\b(?P<dtype>[a-z]+\d*)\[(?P<dims>[\d,<=]*)\](?:\{(?P<order>[\d,]*)(?::(?P<tiles>[^}]*))?\})?"
)
_TILE = re.compile(r"T\(([\d,]+)\)")
_SPACE = re.compile(r"S\((\d+)\)")
_CALLED = re.compile(r"(?:calls|body|to_apply|true_computation|false_computation)=%?([\w.\-]+)")
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_CONDITION = re.compile(r"condition=%?([\w.\-]+)")
_KNOWN_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')
_SOURCE = re.compile(r'op_name="([^"]*)"')


class Array(NamedTuple):
    """An array of a type: its element type, dimensions, and where and how it lies in memory."""

    dtype: str
    dims: tuple[int, ...]
    order: tuple[int, ...]  # dimensions from the fastest to the slowest; (): as they are written
    tile: tuple[int, ...]  # the last dimensions are padded to multiples of it; (): no tiles
    space: int  # 0: the device's large memory (HBM); others are on the chip

    @property
    def size(self) -> int:
        """Bytes without padding."""
        return math.prod(self.dims) * width(self.dtype)

    @property
    def padded_size(self) -> int:
        """Bytes that it takes in memory, padded to whole tiles."""
        order = self.order or tuple(reversed(range(len(self.dims))))
        slowest_first = [self.dims[i] for i in reversed(order)]
        rank = min(len(self.tile), len(slowest_first))
        for i in range(1, rank + 1):
            slowest_first[-i] = math.ceil(slowest_first[-i] / self.tile[-i]) * self.tile[-i]
        return math.prod(slowest_first) * width(self.dtype)


class Instruction(NamedTuple):
    """One line of a computation; `rest` is what stands behind the opening bracket."""

    name: str
    op: str
    type: str
    rest: str
    is_root: bool

    @property
    def operands(self) -> list[str]:
        """Names of the operands."""
        depth = 1
        for end, letter in enumerate(self.rest):
            depth += {"(": 1, ")": -1}.get(letter, 0)
            if depth == 0:
                return _OPERAND.findall(self.rest[:end])
        return _OPERAND.findall(self.rest)

    @property
    def is_fused(self) -> bool:
        """Whether it stands for others, in a computation of their own, that run as one."""
        return ", kind=k" in self.rest

    @property
    def arrays(self) -> list[Array]:
        """The arrays of its result."""
        return arrays_of(self.type)

    @property
    def called(self) -> list[str]:
        """Names of the computations that it calls, but for a loop's condition."""
        found = _CALLED.findall(self.rest)
        for branches in _BRANCHES.findall(self.rest):
            found += [branch.strip(" %") for branch in branches.split(",")]
        return found

    @property
    def source(self) -> str:
        """The JAX operation that it was made for."""
        found = _SOURCE.search(self.rest)
        return found[1] if found else ""


class Module:
    """A compiled program; `computations`: name -> its instructions by name, in order."""

    def __init__(self, text: str):
        self.computations: dict[str, dict[str, Instruction]] = {}
        self.entry = name = ""
        for line in text.splitlines():
            if match := _COMPUTATION.match(line):
                name = match[2]
                self.computations[name] = {}
                self.entry = name if match[1] else self.entry
            elif name and (found := _INSTRUCTION.match(line)):
                self.computations[name][found["name"]] = Instruction(
                    found["name"], found["op"], found["type"], found["rest"], bool(found["root"])
                )

    @cached_property
    def executed(self) -> list[tuple[str, Instruction, int]]:
        """(computation, instruction, runs) of all that runs as a step of the program's own.

        What is inside of a fusion is left out. Both branches of a conditional count; a loop whose
        trips cannot be read counts once.
        """
        return list(self._executed(self.entry, 1))

    def _executed(self, name: str, runs: int) -> Iterator[tuple[str, Instruction, int]]:
        for instruction in self.computations.get(name, {}).values():
            yield name, instruction, runs
            if instruction.op in ("while", "conditional", "call") or "async" in instruction.op:
                trips = self.trips(instruction) if instruction.op == "while" else 1
                for other in instruction.called:
                    yield from self._executed(other, runs * trips)

    def trips(self, loop: Instruction) -> int:
        """How often a loop runs: as stated, or what its condition compares the counter with."""
        if known := _KNOWN_TRIPS.search(loop.rest):
            return int(known[1])
        found = _CONDITION.search(loop.rest)
        condition = list(self.computations.get(found[1], {}).values()) if found else []
        limits = [
            int(i.rest.partition(")")[0])
            for i in condition
            if i.op == "constant" and i.type.startswith("s32[]")
        ]
        counts_up = any("direction=LT" in i.rest for i in condition)
        return limits[0] if len(limits) == 1 and counts_up else 1


def arrays_of(type_text: str) -> list[Array]:
    """The arrays of a type, of a tuple one after the other."""
    found = []
    for match in _ARRAY.finditer(type_text):
        dims = tuple(int(d.lstrip("<=")) for d in match["dims"].split(",") if d)
        order = tuple(int(d) for d in (match["order"] or "").split(",") if d)
        tiles = match["tiles"] or ""
        tile, space = _TILE.search(tiles), _SPACE.search(tiles)
        found.append(
            Array(
                match["dtype"],
                dims,
                order,
                tuple(map(int, tile[1].split(","))) if tile else (),
                int(space[1]) if space else 0,
            )
        )
    return found


def width(dtype: str) -> int:
    """Bytes of one element, from names like f32, s8, pred, bf16."""
    digits = re.sub(r"\D", "", dtype)
    return max(1, int(digits) // 8) if digits else 1
