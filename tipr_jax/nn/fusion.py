"""Cross-modal interaction encoder: text tokens read image tokens.

Source: IRRA, section 3.2 (implicit relation reasoning), and `cross_former` of model/build.py in its
release.
"""

import chex
import jax
from flax import nnx

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.init import BlockInit
from tipr_jax.nn.transformer import Block, apply_blocks, layer_norm, stack_layers
from tipr_jax.precision import ComputePolicy


class FusionEncoder(nnx.Module):
    """One cross-attention without residual, then `depth` self-attention blocks, then `ln_post`.

    No masks: padding tokens take part, as in the released code.
    """

    def __init__(self, width: int, depth: int, policy: ComputePolicy, *, rngs: nnx.Rngs):
        init = BlockInit.clip(width, depth)
        heads = width // 64
        self.ln_text = layer_norm(width, policy, rngs=rngs)
        self.ln_image = layer_norm(width, policy, rngs=rngs)
        self.cross_attn = Attention(width, heads, init, policy, rngs=rngs)
        self.blocks = stack_layers(
            lambda r: Block(width, heads, init, policy, rngs=r), depth, rngs=rngs
        )
        self.ln_post = layer_norm(width, policy, rngs=rngs)

    def attend(self, text_tokens: jax.Array, image_tokens: jax.Array) -> jax.Array:
        """The cross-attention alone: text_tokens [B,L,C] read image_tokens [B,1+P,C] -> [B,L,C]."""
        chex.assert_rank((text_tokens, image_tokens), 3)
        chex.assert_equal_shape((text_tokens, image_tokens), dims=(0, 2))
        return self.cross_attn(self.ln_text(text_tokens), self.ln_image(image_tokens))

    def __call__(self, text_tokens: jax.Array, image_tokens: jax.Array) -> jax.Array:
        """text_tokens [B,L,C], image_tokens [B,1+P,C] -> fused text tokens float32 [B,L,C]."""
        x = apply_blocks(self.blocks, self.attend(text_tokens, image_tokens))
        return self.ln_post(x)
