"""Cross-entropy losses over classes; of masked words see `masked_words`."""

import chex
import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, label: jax.Array, weight: jax.Array, total: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Weighted mean cross-entropy and accuracy over rows, float32 scalars.

    Both are 0 if no row counts (deviation: torch's cross_entropy is NaN then).

    Args:
      logits: float [...,K].
      label: int [...], the class of each row.
      weight: [...], 0 or 1.
      total: the sum of weights to divide by, if these rows are only a part of all.
    """
    chex.assert_equal_shape((label, weight))
    chex.assert_equal_shape_prefix((logits, label), label.ndim)
    chex.assert_rank(logits, label.ndim + 1)
    logits, weight = logits.astype(jnp.float32), weight.astype(jnp.float32)
    of_label = jnp.take_along_axis(logits, label[..., None], axis=-1)[..., 0]
    # Not log_softmax and argmax: with a vocabulary as classes, each pass over [N,K] counts.
    loss = jax.nn.logsumexp(logits, axis=-1) - of_label
    hit = (of_label >= jnp.max(logits, axis=-1)).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight) if total is None else total, 1.0)
    return jnp.sum(loss * weight) / count, jnp.sum(hit * weight) / count


def identity_loss(
    image_logits: jax.Array,
    text_logits: jax.Array,
    person_id: jax.Array,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean identity cross-entropy of both modalities; also the two accuracies. float32 scalars.

    Source: IRRA, section 3.4; `compute_id` of model/objectives.py in its release.

    Args:
      image_logits, text_logits: float [B,I] from one shared classifier.
      person_id: int [B], 0-based.
      valid: bool [B], False for padding rows; None if there are none.
    """
    chex.assert_rank((image_logits, text_logits), 2)
    chex.assert_equal_shape((image_logits, text_logits))
    weight = jnp.ones(person_id.shape) if valid is None else valid
    image_loss, image_accuracy = cross_entropy(image_logits, person_id, weight)
    text_loss, text_accuracy = cross_entropy(text_logits, person_id, weight)
    return (image_loss + text_loss) / 2, image_accuracy, text_accuracy
