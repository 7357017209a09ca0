"""Cross-entropy over a vocabulary at the few positions that have a label, without all the logits.

About 5 % of the positions of a masked caption have a label, and the vocabulary is wide. So the
labelled positions are taken a few at a time, in as many passes as it needs, and a pass computes
their tokens, the logits, the loss and its gradient together: the gradient of a sum of losses is
known as soon as the logits are, up to one factor. No logits are kept for the backward pass or
computed twice, and what leads to a token is computed at labelled positions alone.
"""

import functools
from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

Hidden = Callable[[Any, jax.Array], jax.Array]
Grads = tuple[Any, jax.Array, jax.Array]  # of variables, kernel and bias


def masked_word_loss(
    hidden: Hidden,
    variables: Any,
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
      hidden: (variables, position int [G,N]) -> tokens float [G,N,D] at these positions of each
        group; `of_tokens`, if all of them are there. The products are computed in the tokens' dtype
        and accumulated in float32.
      variables: all that `hidden` reads and that may have a gradient, a tree of arrays.
      kernel: float [D,V]. bias: float [V].
      labels: int [G,P], the class of each position, 0 where it has none.
      total: the number of labels to divide by.
      at_a_time: positions of a group in one pass; as many passes as the fullest group needs.
    """
    chex.assert_rank((kernel, bias, labels), (2, 1, 2))
    at_a_time = max(1, min(at_a_time, labels.shape[1]))
    summed: Any = _summed  # JAX's types lose what a custom_vjp returns
    loss, hits = summed(hidden, at_a_time, variables, kernel, bias, labels)
    count = jnp.maximum(total, 1).astype(jnp.float32)
    return loss / count, jax.lax.stop_gradient(hits) / count


def of_tokens(tokens: jax.Array, position: jax.Array) -> jax.Array:
    """A `hidden` for tokens [G,P,D] that are computed already."""
    return jnp.take_along_axis(tokens, position[..., None], axis=1)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _summed(
    hidden: Hidden,
    at_a_time: int,
    variables: Any,
    kernel: jax.Array,
    bias: jax.Array,
    labels: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """(sum of the losses, how many labels have the largest logit)."""
    return _in_passes(hidden, at_a_time, variables, kernel, bias, labels, gradient=False)[0]


def _forward(hidden: Hidden, at_a_time: int, variables, kernel, bias, labels) -> tuple:  # noqa: ANN001
    return _in_passes(hidden, at_a_time, variables, kernel, bias, labels, gradient=True)


def _backward(
    hidden: Hidden, at_a_time: int, grads: Grads, upstream: tuple[jax.Array, jax.Array]
) -> tuple:
    del hidden, at_a_time
    scaled = jax.tree.map(lambda grad: upstream[0].astype(grad.dtype) * grad, grads)
    return *scaled, None


_summed.defvjp(_forward, _backward)


def _in_passes(
    hidden: Hidden,
    at_a_time: int,
    variables: Any,
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

    def one_pass(number: jax.Array, sums: tuple) -> tuple:
        (loss, hits), (d_variables, d_kernel, d_bias) = sums
        start = number * at_a_time
        at = jax.lax.dynamic_slice_in_dim(order, start, at_a_time, axis=1)
        real = start + jnp.arange(at_a_time) < labelled[:, None]
        label = jnp.where(real, jnp.take_along_axis(labels, at, axis=1), 0)
        if gradient:
            x, pull_back = jax.vjp(lambda v: hidden(v, at), variables)
        else:
            x, pull_back = hidden(variables, at), None
        weights = kernel.astype(x.dtype)
        logits = jnp.einsum("gnd,dv->gnv", x, weights, preferred_element_type=jnp.float32) + bias
        of_label = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
        norm = jax.nn.logsumexp(logits, axis=-1)
        loss += jnp.sum(jnp.where(real, norm - of_label, 0.0))
        hits += jnp.sum(real & (of_label >= jnp.max(logits, axis=-1)), dtype=jnp.float32)
        if pull_back:
            share = jnp.exp(logits - norm[..., None]) - (words == label[..., None])
            d_logits = (share * real[..., None]).astype(x.dtype)
            d_x = jnp.einsum("gnv,dv->gnd", d_logits, weights)
            d_variables = jax.tree.map(jnp.add, d_variables, pull_back(d_x)[0])
            product = functools.partial(jnp.einsum, preferred_element_type=jnp.float32)
            d_kernel += product("gnd,gnv->dv", x, d_logits)
            # A product with ones: on a CPU the plain sum over rows takes longer than all the rest.
            d_bias += product("gn,gnv->v", jnp.ones_like(d_x[..., 0]), d_logits)
        return (loss, hits), (d_variables, d_kernel, d_bias)

    zero = jnp.zeros((), jnp.float32)
    none = jax.tree.map(jnp.zeros_like, variables)
    grads = none, jnp.zeros(kernel.shape), jnp.zeros(bias.shape)
    passes = -(-jnp.max(labelled) // at_a_time)
    sums, grads = jax.lax.fori_loop(0, passes, one_pass, ((zero, zero), grads))
    return sums, (grads[0], grads[1].astype(kernel.dtype), grads[2].astype(bias.dtype))
