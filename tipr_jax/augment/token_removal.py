"""Random removal of tokens, as masks over attention keys.

Source: "bidirectional mask modelling" of IVT, model/backbones/vit_vl.py in its release. The same on
images alone is known as PatchDropout. Removing a token and hiding it as a key from every query give
the same features, because the transformer does not depend on the order of tokens; the mask keeps
shapes static.
"""

import chex
import jax
import jax.numpy as jnp


def keep_tokens(
    key: jax.Array, length: jax.Array, size: int, bound: float, *, per_sample: bool = False
) -> jax.Array:
    """Which tokens stay: bool [B,size]. Token 0 always stays.

    The released law: of n tokens k are removed, k uniform in 0..floor(bound * n); the positions
    are drawn without replacement from 1..n-1, padding of shorter texts included. The number and the
    positions are drawn ONCE for the whole batch, n being its longest length.

    Args:
      key: random key of the batch.
      length: int [B], tokens of each row without padding.
      size: tokens of a row with padding.
      bound: largest share of the tokens that is removed.
      per_sample: every row draws for itself, n being its own length (not in the released code).
    """
    chex.assert_rank(length, 1)
    # The released expression in Python: exact, unlike products in float32.
    most = jnp.asarray([int(bound * n) for n in range(size + 1)])

    def sample(key: jax.Array, n: jax.Array) -> jax.Array:
        count_key, order_key = jax.random.split(key)
        count = jax.random.randint(count_key, (), 0, most[n] + 1)
        position = jnp.arange(size)
        candidate = (position > 0) & (position < n)
        order = jnp.where(candidate, jax.random.uniform(order_key, (size,)), jnp.inf)
        return keep_all_but(count, order)

    if per_sample:
        return jax.vmap(sample)(jax.random.split(key, len(length)), length)
    return jnp.broadcast_to(sample(key, jnp.max(length)), (len(length), size))


def keep_all_but(count: jax.Array, order: jax.Array) -> jax.Array:
    """bool [L], False for the `count` tokens that are first in `order`.

    order: float [L]; a token with infinity always stays.
    """
    chex.assert_rank(order, 1)
    rank = jnp.argsort(jnp.argsort(order))
    return jnp.isinf(order) | (rank >= count)
