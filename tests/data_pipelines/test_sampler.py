"""Index orders of training."""

import dataclasses
import random
import types

import numpy as np
import pytest

from data_pipelines import sampler
from data_pipelines.datasets.split import Split


def split_with(person_ids) -> Split:
    """A train split with one caption per image."""
    n = len(person_ids)
    return Split(
        name="train",
        image_path=tuple(f"/{i}.png" for i in range(n)),
        image_person_id=np.array(person_ids, np.int32),
        caption=tuple(f"caption {i}" for i in range(n)),
        caption_image_id=np.arange(n, dtype=np.int32),
    )


def config(**fields) -> types.SimpleNamespace:
    defaults = {"batch_size": 4, "sampler": "random", "num_instances": 2, "last_batch": "pad"}
    return types.SimpleNamespace(**(defaults | fields))


def test_random_order_is_a_permutation_that_depends_on_seed_and_epoch():
    order = sampler.random_order(100, 3, 5)
    assert sorted(order) == list(range(100))
    np.testing.assert_array_equal(order, sampler.random_order(100, 3, 5))
    for other in ((3, 6), (4, 5), (5, 3)):
        assert not np.array_equal(order, sampler.random_order(100, *other))


def test_orders_never_change_between_releases():
    assert sampler.random_order(8, 1, 2).tolist() == [6, 4, 7, 1, 2, 5, 0, 3]
    rows = sampler.epoch_batches(
        split_with([0, 0, 0, 1, 1, 2, 2, 2]), config(sampler="identity"), 1, 2
    )
    assert rows.tolist() == [[5, 6, 4, 3]]


def test_random_epoch_visits_every_row_once_and_pads_the_end():
    rows = sampler.epoch_batches(split_with(range(10)), config(), seed=0, epoch=0)
    assert rows.shape == (3, 4)
    assert sorted(rows.flat) == [-1, -1, *range(10)]
    assert rows[-1, 2:].tolist() == [-1, -1]


def test_drop_leaves_the_partial_batch_out():
    pad = sampler.epoch_batches(split_with(range(10)), config(), 0, 0)
    drop = sampler.epoch_batches(split_with(range(10)), config(last_batch="drop"), 0, 0)
    np.testing.assert_array_equal(drop, pad[:2])


def test_identity_batches_hold_p_persons_of_k_rows():
    person_ids = np.random.default_rng(0).integers(0, 12, 90)
    cfg = config(batch_size=12, num_instances=3, sampler="identity")
    epochs = [sampler.epoch_batches(split_with(person_ids), cfg, 0, epoch) for epoch in range(3)]
    for rows in np.concatenate(epochs):
        persons, counts = np.unique(person_ids[rows], return_counts=True)
        assert len(persons) == 4 and set(counts) == {3}
    assert not np.array_equal(epochs[0], epochs[1])


def test_identity_rows_are_pairs_not_images():
    """An image with several captions may be twice in a batch, once with each."""
    split = dataclasses.replace(split_with([0, 1]), caption=("a", "b", "c", "d"))
    split = dataclasses.replace(split, caption_image_id=np.array([0, 0, 1, 1], np.int32))
    rows = sampler.epoch_batches(split, config(sampler="identity"), seed=0, epoch=0)
    assert sorted(rows.flat) == [0, 1, 2, 3]


def test_every_identity_order_reaches_the_declared_steps():
    rng = np.random.default_rng(0)
    reached = []
    for seed in range(300):
        person_ids = rng.zipf(1.5, rng.integers(8, 60)) % rng.integers(4, 10)
        cfg = config(batch_size=int(rng.integers(1, 5)) * 2, sampler="identity")
        split = split_with(person_ids)
        if split.num_persons < cfg.batch_size // 2:
            continue
        order = sampler.identity_order(
            person_ids, cfg.batch_size, 2, random.Random(seed), np.random.RandomState(seed)
        )
        steps = sampler.steps_per_epoch(split, cfg)
        assert len(order) >= steps * cfg.batch_size
        reached.append(len(order) == steps * cfg.batch_size)
    assert any(reached)  # the declared number is not needlessly small


@pytest.mark.parametrize(
    ("persons", "fields", "message"),
    [
        (range(3), {"last_batch": "drop"}, "too few for one batch of 4"),
        ([0, 0, 0, 0], {"sampler": "identity"}, "4 captions of 1 persons, too few"),
        (range(9), {"sampler": "identity", "num_instances": 3}, "not a multiple of num_instances"),
        (range(9), {"sampler": "balanced"}, "use 'random' or 'identity'"),
        (range(9), {"last_batch": "keep"}, "use 'pad' or 'drop'"),
        ([], {}, "0 captions"),
    ],
)
def test_impossible_configs(persons, fields, message):
    with pytest.raises(ValueError, match=message):
        sampler.steps_per_epoch(split_with(persons), config(**fields))
