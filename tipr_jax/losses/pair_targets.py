"""Target distributions over the pairs of a batch, described by ids.

A target is B numbers per kind of id instead of a matrix of B x B, so that the streaming losses can
compute any block of it.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp


class PairTargets(NamedTuple):
    """Logarithm of a target over pairs (a, b): it depends on which ids agree, and on column b.

    ids: int [B] arrays, the person and, for soft targets, the image. log: float32 [B] arrays, the
    value in column b for pairs that share neither id, only the person, only the image, both (the
    last two only with image ids).
    """

    ids: tuple[jax.Array, ...]
    log: tuple[jax.Array, ...]


def make_pair_targets(
    ids: tuple[jax.Array, ...],
    weights: tuple[float, ...],
    valid: jax.Array,
    epsilon: float,
    *,
    order: int = 1,
) -> PairTargets:
    """The target sum_k weights[k] * (ids[k][a] == ids[k][b]) / r_b, plus epsilon, as a logarithm.

    r_b is the L1 norm of column b over valid rows; with `order` 2 (one kind of id only) the L2
    norm. Both come from sorted ids instead of comparing all pairs.

    Args:
      ids: int [B] arrays, one per kind of id.
      weights: what agreement of each kind adds.
      valid: bool [B]; False for padding rows.
      epsilon: added to the target inside the logarithm, and the smallest norm.
      order: 1 or 2, of the norm.
    """
    chex.assert_rank(valid, 1)
    chex.assert_equal_shape((*ids, valid))
    norm = sum(w**order * count_equal(i, valid) for i, w in zip(ids, weights, strict=True))
    norm = jnp.maximum(norm ** (1 / order), epsilon)
    cases = [0.0]
    for weight in weights:
        cases += [case + weight for case in cases]
    return PairTargets(ids, tuple(jnp.log(case / norm + epsilon) for case in cases))


def log_targets(row_ids: tuple, column_ids: tuple, log: tuple) -> jax.Array:
    """[R,K] values of `log` ([1,K] or [R,1] each), by the ids that rows and columns share."""
    if not row_ids:
        return log[0]
    same = row_ids[-1][:, None] == column_ids[-1][None, :]
    half = len(log) // 2
    cases = (
        log_targets(row_ids[:-1], column_ids[:-1], log[half:]),
        log_targets(row_ids[:-1], column_ids[:-1], log[:half]),
    )
    return jnp.where(same, *cases)


def count_equal(ids: jax.Array, valid: jax.Array) -> jax.Array:
    """float32 [B]: how many valid rows have the id of each row; ids int [B], valid bool [B]."""
    chex.assert_equal_shape((ids, valid))
    ids, valid = jnp.asarray(ids), jnp.asarray(valid)
    order = jnp.argsort(ids)
    ordered = ids[order]
    before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(valid[order], dtype=jnp.int32)])
    first, last = (jnp.searchsorted(ordered, ids, side=side) for side in ("left", "right"))
    return (before[last] - before[first]).astype(jnp.float32)
