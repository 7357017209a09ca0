"""What a TPU chip offers, as its maker states it."""

from typing import NamedTuple

GIB = 2**30


class Chip(NamedTuple):
    """One chip: memory (HBM) in bytes, its bytes per second, and bfloat16 FLOPs per second."""

    memory: int
    bandwidth: float
    flops: float


# https://cloud.google.com/tpu/docs/v4, v5e, v5p, v6e: "HBM capacity", "HBM bandwidth" and "peak
# compute" per chip, read in November 2026.
CHIPS = {
    "v4": Chip(32 * GIB, 1228e9, 275e12),
    "v5e": Chip(16 * GIB, 819e9, 197e12),
    "v5p": Chip(95 * GIB, 2765e9, 459e12),
    "v6e": Chip(32 * GIB, 1640e9, 918e12),
}


def chip_of(topology: str) -> Chip:
    """The chips of a slice like v5e:4x4.

    Raises:
      ValueError: an unknown chip.
    """
    name = topology.partition(":")[0]
    if name not in CHIPS:
        raise ValueError(f"--topology={topology}: unknown chip {name!r}, expected {sorted(CHIPS)}")
    return CHIPS[name]
