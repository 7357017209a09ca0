"""Token masking for masked-language modelling (spec irra §3.3)."""

import jax
import jax.numpy as jnp

RATE, KEEP_MASK, RANDOM_UNTIL = 0.15, 0.8, 0.9


def apply_mask(
    text_ids: jax.Array, draw: jax.Array, replacement: jax.Array, mask_id: int
) -> tuple[jax.Array, jax.Array]:
    """The masking law, given its random numbers.

    text_ids int [B,L]; draw uniform [B,L]; replacement int [B,L] from 1..mask_id-1. One draw u
    decides both: u < 0.15 selects, and v = u / 0.15 acts (mask, random token, or unchanged).
    Words have ids in 1..mask_id-1; padding and control tokens are never selected.

    Returns:
      masked ids and labels (original id where selected, else 0), both int [B,L].
    """
    eligible = (text_ids > 0) & (text_ids < mask_id)
    selected = eligible & (draw < RATE)
    action = draw / RATE
    new_ids = jnp.where(
        action < KEEP_MASK, mask_id, jnp.where(action < RANDOM_UNTIL, replacement, text_ids)
    )
    # A row without any selected token masks its position 1, eligible or not (released quirk: the
    # end mark of an empty caption goes too).
    forced = ~jnp.any(selected, axis=1, keepdims=True) & (jnp.arange(text_ids.shape[1]) == 1)
    masked = jnp.where(forced, mask_id, jnp.where(selected, new_ids, text_ids))
    return masked, jnp.where(selected | forced, text_ids, 0)


def mask_tokens(text_ids: jax.Array, key: jax.Array, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """Draws and applies the mask: text_ids int [B,L] -> (masked ids, labels), int [B,L]."""
    draw_key, word_key = jax.random.split(key)
    draw = jax.random.uniform(draw_key, text_ids.shape)
    replacement = jax.random.randint(word_key, text_ids.shape, 1, mask_id, text_ids.dtype)
    return apply_mask(text_ids, draw, replacement, mask_id)
