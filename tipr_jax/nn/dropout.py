"""Dropout and stochastic depth (DropPath) with one random key per row of the batch.

What is dropped in a row depends on the row's own key alone, so neither micro-batches nor the layout
over devices change it. `keys=None` means evaluation: nothing is dropped.
"""

from typing import overload

import chex
import jax
import jax.numpy as jnp


@overload
def fold_in(keys: jax.Array, number: int | jax.Array) -> jax.Array: ...
@overload
def fold_in(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None: ...
def fold_in(keys: jax.Array | None, number: int | jax.Array) -> jax.Array | None:
    """`jax.random.fold_in` for keys [B]: independent keys [B] for another use of the same rows."""
    return None if keys is None else jax.vmap(jax.random.fold_in, (0, None))(keys, number)


def dropout(x: jax.Array, keys: jax.Array | None, rate: float) -> jax.Array:
    """x [B,...] with a share `rate` of its values set to 0, the rest divided by 1 - rate.

    Args:
      x: float [B,...]; the result has its shape and dtype.
      keys: random keys [B], or None for no dropout.
      rate: probability in [0, 1) that a value is set to 0.
    """
    if keys is None or rate == 0:
        return x
    chex.assert_shape(keys, (len(x),))
    keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
    return jnp.where(keep, x / (1 - rate), 0).astype(x.dtype)


def drop_path_scales(keys: jax.Array | None, max_rate: float, depth: int) -> jax.Array | None:
    """Factors of the residual branches of `depth` layers, float32 [depth,2,B].

    A factor of 0 drops a branch (attention or MLP) for a row. Deep networks with stochastic depth:
    Huang et al., ECCV 2016; per row and branch as `DropPath` of timm (timm/layers/drop.py).

    Args:
      keys: random keys [B], or None to drop nothing.
      max_rate: rate of the last layer; it grows linearly from 0 in the first.
      depth: number of layers.

    Returns:
      None where nothing is dropped.
    """
    if keys is None or max_rate == 0:
        return None
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (depth, 2)))(keys)
    return drop_path_from_uniform(uniform, max_rate)


def drop_path_from_uniform(uniform: jax.Array, max_rate: float) -> jax.Array:
    """`drop_path_scales` of given random numbers: float [B,depth,2] in [0,1) -> [depth,2,B]."""
    chex.assert_shape(uniform, (None, None, 2))
    rate = jnp.linspace(0.0, max_rate, uniform.shape[1])[:, None]
    # timm computes floor(1 - rate + u); that sum would round to 2 for the largest u.
    keep = uniform >= rate
    return jnp.moveaxis(jnp.where(keep, 1 / (1 - rate), 0.0), 0, -1)
