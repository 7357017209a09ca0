"""The softmax terms of `dense` in memory linear in B: one block of keys at a time.

This is the online softmax that flash attention uses. The forward pass keeps three running sums per
query; the sums per key are complete within one block. The backward pass computes the logits of each
block anew from the saved log-sum-exps. With the batch axis sharded over N devices, each holds the
logits of its own B/N queries with one block: a block takes every n-th row of the batch, so that all
devices contribute to it equally.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

from tipr_jax.losses.dense import MASKED, similarity
from tipr_jax.losses.pair_targets import PairTargets, log_targets

BLOCK = 512  # keys at a time


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5))
def softmax_terms(
    queries: jax.Array,
    keys: jax.Array,
    targets: PairTargets | None,
    valid: jax.Array,
    both: bool = True,
    block: int = BLOCK,
) -> tuple[jax.Array, jax.Array | None]:
    """`dense.softmax_terms` without a B x B matrix; the gradient reaches queries and keys.

    block: number of keys at a time. Other arguments and results as in `dense.softmax_terms`.
    """
    chex.assert_rank((queries, keys), 2)
    chex.assert_equal_shape((queries, keys))
    chex.assert_shape(valid, (len(queries),))
    return _forward(queries, keys, targets, valid, both, block)[0]


def _forward(queries, keys, targets, valid, both, block):
    count = len(valid)
    start = jnp.full(count, MASKED), jnp.zeros(count), None if targets is None else jnp.zeros(count)

    def step(running, columns):
        z, by_key, by_query = _logits(queries, targets, valid, columns)
        of_keys = _finish(_sums(z, by_query, axis=0)) if both else None
        return _merge(running, _sums(z, by_key, axis=1)), of_keys

    running, of_keys = jax.lax.scan(step, start, _cut((keys, targets, valid), block))
    of_queries = _finish(running)
    out = of_queries[1], None if of_keys is None else _join(of_keys[1], count)
    return out, (queries, keys, targets, valid, of_queries, of_keys)


def _backward(both, block, saved, cotangents):
    queries, keys, targets, valid, of_queries, of_keys = saved
    g_queries, g_keys = cotangents
    g_queries, of_queries = jax.tree.map(lambda x: x[:, None], (g_queries, of_queries))

    def step(d_queries, columns):
        columns, g_keys, of_keys = columns
        z, by_key, by_query = _logits(queries, targets, valid, columns)
        dz = _gradient(z, by_key, of_queries, g_queries)
        if both:
            dz += _gradient(z, by_query, of_keys, g_keys)
        d_queries += jnp.matmul(dz, columns[0], precision="highest")
        return d_queries, jnp.matmul(dz.T, queries, precision="highest")

    xs = _cut((keys, targets, valid), block), _cut(g_keys, block), of_keys
    d_queries, d_keys = jax.lax.scan(step, jnp.zeros_like(queries), xs)
    return d_queries, _join(d_keys, len(valid)), None, None


softmax_terms.defvjp(_forward, _backward)


def _logits(queries, targets, valid, columns):
    """[B,b] of all queries with a block of keys: logits, and log targets by key and by query."""
    keys, key_targets, key_valid = columns
    z = similarity(queries, keys)
    z = jnp.where(valid[:, None] & key_valid[None, :], z, MASKED)
    if targets is None:
        return z, None, None
    by_key = log_targets(targets.ids, key_targets.ids, tuple(x[None, :] for x in key_targets.log))
    by_query = log_targets(targets.ids, key_targets.ids, tuple(x[:, None] for x in targets.log))
    return z, by_key, by_query


def _sums(z, target, axis):
    """Along `axis`: maximum m, sum of e^(z-m), sum of e^(z-m) (z - m - target)."""
    top = jnp.max(z, axis, keepdims=True)
    z = z - top
    e = jnp.exp(z)
    total = jnp.sum(e, axis)
    return top.squeeze(axis), total, None if target is None else jnp.sum(e * (z - target), axis)


def _merge(*parts):
    """The `_sums` of two parts of a row as the sums of the whole row."""
    top = jnp.maximum(parts[0][0], parts[1][0])
    total, ratio = 0.0, 0.0
    for part_top, part_total, part_ratio in parts:
        shift = part_top - top
        total += jnp.exp(shift) * part_total
        if part_ratio is not None:
            ratio += jnp.exp(shift) * (part_ratio + shift * part_total)
    return top, total, None if parts[0][2] is None else ratio


def _finish(sums):
    """(logsumexp, the term itself) of complete sums."""
    top, total, ratio = sums
    log_total = jnp.log(total)
    lse = top + log_total
    return lse, lse if ratio is None else ratio / total - log_total


def _gradient(z, target, finished, g):
    """d(sum of g * term) / dz, where `finished` is (logsumexp, term)."""
    lse, term = finished
    p = jnp.exp(z - lse)
    return g * p if target is None else g * p * (z - lse - target - term)


def _cut(tree: Any, block: int) -> Any:
    """[B, ...] -> [n, b, ...], b <= block: block i holds rows i, i + n, i + 2n, ...

    Zeros fill up the last row of every block: rows that are not valid.
    """

    def leaf(x: jax.Array) -> jax.Array:
        n = -(-len(x) // block)
        b = -(-len(x) // n)
        x = jnp.pad(x, [(0, n * b - len(x))] + [(0, 0)] * (x.ndim - 1))
        return jnp.moveaxis(x.reshape(b, n, *x.shape[1:]), 1, 0)

    return jax.tree.map(leaf, tree)


def _join(x: jax.Array, count: int) -> jax.Array:
    """The inverse of `_cut`: [n, b, ...] -> [count, ...]."""
    return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])[:count]
