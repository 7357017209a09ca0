"""What a compiled step computes and moves, and what that allows: FLOPs, HBM bytes, the roofline.

For every instruction of the compiled program, how many FLOPs its products have and how many bytes
it reads from and writes to the chip's large memory (HBM), padded to whole tiles as they lie there.
Neither is measured. An instruction takes at least the longer of FLOPs / peak and bytes / bandwidth
(Williams et al., "Roofline", 2009), and one follows the other, except for the copies that run
beside the computation: their bytes count in the total traffic alone. So the bound of a step is the
sum over its instructions, or the time of the whole traffic if that is longer.

What a custom call does is not seen: a kernel of Pallas, on a CPU a product that a library computes.
"""

import math
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from tipr_jax.analysis.chips import Chip
from tipr_jax.analysis.hlo import Array, Instruction, Module

HBM = 0

# Instructions that move nothing themselves (names of values, loops, ends of copies), or unseen.
_FREE = {
    "parameter", "constant", "tuple", "get-tuple-element", "bitcast", "while", "conditional",
    "call", "after-all", "partition-id", "replica-id", "copy-done", "slice-done", "custom-call",
    "async-start", "async-update", "async-done", "optimization-barrier", "add-dependency",
}  # fmt: skip
_BESIDE = ("copy-start", "slice-start")
_SLICES = ("dynamic-slice", "slice", "gather")


class Cost(NamedTuple):
    """One instruction: how often it runs per step, FLOPs and HBM bytes of one run, its origin.

    beside: whether it is a copy that runs while others compute.
    """

    name: str
    count: int
    flops: int
    bytes: int
    source: str
    beside: bool = False

    def seconds(self, chip: Chip) -> float:
        """The least time that all its runs take from the other instructions."""
        if self.beside:
            return 0.0
        return self.count * max(self.flops / chip.flops, self.bytes / chip.bandwidth)


class Roofline(NamedTuple):
    """A step on one chip: HLO FLOPs, HBM bytes, and the least seconds that they take."""

    flops: int
    bytes: int
    seconds: float

    def utilisation(self, model_flops: float, chip: Chip) -> float:
        """The largest share of the peak that model FLOPs can reach."""
        return model_flops / chip.flops / self.seconds


def roofline(costs: Iterable[Cost], chip: Chip) -> Roofline:
    """The bound of a step from its `costs`."""
    costs = list(costs)
    moved = sum(c.count * c.bytes for c in costs)
    seconds = max(sum(c.seconds(chip) for c in costs), moved / chip.bandwidth)
    return Roofline(sum(c.count * c.flops for c in costs), moved, seconds)


def costs(module: Module) -> list[Cost]:
    """Of every instruction of a compiled module that computes products or moves HBM bytes."""
    found = []
    for computation, instruction, runs in module.executed:
        if instruction.op in _FREE:
            continue
        moved = _bytes(module, computation, instruction)
        products = _flops(module, computation, instruction)
        if moved or products:
            beside = instruction.op in _BESIDE
            cost = Cost(instruction.name, runs, products, moved, instruction.source, beside)
            found.append(cost)
    return found


def by_source(costs: Iterable[Cost], chip: Chip) -> list[tuple[str, float]]:
    """(JAX operation, seconds), slowest first, each summed over its instructions."""
    sums: dict[str, float] = defaultdict(float)
    for cost in costs:
        sums[cost.source or cost.name] += cost.seconds(chip)
    return sorted(sums.items(), key=lambda item: -item[1])


def _hbm(arrays: Iterable[Array]) -> int:
    return sum(array.padded_size for array in arrays if array.space == HBM)


def _bytes(module: Module, computation: str, instruction: Instruction) -> int:
    """HBM bytes that one run reads and writes."""
    scope = module.computations[computation]
    operands = [scope[name].arrays for name in instruction.operands if name in scope]
    if instruction.is_fused:
        return _fused_bytes(module, instruction, operands)
    match instruction.op:
        case "copy-start":  # (destination, source, context)
            destination, source = instruction.arrays[:2]
            return _hbm([destination, source])
        case "slice-start":  # ((source), destination, context)
            source, destination = instruction.arrays[:2]
            return _hbm([destination]) + _hbm([destination._replace(space=source.space)])
        case "dynamic-update-slice":  # in place
            return 2 * _hbm(operands[1])
        case "dynamic-slice" | "slice" | "gather":
            return _hbm(instruction.arrays) * 2
    return _hbm(instruction.arrays) + sum(map(_hbm, operands))


def _fused_bytes(module: Module, fused: Instruction, operands: list[list[Array]]) -> int:
    """What fused instructions read of the operands, some of which they cut, and what they write."""
    body, read = fused.called[0], 0
    for number, arrays in enumerate(operands):
        whole = _hbm(arrays)
        if whole:
            part = _read(module, body, number, arrays[0].space)
            read += whole if part == math.inf else min(whole, int(part))
    return read + sum(_written(module, body, fused.arrays))


def _read(module: Module, body: str, number: int, space: int) -> float:
    """Bytes that a fused computation reads of its operand `number`; inf: all of it."""
    instructions = module.computations[body]
    parameter = next(
        i for i in instructions.values() if i.op == "parameter" and i.rest.startswith(f"{number})")
    )
    return sum(_read_by_users(module, body, parameter.name, space))


def _read_by_users(module: Module, body: str, name: str, space: int) -> Iterator[float]:
    for user in module.computations[body].values():
        places = [i for i, operand in enumerate(user.operands) if operand == name]
        if not places:
            continue
        if user.op in _SLICES and places == [0]:
            yield sum(array._replace(space=space).padded_size for array in user.arrays)
        elif user.op == "dynamic-update-slice" and places == [0]:
            yield 0  # in place: the other rows are not touched
        elif user.op == "bitcast":
            yield from _read_by_users(module, body, user.name, space)
        elif user.is_fused:
            for place in places:
                yield _read(module, user.called[0], place, space)
        elif user.op != "tuple":
            yield math.inf


def _written(module: Module, body: str, results: list[Array]) -> Iterator[int]:
    """Bytes that each result of a fused computation takes in HBM, where only a part is written."""
    instructions = module.computations[body]
    root = next(i for i in instructions.values() if i.is_root)
    roots = [instructions[name] for name in root.operands] if root.op == "tuple" else [root]
    if len(roots) != len(results):
        yield _hbm(results)
        return
    for value, result in zip(roots, results, strict=True):
        while value.op == "bitcast" and value.operands[0] in instructions:
            value = instructions[value.operands[0]]
        if result.space != HBM:
            yield 0
        elif value.op == "dynamic-update-slice":
            update = instructions[value.operands[1]].arrays[0]
            # As a slice of the result: the same tiles.
            yield update._replace(space=HBM, tile=result.tile, order=result.order).padded_size
        elif value.is_fused and value.arrays == [result]:
            yield sum(_written(module, value.called[0], [result]))
        else:
            yield result.padded_size


def _flops(module: Module, computation: str, instruction: Instruction) -> int:
    """2 x multiply-adds of the products in one run, inside of fused instructions, too."""
    if instruction.is_fused:
        body = instruction.called[0]
        return sum(_flops(module, body, i) for i in module.computations[body].values())
    if instruction.op not in ("convolution", "dot"):
        return 0
    scope = module.computations[computation]
    lhs, rhs = (scope[name].arrays[0] for name in instruction.operands[:2])
    out = math.prod(instruction.arrays[0].dims)
    if instruction.op == "dot":
        found = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.rest)
        contracted = [int(d) for d in found[1].split(",") if d] if found else []
        return 2 * out * math.prod(lhs.dims[d] for d in contracted)
    return _convolution_flops(instruction, lhs, rhs)


def _convolution_flops(instruction: Instruction, lhs: Array, rhs: Array) -> int:
    """As XLA counts: padding, and the holes that dilation makes, are not multiplied."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.rest)
    assert labels, f"a convolution without dim_labels: {instruction.rest[:200]}"
    left, kernel, out_labels = labels.groups()
    result = instruction.arrays[0]
    products = 2 * result.dims[out_labels.index("b")] * result.dims[out_labels.index("f")]
    products *= rhs.dims[kernel.index("i")]
    window = _window(instruction.rest)
    for spatial in (label for label in out_labels if label.isdigit()):
        place = int(spatial)
        get = lambda key, default, place=place: (  # noqa: E731
            window[key][place] if key in window else default
        )
        products *= _valid_positions(
            size=lhs.dims[left.index(spatial)],
            taps=rhs.dims[kernel.index(spatial)],
            out=result.dims[out_labels.index(spatial)],
            stride=int(get("stride", 1)),
            low=int(str(get("pad", "0_0")).split("_")[0]),
            lhs_dilate=int(get("lhs_dilate", 1)),
            rhs_dilate=int(get("rhs_dilate", 1)),
        )
    return products


def _window(rest: str) -> dict[str, list[str]]:
    """The fields of window={size=1x3 pad=0_0x2_2 ...}, a value per spatial dimension."""
    found = re.search(r"window=\{([^}]*)\}", rest)
    fields = (field.split("=") for field in found[1].split()) if found else ()
    return {key: value.split("x") for key, value in fields}


def _valid_positions(
    *, size: int, taps: int, out: int, stride: int, low: int, lhs_dilate: int, rhs_dilate: int
) -> int:
    """How many (output, tap) pairs of one dimension meet an element of the input."""
    count = 0
    for tap in range(taps):
        for position in range(out):
            at = position * stride + tap * rhs_dilate - low
            count += 0 <= at < (size - 1) * lhs_dilate + 1 and at % lhs_dilate == 0
    return count
