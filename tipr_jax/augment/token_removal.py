"""Random removal of tokens ("bidirectional mask modelling" of IVT; spec ivt §4), as key masks.

Removing a token and hiding it as a key from every query give the same features, because the
transformer does not care about the order of tokens; the mask keeps shapes static.
"""

import jax
import jax.numpy as jnp


def keep_tokens(
    key: jax.Array, length: jax.Array, size: int, bound: float, *, per_sample: bool = False
) -> jax.Array:
    """Which tokens stay: bool [B,size], token 0 always.

    The released law: of n tokens, k are removed, k uniform in 0..floor(bound * n); the positions
    are drawn without replacement from 1..n-1, padding of shorter texts included. Count and
    positions are drawn ONCE for the whole batch, n being its longest length.

    Args:
      key: of the batch.
      length: int [B], real tokens of each row.
      size: tokens of the padded row.
      bound: largest share removed.
      per_sample: every row draws for itself, n being its own length (ours).
    """
    # The released expression in Python: exact, unlike products in float32.
    most = jnp.asarray([int(bound * n) for n in range(size + 1)])

    def draw(key: jax.Array, n: jax.Array) -> jax.Array:
        count_key, order_key = jax.random.split(key)
        count = jax.random.randint(count_key, (), 0, most[n] + 1)
        position = jnp.arange(size)
        candidate = (position > 0) & (position < n)
        order = jnp.where(candidate, jax.random.uniform(order_key, (size,)), jnp.inf)
        return keep_all_but(count, order)

    if per_sample:
        return jax.vmap(draw)(jax.random.split(key, len(length)), length)
    return jnp.broadcast_to(draw(key, jnp.max(length)), (len(length), size))


def keep_all_but(count: jax.Array, order: jax.Array) -> jax.Array:
    """False for the `count` tokens first in `order` float [L]; infinite: no candidate. Bool [L]."""
    rank = jnp.argsort(jnp.argsort(order))
    return jnp.isinf(order) | (rank >= count)
