"""CLIP's text tower: a causal transformer over byte-pair tokens.

Source: CLIP, section 2.4, and `encode_text` of model/clip_model.py in the release of IRRA, which
projects every token (IRRA, section 3.1).
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.init import BlockInit, normal
from tipr_jax.nn.transformer import (
    ACTIVATIONS,
    Block,
    apply_blocks,
    apply_blocks_at,
    layer_norm,
    stack_layers,
)
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, VOCAB


def end_token(tokens: jax.Array, text_ids: jax.Array) -> jax.Array:
    """tokens [B,L,C], text_ids int [B,L] -> [B,C]: the token at the end mark."""
    chex.assert_rank(tokens, 3)
    chex.assert_shape(text_ids, tokens.shape[:2])
    return jnp.take_along_axis(tokens, end_position(text_ids)[:, None, None], axis=1)[:, 0]


def end_position(text_ids: jax.Array) -> jax.Array:
    """Where the end mark stands: text_ids int [B,L] -> int [B].

    The end mark has the largest id of the vocabulary; the first one counts, if there are several.
    """
    return jnp.argmax(text_ids, axis=1)


class ClipText(nnx.Module):
    """Embedding and positions, causal blocks, `ln_final` and `proj` on every token.

    There is no padding mask: padding stands behind the end mark, where causality hides it from
    the pooled token. A fusion encoder on top does see it, as in the release of IRRA.
    """

    def __init__(
        self,
        *,
        vocab_size: int,
        length: int,
        width: int,
        depth: int,
        embed_dim: int,
        head_dim: int = 64,
        hidden: int | None = None,
        activation: str = "quick_gelu",
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        def param(std: float, shape: tuple[int, int], axes: tuple) -> nnx.Param:
            return nnx.Param(normal(std)(rngs.params(), shape, policy.param), axes=axes)

        self.token_embed = param(0.02, (vocab_size, width), (VOCAB, EMBED))
        self.pos_embed = param(0.01, (length, width), (None, EMBED))
        init = BlockInit.clip(width, depth)
        feed_forward: Any = dict(hidden=hidden, activation=ACTIVATIONS[activation])
        self.blocks = stack_layers(
            lambda r: Block(width, width // head_dim, init, policy, **feed_forward, rngs=r),
            depth,
            rngs=rngs,
        )
        self.ln_final = layer_norm(width, policy, rngs=rngs)
        self.proj = param(width**-0.5, (width, embed_dim), (EMBED, None))
        self.dtype = policy.compute

    def __call__(self, text_ids: jax.Array) -> jax.Array:
        """text_ids int [B,L], L being the `length` of the constructor -> tokens [B,L,C]."""
        return self._project(apply_blocks(self.blocks, self._embed(text_ids), causal=True))

    def feature(self, text_ids: jax.Array) -> jax.Array:
        """The call's token at the end mark alone, for less work: text_ids int [B,L] -> [B,C]."""
        x, end = self._embed(text_ids), end_position(text_ids)
        return self._project(apply_blocks_at(self.blocks, x, end, causal=True))

    def _embed(self, text_ids: jax.Array) -> jax.Array:
        chex.assert_shape(text_ids, (None, self.pos_embed.shape[0]))
        x = jnp.take(self.token_embed[...], text_ids, axis=0).astype(self.dtype)
        return x + self.pos_embed.astype(self.dtype)

    def _project(self, x: jax.Array) -> jax.Array:
        return self.ln_final(x).astype(self.dtype) @ self.proj.astype(self.dtype)
