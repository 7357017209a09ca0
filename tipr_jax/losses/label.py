"""Which pairs of a batch belong together, described by ids: B numbers instead of a B x B matrix."""

from typing import NamedTuple

import jax
import jax.numpy as jnp


class Label(NamedTuple):
    """Logarithm of a target over pairs (a, b): it depends on which ids agree, and on column b.

    ids: person [B] and, for soft labels, image [B]. log: [B] arrays, the value in column b for
    pairs that share neither, only the person, (only the image, both).
    """

    ids: tuple[jax.Array, ...]
    log: tuple[jax.Array, ...]


def make_label(
    ids: tuple[jax.Array, ...],
    weights: tuple[float, ...],
    valid: jax.Array,
    epsilon: float,
    *,
    order: int = 1,
) -> Label:
    """The target sum_k weights[k] * (ids[k][a] == ids[k][b]) / r_b, epsilon inside the logarithm.

    r_b is the L1 norm of column b over valid rows; with `order` 2 (one kind of id only) the L2
    norm. Both come from sorted ids, not from comparing all pairs.
    """
    norm = sum(w**order * count_equal(i, valid) for i, w in zip(ids, weights, strict=True))
    norm = jnp.maximum(norm ** (1 / order), epsilon)
    cases = [0.0]
    for weight in weights:
        cases += [case + weight for case in cases]
    return Label(ids, tuple(jnp.log(case / norm + epsilon) for case in cases))


def log_label(row_ids: tuple, column_ids: tuple, log: tuple) -> jax.Array:
    """[R,K] values of `log` ([1,K] or [R,1] each), by the ids that rows and columns share."""
    if not row_ids:
        return log[0]
    same = row_ids[-1][:, None] == column_ids[-1][None, :]
    half = len(log) // 2
    cases = (
        log_label(row_ids[:-1], column_ids[:-1], log[half:]),
        log_label(row_ids[:-1], column_ids[:-1], log[:half]),
    )
    return jnp.where(same, *cases)


def count_equal(ids: jax.Array, valid: jax.Array) -> jax.Array:
    """[B] float: how many valid rows have each row's id."""
    ids, valid = jnp.asarray(ids), jnp.asarray(valid)
    order = jnp.argsort(ids)
    ordered = ids[order]
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(valid[order], dtype=jnp.int32)])
    first, last = (jnp.searchsorted(ordered, ids, side=side) for side in ("left", "right"))
    return (before[last] - before[first]).astype(jnp.float32)
