"""The softmax over all pairs of a batch in its plain form: matrices of B x B."""

import jax
import jax.numpy as jnp

from tipr_jax.losses.label import Label, log_label

MASKED = -1e30  # a logit that no softmax sees; finite, so that 0 * log(0) stays 0


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [R,C] times b [K,C] transposed, in true float32 (accelerators round by default)."""
    return jnp.matmul(a, b.T, precision="highest")


def softmax_terms(
    queries: jax.Array, keys: jax.Array, label: Label | None, valid: jax.Array, both: bool = True
) -> tuple[jax.Array, jax.Array | None]:
    """[B] per query a: KL(softmax(z[a]) || label[a]), or without a label logsumexp(z[a]).

    z = queries keys^T, both [B,C]; rows that are not `valid` are no candidates, and their results
    mean nothing. The second result is the same with z transposed and the label as it is, or None
    unless `both`.
    """
    z = similarity(queries, keys)
    if label is not None:
        target = log_label(label.ids, label.ids, tuple(x[None, :] for x in label.log))

    def direction(z: jax.Array) -> jax.Array:
        z = jnp.where(valid[None, :], z, MASKED)
        if label is None:
            return jax.nn.logsumexp(z, axis=1)
        log_p = jax.nn.log_softmax(z, axis=1)
        return jnp.sum(jnp.exp(log_p) * (log_p - target), axis=1)

    return direction(z), direction(z.T) if both else None
