"""The softmax over all pairs of a batch with matrices of B x B."""

import chex
import jax
import jax.numpy as jnp

from tipr_jax.losses.pair_targets import PairTargets, log_targets

MASKED = -1e30  # a logit that no softmax sees; finite, so that 0 * log(0) stays 0


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [R,C] times b [K,C] transposed, in true float32 (accelerators round by default)."""
    return jnp.matmul(a, b.T, precision="highest")


def softmax_terms(
    queries: jax.Array,
    keys: jax.Array,
    targets: PairTargets | None,
    valid: jax.Array,
    both: bool = True,
) -> tuple[jax.Array, jax.Array | None]:
    """Per query a: KL(softmax(z[a]) || targets[a]), or without targets logsumexp(z[a]).

    z = queries keys^T. Both results are float32 [B]; the second one is the same with z transposed
    and the targets as they are.

    Args:
      queries, keys: float32 [B,C].
      targets: over (query, key).
      valid: bool [B]; rows that are not valid are no candidates, and their results mean nothing.
      both: False: the second result is None.
    """
    chex.assert_rank((queries, keys), 2)
    chex.assert_equal_shape((queries, keys))
    chex.assert_shape(valid, (len(queries),))
    z = similarity(queries, keys)
    if targets is not None:
        log_target = log_targets(targets.ids, targets.ids, tuple(x[None, :] for x in targets.log))

    def direction(z: jax.Array) -> jax.Array:
        z = jnp.where(valid[None, :], z, MASKED)
        if targets is None:
            return jax.nn.logsumexp(z, axis=1)
        log_p = jax.nn.log_softmax(z, axis=1)
        return jnp.sum(jnp.exp(log_p) * (log_p - log_target), axis=1)

    return direction(z), direction(z.T) if both else None
