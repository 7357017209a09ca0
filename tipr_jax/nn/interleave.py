"""Several inputs per row of a batch through one module in one pass.

The inputs of a row lie side by side (row 0's first, row 0's second, row 1's first, ...) instead of
one batch after the other, so that a batch that is sharded over devices stays where it is.
"""

from collections.abc import Sequence
from typing import overload

import chex
import jax
import jax.numpy as jnp

from tipr_jax.nn.dropout import fold_in


def interleave(batches: Sequence[jax.Array]) -> jax.Array:
    """k arrays [B,...] of one shape and dtype -> [B*k,...]."""
    chex.assert_equal_shape(batches)
    return jnp.stack(batches, axis=1).reshape(-1, *batches[0].shape[1:])


def deinterleave(x: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The inverse of `interleave`: [B*count,...] -> `count` arrays [B,...]."""
    chex.assert_is_divisible(len(x), count)
    rows = x.reshape(-1, count, *x.shape[1:])
    return tuple(rows[:, i] for i in range(count))


@overload
def interleaved_keys(keys: jax.Array, count: int) -> jax.Array: ...
@overload
def interleaved_keys(keys: jax.Array | None, count: int) -> jax.Array | None: ...
def interleaved_keys(keys: jax.Array | None, count: int) -> jax.Array | None:
    """Random keys [B] -> [B*count], one for every input of every row; None stays None."""
    return None if keys is None else interleave([fold_in(keys, i) for i in range(count)])
