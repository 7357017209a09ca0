"""Cross-entropy over a vocabulary at the few positions that have a label, without all the logits.

About 5 % of the positions of a masked caption have a label, and the vocabulary is wide. So the
labelled tokens are taken a few at a time, in as many passes as it needs, and a pass computes their
logits, the loss and its gradient together: the gradient of a sum of losses is known as soon as the
logits are, up to one factor. No logits are kept for the backward pass or computed twice.
"""

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp

Grads = tuple[jax.Array, jax.Array, jax.Array]  # of tokens, kernel and bias


def masked_word_loss(
    tokens: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    total: jax.Array,
    *,
    at_a_time: int,
) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy of `tokens @ kernel + bias`, sums over `total`; float32 scalars.

    G groups of P positions: a group takes its own labelled tokens together, so with the groups cut
    over devices no token leaves its device. D width, V vocabulary. Source of the loss: IRRA,
    section 3.2, `compute_mlm` of model/objectives.py in its release.

    Args:
      tokens: float [G,P,D]; the products are computed in this dtype and accumulated in float32.
      kernel: float [D,V]. bias: float [V].
      labels: int [G,P], the class of each position, 0 where it has none.
      total: the number of labels to divide by.
      at_a_time: positions of a group in one pass; as many passes as the fullest group needs.
    """
    chex.assert_rank((tokens, kernel, bias, labels), (3, 2, 1, 2))
    chex.assert_equal_shape_prefix((tokens, labels), 2)
    at_a_time = max(1, min(at_a_time, labels.shape[1]))
    summed: Any = _summed  # JAX's types lose what a custom_vjp returns
    loss, hits = summed(at_a_time, tokens, kernel, bias, labels)
    count = jnp.maximum(total, 1).astype(jnp.float32)
    return loss / count, jax.lax.stop_gradient(hits) / count


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(
    at_a_time: int, tokens: jax.Array, kernel: jax.Array, bias: jax.Array, labels: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """(sum of the losses, how many labels have the largest logit)."""
    return _in_passes(at_a_time, tokens, kernel, bias, labels, gradient=False)[0]


def _forward(at_a_time: int, tokens, kernel, bias, labels) -> tuple:  # noqa: ANN001
    return _in_passes(at_a_time, tokens, kernel, bias, labels, gradient=True)


def _backward(at_a_time: int, grads: Grads, upstream: tuple[jax.Array, jax.Array]) -> tuple:
    del at_a_time
    return *(upstream[0].astype(grad.dtype) * grad for grad in grads), None


_summed.defvjp(_forward, _backward)


def _in_passes(
    at_a_time: int,
    tokens: jax.Array,
    kernel: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
    *,
    gradient: bool,
) -> tuple[tuple[jax.Array, jax.Array], Grads]:
    """((loss, hits), gradients of the loss), the latter zero without `gradient`."""
    positions = labels.shape[1]
    words = jnp.arange(bias.shape[0])
    labelled = jnp.sum(labels != 0, axis=1)
    order = jnp.argsort(labels == 0, axis=1, stable=True)  # labelled positions first
    order = jnp.pad(order, ((0, 0), (0, -positions % at_a_time)))
    weights = kernel.astype(tokens.dtype)

    def one_pass(number: jax.Array, sums: tuple) -> tuple:
        (loss, hits), (d_tokens, d_kernel, d_bias) = sums
        start = number * at_a_time
        at = jax.lax.dynamic_slice_in_dim(order, start, at_a_time, axis=1)
        real = start + jnp.arange(at_a_time) < labelled[:, None]
        label = jnp.where(real, jnp.take_along_axis(labels, at, axis=1), 0)
        x = jnp.take_along_axis(tokens, at[..., None], axis=1)
        logits = jnp.einsum("gnd,dv->gnv", x, weights, preferred_element_type=jnp.float32) + bias
        of_label = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
        norm = jax.nn.logsumexp(logits, axis=-1)
        loss += jnp.sum(jnp.where(real, norm - of_label, 0.0))
        hits += jnp.sum(real & (of_label >= jnp.max(logits, axis=-1)), dtype=jnp.float32)
        if gradient:
            share = jnp.exp(logits - norm[..., None]) - (words == label[..., None])
            d_logits = (share * real[..., None]).astype(tokens.dtype)
            d_x = jnp.einsum("gnv,dv->gnd", d_logits, weights)
            # Group by group, so that no row leaves its device; padding adds nothing.
            d_tokens = jax.vmap(lambda rows, i, more: rows.at[i].add(more))(d_tokens, at, d_x)
            product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
            d_kernel += product("gnd,gnv->dv", x, d_logits)
            # A product with ones: on a CPU the plain sum over rows takes longer than all the rest.
            d_bias += product("gn,gnv->v", jnp.ones_like(d_x[..., 0]), d_logits)
        return (loss, hits), (d_tokens, d_kernel, d_bias)

    zero = jnp.zeros((), jnp.float32)
    grads = jnp.zeros_like(tokens), jnp.zeros(kernel.shape), jnp.zeros(bias.shape)
    passes = -(-jnp.max(labelled) // at_a_time)
    sums, grads = jax.lax.fori_loop(0, passes, one_pass, ((zero, zero), grads))
    return sums, (grads[0], grads[1].astype(kernel.dtype), grads[2].astype(bias.dtype))
