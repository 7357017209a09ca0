"""Which patches of an image are hidden from Bi-IRRA's student: blocks, single ones, or a grid.

Source: spec bi_irra §3.5. The blocks are BEiT's, and Python's generator is asked in the order of
the released code, so that a seed gives the released masks.
"""

import math
import random
from collections.abc import Callable

import numpy as np

from data_pipelines.draws import generator

MIN_BLOCK = 4  # patches
LOG_ASPECT = math.log(0.3), math.log(1 / 0.3)
TRIES = 10

# (rows, columns), number of patches to hide, generator -> bool [rows, columns]
Law = Callable[[tuple[int, int], int, random.Random], np.ndarray]


def block_mask(grid: tuple[int, int], count: int, rng: random.Random) -> np.ndarray:
    """Rectangles until `count` patches are hidden; a few less if no more fits in ten tries."""
    mask = np.zeros(grid, bool)
    while (room := count - int(mask.sum())) > 0:
        if not _add_block(mask, room, rng):
            break
    return mask


def _add_block(mask: np.ndarray, room: int, rng: random.Random) -> bool:
    """Hides a block of at most `room` patches that are not hidden yet; False if none was found."""
    height, width = mask.shape
    for _ in range(TRIES):
        area = rng.uniform(MIN_BLOCK, room)  # the bounds may be the wrong way round, as released
        aspect = math.exp(rng.uniform(*LOG_ASPECT))
        h, w = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if h >= height or w >= width:
            continue
        top, left = rng.randint(0, height - h), rng.randint(0, width - w)
        block = mask[top : top + h, left : left + w]
        if 0 < block.size - block.sum() <= room:
            block[:] = True
            return True
    return False


def random_mask(grid: tuple[int, int], count: int, rng: random.Random) -> np.ndarray:
    """`count` patches, all sets of them equally likely."""
    mask = np.zeros(math.prod(grid), bool)
    mask[rng.sample(range(mask.size), count)] = True
    return mask.reshape(grid)


def grid_mask(grid: tuple[int, int], count: int, rng: random.Random) -> np.ndarray:
    """A chessboard, whatever `count`: half of the patches, or one less."""
    return np.indices(grid).sum(axis=0) % 2 == 1


LAWS: dict[str, Law] = {"block": block_mask, "random": random_mask, "grid": grid_mask}


class PatchMasks:
    """The patch masks of a batch, a function of (seed, epoch, place in the epoch).

    Args:
      law: key of LAWS.
      grid: rows and columns of patches.
      ratio: share of the patches to hide, rounded down.
      group: so many consecutive places share a mask.
      seed: of the draws.
    """

    def __init__(self, law: str, grid: tuple[int, int], ratio: float, group: int, seed: int):
        self.law, self.grid, self.group, self.seed = LAWS[law], grid, group, seed
        self.count = int(math.prod(grid) * ratio)

    def __call__(self, epoch: int, places: np.ndarray) -> np.ndarray:
        """bool [b, P] for the places int [b], row-major in the image; True: hidden."""
        groups, which = np.unique(places // self.group, return_inverse=True)
        masks = [
            self.law(self.grid, self.count, generator("hide patches", self.seed, epoch, group))
            for group in groups.tolist()
        ]
        return np.stack(masks).reshape(len(groups), -1)[which]
