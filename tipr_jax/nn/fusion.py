"""Cross-modal interaction encoder: text tokens read image tokens.

Source: IRRA, section 3.2 (implicit relation reasoning), and `cross_former` of model/build.py in its
release.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
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

    def unfinished(self, text_tokens: jax.Array, image_tokens: jax.Array) -> "Unfinished":
        """The call up to its last block, for those who need few of the fused tokens."""
        last = jax.tree.map(lambda p: p[-1], self.blocks)
        x = self.attend(text_tokens, image_tokens)
        x = apply_blocks(jax.tree.map(lambda p: p[:-1], self.blocks), x)
        keys, values = last.attn.keys_values(last.ln_1(x))
        return Unfinished(x, keys, values, last, self.ln_post)


class Unfinished(NamedTuple):
    """Fused tokens before the last block: x [B,L,C], its keys and values [B,L,H,K], the block."""

    x: jax.Array
    keys: jax.Array
    values: jax.Array
    block: Block
    ln_post: nnx.LayerNorm

    def at(self, position: jax.Array) -> jax.Array:
        """Some of what the fusion encoder returns: float32 [G,N,C].

        position: int [G,N], with the batch in G groups of rows and the tokens of a group counted
        through its rows; so with the groups cut over devices no token leaves its device.
        """
        groups, count = position.shape
        length, width = self.x.shape[1:]
        row = (position // length)[..., None, None, None]

        def of_row(y: jax.Array) -> jax.Array:
            """[B,L,H,K] -> [G*N,L,H,K], what the query of each position reads."""
            y = jnp.take_along_axis(y.reshape(groups, -1, *y.shape[1:]), row, axis=1)
            return y.reshape(groups * count, *y.shape[2:])

        x = jnp.take_along_axis(self.x.reshape(groups, -1, width), position[..., None], axis=1)
        x = x.reshape(groups * count, 1, width)
        x = x + self.block.attn.read(self.block.ln_1(x), of_row(self.keys), of_row(self.values))
        x = x + self.block.mlp(self.block.ln_2(x))
        return self.ln_post(x).reshape(groups, count, width)
