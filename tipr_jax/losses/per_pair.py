"""Losses of each (image, text) pair of a batch, not reduced: TAL, TRL, InfoNCE and SDM.

Every function takes un-normalised float features of the GLOBAL batch, image_embed and text_embed
[B,C] (row a of both is one pair), and returns float32 [B], the loss of each pair, both directions
taken together. `valid` bool [B] is False for padding rows: they are nobody's positive or negative,
and their own loss means nothing.

Source: Qin et al., CVPR 2024 (RDE), section 3.2; model/objectives.py in its release.
"""

from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from tipr_jax.losses import dense
from tipr_jax.losses.contrastive import l2_normalise
from tipr_jax.losses.dense import MASKED, similarity
from tipr_jax.losses.pair_targets import make_pair_targets

# (scores of a query [B,B], same person, different person) -> the negatives' term of a query [B]
Negatives = Callable[[jax.Array, jax.Array], jax.Array]


def tal(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    valid: jax.Array,
    *,
    tau: float,
    margin: float,
) -> jax.Array:
    """Triplet alignment loss (RDE, equation 9): all negatives by their log-sum-exp.

    Of a query, the weighted mean of its positives must exceed tau logsumexp(negatives / tau) by
    `margin`. The release computes this without a maximum taken out, so that it overflows below a
    tau of 0.0113. A query without a negative has loss 0 and gradient 0 (NaN in the release).

    Args:
      image_embed, text_embed: float [B,C].
      person_id: int [B].
      valid: bool [B].
      tau: temperature of the positives' weights and of the negatives.
      margin: of the hinge.
    """

    def negatives(scores: jax.Array, other: jax.Array) -> jax.Array:
        return tau * jax.nn.logsumexp(jnp.where(other, scores / tau, MASKED), axis=1)

    return _hinges(image_embed, text_embed, person_id, valid, tau, margin, negatives)


def trl(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    valid: jax.Array,
    *,
    tau: float,
    margin: float,
) -> jax.Array:
    """Triplet ranking loss with the hardest negative, arguments as in `tal`.

    The hardest negative is never below 0, because the release multiplies instead of leaving out.
    """

    def negatives(scores: jax.Array, other: jax.Array) -> jax.Array:
        return jnp.max(jnp.where(other, scores, 0.0), axis=1)

    return _hinges(image_embed, text_embed, person_id, valid, tau, margin, negatives)


def _hinges(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    valid: jax.Array,
    tau: float,
    margin: float,
    negatives: Negatives,
) -> jax.Array:
    """max(0, margin - positives + negatives) of texts among images, plus of images among texts."""
    chex.assert_equal_shape((image_embed, text_embed))
    chex.assert_shape((person_id, valid), (len(image_embed),))
    same = person_id[:, None] == person_id[None, :]
    both = valid[:, None] & valid[None, :]

    def hinge(scores: jax.Array) -> jax.Array:
        weights = jax.nn.softmax(jnp.where(same & both, scores / tau, MASKED), axis=1)
        positive = jnp.sum(jax.lax.stop_gradient(weights) * scores, axis=1)
        return jax.nn.relu(margin - positive + negatives(scores, ~same & both))

    scores = similarity(l2_normalise(text_embed), l2_normalise(image_embed))
    return hinge(scores) + hinge(scores.T)


def infonce(
    image_embed: jax.Array, text_embed: jax.Array, valid: jax.Array, *, logit_scale: float
) -> jax.Array:
    """`contrastive.itc_loss` of each pair; its partner is the only positive of a row."""
    image, text = logit_scale * l2_normalise(image_embed), l2_normalise(text_embed)
    of_images, of_texts = dense.softmax_terms(image, text, None, valid)
    assert of_texts is not None, "both directions were asked for"
    return (of_images + of_texts) / 2 - jnp.sum(image * text, axis=1)


def sdm(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    valid: jax.Array,
    *,
    logit_scale: float,
) -> jax.Array:
    """`contrastive.sdm_loss` of each pair, with labels of identity alone."""
    text, image = logit_scale * l2_normalise(text_embed), l2_normalise(image_embed)
    targets = make_pair_targets((person_id,), (1.0,), valid, 1e-8)
    of_texts, of_images = dense.softmax_terms(text, image, targets, valid)
    assert of_images is not None, "both directions were asked for"
    return of_texts + of_images
