"""IRRA's cross-modal interaction encoder: text tokens read image tokens (spec irra §1.4)."""

import jax
from flax import nnx

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.init import BlockInit
from tipr_jax.nn.transformer import Block, layer_norm, run, stack
from tipr_jax.precision import DtypePolicy


class FusionEncoder(nnx.Module):
    """One cross-attention without residual, then `depth` self-attention blocks, then `ln_post`.

    No masks: padding tokens take part, as in the released code.
    """

    def __init__(self, width: int, depth: int, policy: DtypePolicy, *, rngs: nnx.Rngs):
        init = BlockInit.clip(width, depth)
        heads = width // 64
        self.ln_text = layer_norm(width, policy, rngs=rngs)
        self.ln_image = layer_norm(width, policy, rngs=rngs)
        self.cross_attn = Attention(width, heads, init, policy, rngs=rngs)
        self.blocks = stack(lambda r: Block(width, heads, init, policy, rngs=r), depth, rngs=rngs)
        self.ln_post = layer_norm(width, policy, rngs=rngs)

    def attend(self, text_tokens: jax.Array, image_tokens: jax.Array) -> jax.Array:
        """text_tokens [B,L,C] read image_tokens [B,1+P,C] -> [B,L,C]."""
        return self.cross_attn(self.ln_text(text_tokens), self.ln_image(image_tokens))

    def __call__(self, text_tokens: jax.Array, image_tokens: jax.Array) -> jax.Array:
        x = run(self.blocks, self.attend(text_tokens, image_tokens))
        return self.ln_post(x)
