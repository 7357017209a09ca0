"""Losses that align images and texts over the whole batch: SDM, ITC and CMPM.

Every function takes un-normalised float features of the GLOBAL batch, image_embed and text_embed
[B,C] (row a of both is one pair), and returns a float32 scalar. `valid` bool [B] is False for
padding rows: they are neither queries nor candidates. `implementation` computes the softmax over
pairs: `dense.softmax_terms` with matrices of B x B, `streaming.softmax_terms` in memory linear in
B, None for the faster one at this batch size.
"""

from collections.abc import Callable
from typing import Any

import chex
import jax
import jax.numpy as jnp

from tipr_jax.losses import dense, streaming
from tipr_jax.losses.pair_targets import make_pair_targets

SoftmaxTerms = Callable[..., tuple[jax.Array, jax.Array | None]]

# Measured on two CPU cores, width 512, forward and backward: equal up to 512 rows, then streaming
# is 1.5x (1,024), 1.8x (2,048), 4x (4,096 rows) as fast, in 1/2, 1/3, 1/7 of the memory.
STREAMING_FROM = 1024


def l2_normalise(x: jax.Array) -> jax.Array:
    """Rows of x [B,C] divided by their L2 norm, float32; no epsilon, as in the released code."""
    x = x.astype(jnp.float32)
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


def _softmax_terms(implementation: SoftmaxTerms | None, rows: int) -> Callable[..., Any]:
    if implementation is not None:
        return implementation
    return (streaming if rows >= STREAMING_FROM else dense).softmax_terms


def _mean(rows: jax.Array, valid: jax.Array) -> jax.Array:
    return jnp.sum(jnp.where(valid, rows, 0.0)) / jnp.maximum(jnp.sum(valid), 1)


def _check(image_embed: jax.Array, text_embed: jax.Array, *per_row: jax.Array | None) -> None:
    """Features [B,C] of one shape, and [B] for everything else that is given."""
    chex.assert_rank((image_embed, text_embed), 2)
    chex.assert_equal_shape((image_embed, text_embed))
    chex.assert_shape([x for x in per_row if x is not None], (len(image_embed),))


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
    implementation: SoftmaxTerms | None = None,
) -> jax.Array:
    """Similarity distribution matching (IRRA, equations 5-7; `compute_sdm` of model/objectives.py).

    KL from the softmax over cosine similarities to the distribution of matching identities, both
    directions added.

    Args:
      image_embed, text_embed: float [B,C].
      person_id: int [B].
      logit_scale: factor of the cosine similarities, 1 / temperature.
      image_id: int [B]; with it, pairs of one person but different images weigh `factor`.
      factor: the weight of such pairs.
      epsilon: added to the target distribution inside its logarithm.
      valid: bool [B]; None if no row is padding.
      implementation: of the softmax, see above.
    """
    _check(image_embed, text_embed, person_id, image_id, valid)
    valid = _all_valid(person_id, valid)
    ids, weights = (person_id,), (1.0,)
    if image_id is not None:
        ids, weights = (person_id, image_id), (factor, 1 - factor)
    # Released code: row sums broadcast over the LAST axis, so columns are normalised. That differs
    # from row normalisation only with soft targets.
    targets = make_pair_targets(ids, weights, valid, epsilon)
    text, image = logit_scale * l2_normalise(text_embed), l2_normalise(image_embed)
    of_texts, of_images = _softmax_terms(implementation, len(valid))(text, image, targets, valid)
    return _mean(of_texts, valid) + _mean(of_images, valid)


def cmpm_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    person_id: jax.Array,
    *,
    epsilon: float = 1e-8,
    valid: jax.Array | None = None,
    implementation: SoftmaxTerms | None = None,
) -> jax.Array:
    """Cross-modal projection matching: un-normalised features projected on normalised ones.

    Source: Zhang and Lu, ECCV 2018, section 3.2; `compute_cmpm` of model/objectives.py in the
    release of IRRA, loss/cmps_loss.py in the release of IVT. Their quirk is kept: the rows of the
    target have unit L2 norm, so they do not sum to one.

    Args:
      image_embed, text_embed: float [B,C].
      person_id: int [B].
      epsilon: added to the target distribution inside its logarithm.
      valid: bool [B]; None if no row is padding.
      implementation: of the softmax, see above.
    """
    _check(image_embed, text_embed, person_id, valid)
    valid = _all_valid(person_id, valid)
    targets = make_pair_targets((person_id,), (1.0,), valid, epsilon, order=2)
    image, text = image_embed.astype(jnp.float32), text_embed.astype(jnp.float32)
    kl = _softmax_terms(implementation, len(valid))
    image_to_text, _ = kl(image, l2_normalise(text), targets, valid, both=False)
    text_to_image, _ = kl(text, l2_normalise(image), targets, valid, both=False)
    return _mean(image_to_text, valid) + _mean(text_to_image, valid)


def in_groups(
    loss: Callable[..., jax.Array],
    group: int,
    image_embed: jax.Array,
    text_embed: jax.Array,
    *ids: jax.Array,
    valid: jax.Array,
    **per_row: jax.Array,
) -> jax.Array:
    """The mean of a loss over groups of `group` consecutive rows that see no other rows.

    It is the loss of several devices that each compute their own, as with DistributedDataParallel
    in the released code. 0, or as many as there are rows: the loss of the whole batch. A group of
    padding rows alone does not count.

    Raises:
      ValueError: the rows cannot be cut into such groups.
    """
    rows = len(image_embed)
    if not group or group >= rows:
        return loss(image_embed, text_embed, *ids, valid=valid, **per_row)
    if rows % group:
        raise ValueError(f"{rows} rows cannot be cut into groups of {group}")
    positional, named = jax.tree.map(
        lambda x: x.reshape(-1, group, *x.shape[1:]),
        ((image_embed, text_embed, *ids), {"valid": valid, **per_row}),
    )
    losses = jax.vmap(lambda a, b: loss(*a, **b))(positional, named)
    return _mean(losses, jnp.any(named["valid"], axis=1))


def itc_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    *,
    logit_scale: float | jax.Array,
    valid: jax.Array | None = None,
    implementation: SoftmaxTerms | None = None,
) -> jax.Array:
    """Symmetric InfoNCE: the only positive of a row is its own partner.

    Source: CLIP, figure 3; `compute_itc` of model/objectives.py in the release of IRRA.

    Args:
      image_embed, text_embed: float [B,C].
      logit_scale: factor of the cosine similarities, 1 / temperature.
      valid: bool [B]; None if no row is padding.
      implementation: of the softmax, see above.
    """
    _check(image_embed, text_embed, valid)
    valid = _all_valid(image_embed, valid)
    image, text = logit_scale * l2_normalise(image_embed), l2_normalise(text_embed)
    partner = jnp.sum(image * text, axis=1)
    of_images, of_texts = _softmax_terms(implementation, len(valid))(image, text, None, valid)
    return (_mean(of_images - partner, valid) + _mean(of_texts - partner, valid)) / 2
