"""Cross-entropy losses over classes: identity and masked tokens (spec irra §2)."""

import jax
import jax.numpy as jnp


def cross_entropy(
    logits: jax.Array, label: jax.Array, weight: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weighted mean cross-entropy and accuracy over rows.

    logits [N,K], label int [N], weight [N] (0 or 1). Both results are 0 if no row counts
    (deviation: the released masked-token loss is NaN then).
    """
    logits, weight = logits.astype(jnp.float32), weight.astype(jnp.float32)
    of_label = jnp.take_along_axis(logits, label[:, None], axis=1)[:, 0]
    # Not log_softmax and argmax: with a vocabulary as classes, each pass over [N,K] counts.
    loss = jax.nn.logsumexp(logits, axis=1) - of_label
    hit = (of_label >= jnp.max(logits, axis=1)).astype(jnp.float32)
    count = jnp.maximum(jnp.sum(weight), 1.0)
    return jnp.sum(loss * weight) / count, jnp.sum(hit * weight) / count


def identity_loss(
    image_logits: jax.Array,
    text_logits: jax.Array,
    person_id: jax.Array,
    valid: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Mean of both modalities' identity cross-entropy; also the two accuracies.

    image_logits and text_logits [B,I] come from one shared classifier; person_id int [B], 0-based.
    """
    weight = jnp.ones(person_id.shape) if valid is None else valid
    image_loss, image_accuracy = cross_entropy(image_logits, person_id, weight)
    text_loss, text_accuracy = cross_entropy(text_logits, person_id, weight)
    return (image_loss + text_loss) / 2, image_accuracy, text_accuracy


def masked_lm_loss(logits: jax.Array, label: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cross-entropy and accuracy over rows whose label is not 0; logits [N,V], label int [N]."""
    return cross_entropy(logits, label, label != 0)
