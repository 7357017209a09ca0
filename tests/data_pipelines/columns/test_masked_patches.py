"""Masked patches: the laws, and what a mask depends on."""

import random

import numpy as np
import pytest

from data_pipelines.columns.masked_patches import LAWS, block_mask, draw, grid_mask, random_mask
from data_pipelines.random_streams import generator
from tipr_jax.batch import MaskedPatches


def test_blocks_lie_within_tall_grids():
    rng = random.Random(1)
    counts = [int(block_mask((24, 8), 96, rng).sum()) for _ in range(100)]
    assert max(counts) == 96 and min(counts) > 80
    assert not block_mask((1, 1), 1, rng).any()  # no block is smaller than its grid: it gives up
    assert not block_mask((4, 4), 0, rng).any()


def test_random_patches():
    rng = random.Random(0)
    masks = np.array([random_mask((6, 4), 7, rng) for _ in range(3000)])
    assert masks.shape == (3000, 6, 4) and np.all(masks.sum((1, 2)) == 7)
    p = 7 / 24
    assert np.all(np.abs(masks.mean(0) - p) < 5 * np.sqrt(p * (1 - p) / 3000))


def test_grid():
    mask = grid_mask((3, 4), 1, random.Random(0))
    assert mask.astype(int).tolist() == [[0, 1, 0, 1], [1, 0, 1, 0], [0, 1, 0, 1]]


@pytest.fixture
def masks(make_source):
    """masks(law, grid, ratio, row_group, seed=0, batch_size=64)(epoch, places) -> bool [b, P]."""

    def make(*spec, seed=0, batch_size=64):
        columns = draw(MaskedPatches(*spec), make_source((), seed=seed, batch_size=batch_size))
        return lambda epoch, places: columns(places, epoch, places)["patch_mask"]

    return make


@pytest.mark.parametrize("law", LAWS)
def test_masks_of_a_batch(law, masks):
    columns = masks(law, (6, 4), 0.5, 4)
    places = np.array([8, 9, 3, 11, 0])
    batch = columns(2, places)
    assert batch.shape == (5, 24) and batch.dtype == bool and batch.any(1).all()
    for place, mask in zip(places, batch, strict=True):  # alone as in a batch
        np.testing.assert_array_equal(columns(2, np.array([place]))[0], mask)
    np.testing.assert_array_equal(batch[[1, 3]], batch[[0, 0]])  # the group of places 8 to 11
    np.testing.assert_array_equal(batch[2], batch[4])
    np.testing.assert_array_equal(batch, masks(law, (6, 4), 0.5, 4)(2, places))


def test_groups_epochs_and_seeds_differ(masks):
    def some(seed=0, epoch=0, group=4):
        return masks("block", (14, 14), 0.5, group, seed=seed)(epoch, np.arange(12))

    assert len(np.unique(some(), axis=0)) == 3
    assert len(np.unique(some(group=1), axis=0)) == 12
    for other in (some(seed=1), some(epoch=1)):
        assert not np.array_equal(some(), other)
    # Row-major, as the image tower numbers its patches.
    first = block_mask((14, 14), 98, generator("hide patches", 0, 0, 0))
    np.testing.assert_array_equal(some()[0].reshape(14, 14), first)


def test_a_batch_smaller_than_a_group_is_a_group(masks):
    small = masks("random", (6, 4), 0.5, 32, batch_size=8)(0, np.arange(16))
    assert np.all(small[:8] == small[0]) and not np.array_equal(small[0], small[8])


@pytest.mark.parametrize(("ratio", "count"), [(0.5, 98), (0.3, 58), (0.0, 0), (1.0, 196)])
def test_ratio(ratio, count, masks):
    mask = masks("random", (14, 14), ratio, 1)(0, np.array([5]))
    assert mask.sum() == count
