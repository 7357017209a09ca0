"""Distances between the tokens of a teacher and of a student.

Bi-IRRA (arXiv 2510.17685) distils with them between masked and clean images, Table VII. The teacher
carries no gradient. `valid` bool [B] is False for padding rows. All results are float32 scalars.
"""

import chex
import jax
import jax.numpy as jnp


def cosine_distance(teacher: jax.Array, student: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean over valid rows and all tokens of 1 - cos; teacher and student float [B,S,D]."""
    _check(teacher, student, valid, rank=3)
    t, s = _teacher(teacher), student.astype(jnp.float32)
    norms = jnp.linalg.norm(t, axis=-1) * jnp.linalg.norm(s, axis=-1)
    return _mean(1 - jnp.sum(t * s, axis=-1) / jnp.maximum(norms, 1e-8), valid)


def smooth_l1_distance(
    teacher: jax.Array, student: jax.Array, valid: jax.Array, beta: float = 0.5
) -> jax.Array:
    """Mean smooth L1 distance of the student to the layer-normalised teacher, float [B,S,D] both.

    The layer norm has no parameters. beta: below this error the distance is quadratic.
    """
    _check(teacher, student, valid, rank=3)
    t = _teacher(teacher)
    centred = t - jnp.mean(t, axis=-1, keepdims=True)
    t = centred * jax.lax.rsqrt(jnp.mean(centred**2, axis=-1, keepdims=True) + 1e-5)
    error = jnp.abs(student.astype(jnp.float32) - t)
    return _mean(jnp.where(error < beta, 0.5 * error**2 / beta, error - 0.5 * beta), valid)


def attention_divergence(teacher: jax.Array, student: jax.Array, valid: jax.Array) -> jax.Array:
    """KL(softmax(teacher) || softmax(student)) of attention probabilities, float [B,H,S,M].

    Sum over the M keys, mean over valid rows, heads and queries. The softmax is a second one, over
    probabilities: that is the released formula.
    """
    _check(teacher, student, valid, rank=4)
    log_t = jax.nn.log_softmax(_teacher(teacher), axis=-1)
    log_s = jax.nn.log_softmax(student.astype(jnp.float32), axis=-1)
    return _mean(jnp.sum(jnp.exp(log_t) * (log_t - log_s), axis=-1), valid)


def _check(teacher: jax.Array, student: jax.Array, valid: jax.Array, rank: int) -> None:
    chex.assert_rank((teacher, student), rank)
    chex.assert_equal_shape((teacher, student))
    chex.assert_shape(valid, (len(teacher),))


def _teacher(x: jax.Array) -> jax.Array:
    return jax.lax.stop_gradient(x.astype(jnp.float32))


def _mean(values: jax.Array, valid: jax.Array) -> jax.Array:
    """Mean of [B,...] over valid rows and all other axes."""
    rows = jnp.mean(values, axis=tuple(range(1, values.ndim)))
    return jnp.sum(jnp.where(valid, rows, 0.0)) / jnp.maximum(jnp.sum(valid), 1)
