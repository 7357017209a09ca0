"""Losses that align images and texts over the whole batch: SDM, ITC and CMPM (spec irra §2).

Every function takes un-normalised float features of the GLOBAL batch, image_embed and text_embed
[B,C] (row a of both is one pair), and returns a scalar. `valid` [B] masks padding rows: they are
neither queries nor candidates. `form` computes the softmax over pairs: `plain.softmax_terms`
with matrices of B x B, `streaming.softmax_terms` in memory linear in B, None: by the batch size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from tipr_jax.losses import plain, streaming
from tipr_jax.losses.label import make_label

Form = Callable[..., tuple[jax.Array, jax.Array | None]]

# Measured on two CPU cores, width 512, forward and backward: equal up to 512 rows, then streaming
# is 1.5x (1,024), 1.8x (2,048), 4x (4,096 rows) as fast, in 1/2, 1/3, 1/7 of the memory.
STREAMING_FROM = 1024


def unit(x: jax.Array) -> jax.Array:
    """Rows divided by their L2 norm, in float32; no epsilon, as in the released code."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _form(form: Form | None, rows: int) -> Form:
    if form is not None:
        return form
    return (streaming if rows >= STREAMING_FROM else plain).softmax_terms


def _mean(rows: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, rows, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def _all_valid(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    return jnp.ones(x.shape[0], bool) if valid is None else valid


def sdm_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    *,
    logit_scale: float | jax.Array,
    image_id: jax.Array | None = None,
    factor: float = 0.3,
    epsilon: float = 1e-8,
    valid: jax.Array | None = None,
    form: Form | None = None,
) -> jax.Array:
    """Similarity distribution matching (IRRA eq. 5-7; spec irra §2).

    KL from the softmax over cosine similarities to the distribution of matching identities, both
    directions added. With `image_id`, pairs of one person but different images weigh `factor`.
    """
    valid = _all_valid(person_id, valid)
    ids, weights = (person_id,), (1.0,)
    if image_id is not None:
        ids, weights = (person_id, image_id), (factor, 1 - factor)
    # Released code: row sums broadcast over the LAST axis, so columns are normalised. It differs
    # from row normalisation only with soft labels.
    label = make_label(ids, weights, valid, epsilon)
    text, image = logit_scale * unit(text_embed), unit(image_embed)
    directions = _form(form, len(valid))(text, image, label, valid)
    return sum(_mean(kl, valid) for kl in directions)


def cmpm_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    *,
    epsilon: float = 1e-8,
    valid: jax.Array | None = None,
    form: Form | None = None,
) -> jax.Array:
    """Cross-modal projection matching: un-normalised features projected on normalised ones.

    Released quirk kept: the label rows have unit L2 norm, so they do not sum to one.
    """
    valid = _all_valid(person_id, valid)
    label = make_label((person_id,), (1.0,), valid, epsilon, order=2)
    image, text = image_embed.astype(jnp.float32), text_embed.astype(jnp.float32)
    kl = _form(form, len(valid))
    image_to_text, _ = kl(image, unit(text), label, valid, both=False)
    text_to_image, _ = kl(text, unit(image), label, valid, both=False)
    return _mean(image_to_text, valid) + _mean(text_to_image, valid)


def itc_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: float | jax.Array,
    valid: jax.Array | None = None,
    form: Form | None = None,
) -> jax.Array:
    """Symmetric InfoNCE of CLIP: each row's own partner is the only positive."""
    valid = _all_valid(image_embed, valid)
    image, text = logit_scale * unit(image_embed), unit(text_embed)
    partner = jnp.sum(image * text, axis=1)
    directions = _form(form, len(valid))(image, text, None, valid)
    return sum(_mean(lse - partner, valid) for lse in directions) / 2
