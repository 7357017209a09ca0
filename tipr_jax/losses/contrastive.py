"""Losses that align images and texts over the whole batch: SDM, ITC and CMPM (spec irra §2).

Every function takes un-normalised float features of the GLOBAL batch, image_embed and text_embed
[B,C] (row a of both is one pair), and returns a scalar. `valid` [B] masks padding rows: they are
neither queries nor candidates.
"""

import jax
import jax.numpy as jnp

_MASKED = -1e30  # a logit that no softmax sees; finite, so that 0 * log(0) stays 0


def unit(x: jax.Array) -> jax.Array:
    """Rows divided by their L2 norm, in float32; no epsilon, as in the released code."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def similarity(a: jax.Array, b: jax.Array) -> jax.Array:
    """a [B,C] times b [B,C] transposed, in true float32 (accelerators round by default)."""
    return jnp.matmul(a, b.T, precision="highest")


def _same(ids: jax.Array, valid: jax.Array) -> jax.Array:
    """[B,B] float: 1 where two valid rows share the id."""
    same = (ids[:, None] == ids[None, :]) & valid[:, None] & valid[None, :]
    return same.astype(jnp.float32)


def _mean(rows: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, rows, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def _all_valid(x: jax.Array, valid: jax.Array | None) -> jax.Array:
    return jnp.ones(x.shape[0], bool) if valid is None else valid


def kl_to_label(logits: jax.Array, label: jax.Array, valid: jax.Array, epsilon: float) -> jax.Array:
    """mean_a KL(softmax(logits[a]) || label[a]) with epsilon inside the label's logarithm."""
    log_p = jax.nn.log_softmax(jnp.where(valid[None, :], logits, _MASKED), axis=1)
    rows = jnp.sum(jnp.exp(log_p) * (log_p - jnp.log(label + epsilon)), axis=1)
    return _mean(rows, valid)


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
) -> jax.Array:
    """Similarity distribution matching (IRRA eq. 5-7; spec irra §2).

    KL from the softmax over cosine similarities to the distribution of matching identities, both
    directions added. With `image_id`, pairs of one person but different images weigh `factor`.
    """
    valid = _all_valid(person_id, valid)
    label = _same(person_id, valid)
    if image_id is not None:
        same_image = _same(image_id, valid)
        label = factor * (label - same_image) + same_image
    # Released code: row sums broadcast over the LAST axis, so columns are normalised. It differs
    # from row normalisation only with soft labels.
    label = label / jnp.maximum(jnp.sum(label, axis=1), epsilon)[None, :]
    text_to_image = logit_scale * similarity(unit(text_embed), unit(image_embed))
    return kl_to_label(text_to_image.T, label, valid, epsilon) + kl_to_label(
        text_to_image, label, valid, epsilon
    )


def cmpm_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    *,
    epsilon: float = 1e-8,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Cross-modal projection matching: un-normalised features projected on normalised ones.

    Released quirk kept: the label rows have unit L2 norm, so they do not sum to one.
    """
    valid = _all_valid(person_id, valid)
    label = _same(person_id, valid)
    label = label / jnp.maximum(jnp.linalg.norm(label, axis=1, keepdims=True), epsilon)
    image_embed, text_embed = image_embed.astype(jnp.float32), text_embed.astype(jnp.float32)
    image_to_text = similarity(image_embed, unit(text_embed))
    text_to_image = similarity(text_embed, unit(image_embed))
    return kl_to_label(image_to_text, label, valid, epsilon) + kl_to_label(
        text_to_image, label, valid, epsilon
    )


def itc_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: float | jax.Array,
    valid: jax.Array | None = None,
) -> jax.Array:
    """Symmetric InfoNCE of CLIP: each row's own partner is the only positive."""
    valid = _all_valid(image_embed, valid)
    logits = logit_scale * similarity(unit(image_embed), unit(text_embed))

    def direction(z: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(jnp.where(valid[None, :], z, _MASKED), axis=1)
        return _mean(-jnp.diagonal(log_p), valid)

    return (direction(logits) + direction(logits.T)) / 2
