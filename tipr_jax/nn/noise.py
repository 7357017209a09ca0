"""Dropout and DropPath with one random key per row of the batch.

A row's draws depend on its own key alone, so neither micro-batches nor the layout over devices
change them. `keys=None` means evaluation: nothing is dropped.
"""

import jax
import jax.numpy as jnp


def fold_in(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """Independent keys [B] for another use of the same rows."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """x [B,...] with entries zeroed at `rate`, the others divided by 1 - rate; keys [B]."""
    if keys is None or rate == 0:
        return x
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def drop_path_scale(uniform: jax.Array, max_rate: float) -> jax.Array:
    """Factors of the residual branches, [depth,2,B]: 0 drops a branch for a row.

    uniform float [B,depth,2] in [0,1): one draw per row, layer and branch. The rate grows linearly
    from 0 in the first layer to `max_rate` in the last.
    """
    rate = jnp.linspace(0.0, max_rate, uniform.shape[1])[:, None]
    # floor(1 - rate + u) of the released code; the sum would round to 2 for the largest u.
    keep = uniform >= rate
    return jnp.moveaxis(jnp.where(keep, 1 / (1 - rate), 0.0), 0, -1)


def drop_path(keys: jax.Array | None, max_rate: float, depth: int) -> jax.Array | None:
    """`drop_path_scale` of fresh draws, or None if nothing is dropped; keys [B]."""
    if keys is None or max_rate == 0:
        return None
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
    return drop_path_scale(uniform, max_rate)
