"""Masked patches of an image: blocks, single patches, or a chessboard (`batch.MaskedPatches`).

The blocks are those of BEiT (Bao et al., ICLR 2022, algorithm 1; `MaskingGenerator` of its
masking_generator.py), which the released Bi-IRRA uses, too. Python's generator is asked in the
order of that class, so that a seed gives the masks of the released code.
"""

import math
import random
from collections.abc import Callable

import numpy as np

from data_pipelines.columns.source import ColumnSource, DrawnColumns
from data_pipelines.random_streams import generator
from tipr_jax.batch import MaskedPatches

MIN_BLOCK = 4  # patches
LOG_ASPECT = math.log(0.3), math.log(1 / 0.3)
TRIES = 10

# (rows, columns), number of patches to mask, generator -> bool [rows, columns]
Law = Callable[[tuple[int, int], int, random.Random], np.ndarray]


def block_mask(grid: tuple[int, int], count: int, rng: random.Random) -> np.ndarray:
    """Adds rectangles until `count` patches are masked, or until none was found in ten tries."""
    mask = np.zeros(grid, bool)
    while (room := count - int(mask.sum())) > 0:
        if not _add_block(mask, room, rng):
            break
    return mask


def _add_block(mask: np.ndarray, room: int, rng: random.Random) -> bool:
    """Masks a block with 1 to `room` patches that were not masked yet; False if none was found."""
    height, width = mask.shape
    for _ in range(TRIES):
        area = rng.uniform(MIN_BLOCK, room)  # MIN_BLOCK > room happens in the released code, too
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


def draw(spec: MaskedPatches, source: ColumnSource) -> DrawnColumns:
    """patch_mask bool [b, P], row-major in the image; True: masked.

    A function of (seed, epoch, place in the epoch). Rows that share a mask are `row_group`
    consecutive places, or a whole batch if that is smaller.

    Raises:
      ValueError: an unknown law.
    """
    if spec.law not in LAWS:
        raise ValueError(f"the law of the masked patches is {spec.law!r}, use one of {list(LAWS)}")
    law, count = LAWS[spec.law], int(math.prod(spec.grid) * spec.ratio)
    group_size = min(spec.row_group, source.batch_size)

    def columns(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        groups, group_of = np.unique(places // group_size, return_inverse=True)
        masks = [
            law(spec.grid, count, generator("hide patches", source.seed, epoch, group))
            for group in groups.tolist()
        ]
        return {"patch_mask": np.stack(masks).reshape(len(groups), -1)[group_of]}

    return columns
