"""The text tower: CLIP's causal transformer over byte-pair tokens (spec irra §1.3)."""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.init import BlockInit, normal
from tipr_jax.nn.transformer import Block, layer_norm, run, stack
from tipr_jax.precision import DtypePolicy
from tipr_jax.sharding import EMBED, VOCAB


def end_token(tokens: jax.Array, text_ids: jax.Array) -> jax.Array:
    """[B,L,C] -> [B,C]: the token at the end mark, which has the largest id of the vocabulary."""
    end = jnp.argmax(text_ids, axis=1)
    return jnp.take_along_axis(tokens, end[:, None, None], axis=1)[:, 0]


class ClipText(nnx.Module):
    """Embedding + positions, causal blocks, `ln_final` and `proj` on every token.

    There is no padding mask: padding stands behind the end mark, where causality hides it from
    the pooled token. The fusion encoder does see it, as in the released code.
    """

    def __init__(
        self,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        embed_dim: int,
        policy: DtypePolicy,
        *,
        rngs: nnx.Rngs,
    ):
        def param(std: float, shape: tuple[int, int], axes: tuple) -> nnx.Param:
            return nnx.Param(normal(std)(rngs.params(), shape, policy.param), axes=axes)

        self.token_embed = param(0.02, (vocab_size, width), (VOCAB, EMBED))
        self.pos_embed = param(0.01, (length, width), (None, EMBED))
        init = BlockInit.clip(width, depth)
        self.blocks = stack(
            lambda r: Block(width, width // 64, init, policy, rngs=r), depth, rngs=rngs
        )
        self.ln_final = layer_norm(width, policy, rngs=rngs)
        self.proj = param(width**-0.5, (width, embed_dim), (EMBED, None))
        self.dtype = policy.compute

    def __call__(self, text_ids: jax.Array) -> jax.Array:
        """text_ids int [B,L] -> tokens [B,L,C]."""
        x = jnp.take(self.token_embed[...], text_ids, axis=0).astype(self.dtype)
        x = x + self.pos_embed.astype(self.dtype)
        x = run(self.blocks, x, causal=True)
        return self.ln_final(x).astype(self.dtype) @ self.proj.astype(self.dtype)
