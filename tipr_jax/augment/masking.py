"""Token masking for masked-language modelling, on the device.

Source: BERT, section 3.1 (15 % of the tokens, of which 80 % become the mask, 10 % a random token
and 10 % stay); `_build_random_masked_tokens_and_labels` of datasets/bases.py in the release of
IRRA.
"""

import chex
import jax
import jax.numpy as jnp

RATE = 0.15  # share of the tokens that are selected
MASK_UNTIL, RANDOM_UNTIL = 0.8, 0.9  # cumulated shares of the selected tokens, see `apply_mask`


def apply_mask(
    text_ids: jax.Array, uniform: jax.Array, replacement: jax.Array, mask_id: int
) -> tuple[jax.Array, jax.Array]:
    """The masking law, given its random numbers.

    One number u per token decides twice: u < 0.15 selects the token, and v = u / 0.15 says what
    becomes of it: the mask (v < 0.8), a random token (v < 0.9), or the same token.

    Args:
      text_ids: int [B,L]. Words have ids in 1..mask_id-1; other ids (padding, start, end) are never
        selected.
      uniform: float [B,L] in [0, 1).
      replacement: int [B,L], random tokens from 1..mask_id-1.
      mask_id: id of the mask token.

    Returns:
      masked ids and labels (original id where selected, else 0), both int [B,L].
    """
    chex.assert_rank(text_ids, 2)
    chex.assert_equal_shape((text_ids, uniform, replacement))
    eligible = (text_ids > 0) & (text_ids < mask_id)
    selected = eligible & (uniform < RATE)
    action = uniform / RATE
    new_ids = jnp.where(
        action < MASK_UNTIL, mask_id, jnp.where(action < RANDOM_UNTIL, replacement, text_ids)
    )
    # A row without any selected token masks its position 1, eligible or not (released quirk: the
    # end mark of an empty caption goes too).
    forced = ~jnp.any(selected, axis=1, keepdims=True) & (jnp.arange(text_ids.shape[1]) == 1)
    masked = jnp.where(forced, mask_id, jnp.where(selected, new_ids, text_ids))
    return masked, jnp.where(selected | forced, text_ids, 0)


def mask_tokens(text_ids: jax.Array, key: jax.Array, mask_id: int) -> tuple[jax.Array, jax.Array]:
    """`apply_mask` with fresh random numbers: text_ids int [B,L] -> (masked ids, labels) [B,L]."""
    uniform_key, word_key = jax.random.split(key)
    uniform = jax.random.uniform(uniform_key, text_ids.shape)
    replacement = jax.random.randint(word_key, text_ids.shape, 1, mask_id, text_ids.dtype)
    return apply_mask(text_ids, uniform, replacement, mask_id)
