"""The order in which training visits (image, caption) pairs: pure functions of (seed, epoch).

A row is an index into the captions of a split, -1 a padding row. Because an order depends on
nothing but (seed, epoch), training resumes at any step without replay, and the global batches are
the same for every number of processes.
"""

import random
from collections.abc import Sequence

import numpy as np

from data_pipelines.data_config import SamplerConfig
from data_pipelines.datasets.split import Split

PADDING_ROW = -1


def random_order(n: int, seed: int, epoch: int) -> np.ndarray:
    """A permutation of 0..n-1, int64 [n]."""
    # RandomState, unlike Generator, promises the same stream in every numpy release.
    return np.random.RandomState(_seeds(seed, epoch)).permutation(n)


def identity_order(
    person_ids: Sequence[int],
    batch_size: int,
    num_instances: int,
    py_rng: random.Random,
    np_rng: np.random.RandomState,
) -> np.ndarray:
    """The identity sampler of the released IRRA, draw for draw.

    `RandomIdentitySampler` of its datasets/sampler.py.

    Each person's rows are shuffled and cut into groups of K = num_instances (a person with fewer
    than K rows is filled up by drawing with replacement; a remainder is dropped). While
    P = batch_size // K persons have groups left, P of them are drawn, each gives its next group.

    Args:
      person_ids: [N] person of each row.
      batch_size: rows per batch, a multiple of num_instances.
      num_instances: K, rows per person in a batch.
      py_rng: draws shuffles and persons.
      np_rng: draws the fill-ups.

    Returns:
      int64 [M], M a multiple of batch_size; M varies with the draws.
    """
    persons_per_batch = _persons_per_batch(batch_size, num_instances)
    rows_of: dict[int, list[int]] = {}
    for row, person in enumerate(person_ids):
        rows_of.setdefault(int(person), []).append(row)
    groups_of = {}
    for person, rows in rows_of.items():
        if len(rows) < num_instances:
            rows = list(np_rng.choice(rows, size=num_instances, replace=True))
        py_rng.shuffle(rows)
        whole = len(rows) // num_instances * num_instances
        groups_of[person] = [rows[i : i + num_instances] for i in range(0, whole, num_instances)]
    available = list(groups_of)
    order = []
    while len(available) >= persons_per_batch:
        for person in py_rng.sample(available, persons_per_batch):
            order.extend(groups_of[person].pop(0))
            if not groups_of[person]:
                available.remove(person)
    return np.array(order, np.int64)


def steps_per_epoch(split: Split, data_cfg: SamplerConfig) -> int:
    """Number of batches of every epoch; it depends on the split and the config, never on the draws.

    random: ceil(N / batch_size), or floor with last_batch "drop".
    identity: the number of batches that every order is sure to reach. An order ends with fewer than
    P persons unfinished, so it uses at least all groups except for the groups of the P - 1 persons
    with most groups. Longer orders are cut there; the epochs of the released code differ in length
    by a few batches.

    Raises:
      ValueError: no full batch is possible, or an option is unknown.
    """
    pairs, batch_size = len(split.caption), data_cfg.batch_size
    if data_cfg.sampler == "identity":
        steps = _identity_steps(split.caption_person_id, batch_size, data_cfg.num_instances)
    elif data_cfg.sampler != "random":
        raise ValueError(f"data.sampler {data_cfg.sampler!r} unknown; use 'random' or 'identity'")
    elif data_cfg.last_batch == "pad":
        steps = -(-pairs // batch_size)
    elif data_cfg.last_batch == "drop":
        steps = pairs // batch_size
    else:
        raise ValueError(f"data.last_batch {data_cfg.last_batch!r} is unknown; use 'pad' or 'drop'")
    if not steps:
        raise ValueError(
            f"the {split.name} split has {pairs} captions of {split.num_persons} persons, too few "
            f"for one batch of {batch_size} with sampler {data_cfg.sampler!r}; "
            "use a smaller --config.data.batch_size"
        )
    return steps


def epoch_batches(split: Split, data_cfg: SamplerConfig, seed: int, epoch: int) -> np.ndarray:
    """All global batches of one epoch: rows int64 [steps_per_epoch, batch_size].

    Padding rows (-1) are at the very end. Errors as `steps_per_epoch`.
    """
    steps = steps_per_epoch(split, data_cfg)
    if data_cfg.sampler == "identity":
        order = _identity_epoch_order(split.caption_person_id, data_cfg, seed, epoch)
    else:
        order = random_order(len(split.caption), seed, epoch)
    return batch_rows(order, data_cfg.batch_size)[:steps]


def batch_rows(order: np.ndarray, batch_size: int) -> np.ndarray:
    """Cuts an order [N] into int64 [ceil(N / batch_size), batch_size], the last filled up by -1."""
    steps = -(-len(order) // batch_size)
    rows = np.full(steps * batch_size, PADDING_ROW, np.int64)
    rows[: len(order)] = order
    return rows.reshape(steps, batch_size)


def _identity_epoch_order(
    person_ids: np.ndarray, data_cfg: SamplerConfig, seed: int, epoch: int
) -> np.ndarray:
    seeds = _seeds(seed, epoch)
    return identity_order(
        person_ids.tolist(),
        data_cfg.batch_size,
        data_cfg.num_instances,
        random.Random(int(seeds[0])),
        np.random.RandomState(seeds[1:]),
    )


def _identity_steps(person_ids: np.ndarray, batch_size: int, num_instances: int) -> int:
    persons_per_batch = _persons_per_batch(batch_size, num_instances)
    rows_per_person = np.unique(person_ids, return_counts=True)[1]
    groups = np.sort(np.maximum(rows_per_person, num_instances) // num_instances)
    sure = groups[: max(len(groups) - (persons_per_batch - 1), 0)].sum()
    return int(-(-sure // persons_per_batch))


def _persons_per_batch(batch_size: int, num_instances: int) -> int:
    if num_instances < 1 or batch_size % num_instances:
        raise ValueError(
            f"batch_size {batch_size} is not a multiple of num_instances {num_instances}; "
            "change --config.data.batch_size or --config.data.num_instances"
        )
    return batch_size // num_instances


def _seeds(seed: int, epoch: int) -> np.ndarray:
    """uint32 [4], well mixed: neighbouring seeds and epochs give unrelated orders."""
    return np.random.SeedSequence([seed, epoch]).generate_state(4)
