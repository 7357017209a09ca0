"""Several inputs per row of a batch through one module in one pass.

The inputs of a row lie side by side (row 0's first, row 0's second, row 1's first, ...), so that a
batch sharded over devices stays where it is.
"""

from collections.abc import Sequence

import jax
import jax.numpy as jnp

from tipr_jax.nn.noise import fold_in


def interleave(views: Sequence[jax.Array]) -> jax.Array:
    """k arrays [B,...] -> [B*k,...]."""
    return jnp.stack(views, axis=1).reshape(-1, *views[0].shape[1:])


def separate(x: jax.Array, count: int) -> tuple[jax.Array, ...]:
    """The inverse of `interleave`."""
    views = x.reshape(-1, count, *x.shape[1:])
    return tuple(views[:, i] for i in range(count))


def view_keys(keys: jax.Array | None, count: int) -> jax.Array | None:
    """Random keys [B] -> [B*k], one for every view of every row."""
    return None if keys is None else interleave([fold_in(keys, i) for i in range(count)])
