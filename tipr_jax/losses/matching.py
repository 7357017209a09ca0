"""Image-text matching with hard negatives from the batch, and contrast with soft targets.

Source: ALBEF (Li et al., NeurIPS 2021), section 3.2, and models/xvlm.py in the release of X2-VLM;
IVT pre-trains and Bi-IRRA trains with them. image_embed and text_embed are float [B,C], row a of
both is one pair. Rows with the same `ids` int [B] show the same person; `valid` bool [B] is False
for padding rows.
"""

import chex
import jax
import jax.numpy as jnp

from tipr_jax.losses.classification import cross_entropy
from tipr_jax.losses.dense import MASKED, similarity


def _check(a: jax.Array, b: jax.Array, ids: jax.Array, valid: jax.Array) -> None:
    """Features [B,C] of one shape, ids and valid [B]."""
    chex.assert_rank((a, b), 2)
    chex.assert_equal_shape((a, b))
    chex.assert_shape((ids, valid), (len(a),))


def _logits(queries: jax.Array, keys: jax.Array, scale: float | jax.Array) -> jax.Array:
    queries, keys = queries.astype(jnp.float32), keys.astype(jnp.float32)
    return scale * similarity(queries, keys)


def soft_itc_loss(
    image_embed: jax.Array,
    text_embed: jax.Array,
    ids: jax.Array,
    *,
    scale: float | jax.Array,
    valid: jax.Array,
) -> jax.Array:
    """Symmetric cross-entropy; rows of one id share the target equally. Float32 scalar.

    The features are used as they are: normalise them before for cosine similarities.

    Args:
      image_embed, text_embed: float [B,C].
      ids: int [B].
      scale: factor of the similarities, 1 / temperature.
      valid: bool [B].
    """
    _check(image_embed, text_embed, ids, valid)
    same = (ids[:, None] == ids[None, :]) & valid[None, :]
    target = same / jnp.maximum(jnp.sum(same, axis=1, keepdims=True), 1)
    logits = _logits(image_embed, text_embed, scale)
    count = jnp.maximum(jnp.sum(valid), 1)

    def direction(z: jax.Array) -> jax.Array:
        log_p = jax.nn.log_softmax(jnp.where(valid[None, :], z, MASKED), axis=1)
        # Not 0 * log_p: masked columns are huge.
        rows = jnp.sum(jnp.where(same, target * log_p, 0.0), axis=1)
        return -jnp.sum(jnp.where(valid, rows, 0.0)) / count

    return (direction(logits) + direction(logits.T)) / 2


def negative_weights(
    queries: jax.Array,
    candidates: jax.Array,
    ids: jax.Array,
    *,
    scale: float | jax.Array,
    valid: jax.Array,
    epsilon: float = 1e-4,
) -> jax.Array:
    """float32 [B,B]: weights for drawing a negative candidate per query; harder ones weigh more.

    softmax(scale * queries . candidates) + epsilon, and 0 where the ids agree or the candidate is
    padding. No gradient. A row without any negative is uniform over the other valid rows
    (deviation: the released code fails there).

    Args:
      queries, candidates: float [B,C].
      ids: int [B].
      scale: factor of the similarities, 1 / temperature.
      valid: bool [B].
      epsilon: the least weight of a negative.
    """
    _check(queries, candidates, ids, valid)
    queries, candidates, scale = jax.lax.stop_gradient((queries, candidates, scale))
    z = jnp.where(valid[None, :], _logits(queries, candidates, scale), MASKED)
    other = (ids[:, None] != ids[None, :]) & valid[None, :]
    weights = jnp.where(other, jax.nn.softmax(z, axis=1) + epsilon, 0.0)
    anyone = (~jnp.eye(len(ids), dtype=bool) & valid[None, :]).astype(jnp.float32)
    return jnp.where(jnp.any(other, axis=1, keepdims=True), weights, anyone)


def hard_negatives(
    image_embed: jax.Array,
    text_embed: jax.Array,
    ids: jax.Array,
    keys: jax.Array,
    *,
    scale: float | jax.Array,
    valid: jax.Array,
    epsilon: float = 1e-4,
    group_size: int | None = None,
) -> tuple[jax.Array, jax.Array]:
    """Indices of a negative image for each text, and of a negative text for each image, int [B].

    Args:
      image_embed, text_embed: float [B,C].
      ids: int [B].
      keys: random keys [B].
      scale: factor of the similarities, 1 / temperature.
      valid: bool [B].
      epsilon: the least weight of a negative, see `negative_weights`.
      group_size: negatives come from the same group of so many consecutive rows, as in released
        code that runs on several devices; B is a multiple of it. None: from the whole batch.
    """
    _check(image_embed, text_embed, ids, valid)
    chex.assert_shape(keys, (len(ids),))
    size = group_size or len(ids)
    chex.assert_is_divisible(len(ids), size)

    def sample(queries, candidates, ids, keys, valid) -> jax.Array:
        weights = negative_weights(
            queries, candidates, ids, scale=scale, valid=valid, epsilon=epsilon
        )
        return jax.vmap(jax.random.categorical)(keys, jnp.log(weights))

    def group(x: jax.Array) -> jax.Array:
        return x.reshape(-1, size, *x.shape[1:])

    image, text, ids, valid = map(group, (image_embed, text_embed, ids, valid))
    image_keys, text_keys = (
        group(jax.vmap(jax.random.fold_in, (0, None))(keys, number)) for number in range(2)
    )
    first = size * jnp.arange(len(ids))[:, None]
    negative_image = first + jax.vmap(sample)(text, image, ids, image_keys, valid)
    negative_text = first + jax.vmap(sample)(image, text, ids, text_keys, valid)
    return negative_image.reshape(-1), negative_text.reshape(-1)


def take_rows(x: jax.Array, index: jax.Array, group_size: int | None = None) -> jax.Array:
    """x[index] for an index that stays within groups of `group_size` rows (None: one group).

    With groups no row leaves its device when the batch is sharded.

    Args:
      x: [B,...].
      index: int [B].
      group_size: a divisor of B.
    """
    chex.assert_shape(index, (len(x),))
    size = group_size or len(x)
    chex.assert_is_divisible(len(x), size)
    inside = (index % size).reshape(-1, size)
    rows = x.reshape(-1, size, *x.shape[1:])
    return jax.vmap(lambda group, i: jnp.take(group, i, axis=0))(rows, inside).reshape(x.shape)


def matching_loss(logits: jax.Array, valid: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy of "do they match?", means over 3B; float32 scalars.

    Args:
      logits: float [B,3,2], for each row of its pair, of its text with a negative image, and of its
        image with a negative text; column 1 means match.
      valid: bool [B].
    """
    chex.assert_shape(logits, (len(valid), 3, 2))
    label = jnp.broadcast_to(jnp.array([1, 0, 0]), logits.shape[:2])
    weight = jnp.broadcast_to(valid[:, None], logits.shape[:2])
    return cross_entropy(logits, label, weight)
