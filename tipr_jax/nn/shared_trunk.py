"""One transformer for images and texts: attention and norms shared, one MLP per modality.

Images and texts are never concatenated and never attend to each other. Source: IVT (Shu et al.,
ECCVW 2022), model/backbones/vit_vl.py in its release.
"""

import math

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.bert import BertEmbedding
from tipr_jax.nn.init import BlockInit, normal, zeros
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.nn.transformer import Mlp, gelu, layer_norm, scan_layers, stack_layers
from tipr_jax.nn.vit import PatchEmbed
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED

EPSILON = 1e-6  # of every LayerNorm except the one of the text embedding


class SharedBlock(nnx.Module):
    """The parts of a layer that both modalities share: x += attn(ln_1(x)); x += mlp(ln_2(x))."""

    def __init__(self, width, heads, init: BlockInit, policy: ComputePolicy, *, rngs: nnx.Rngs):
        self.ln_1 = layer_norm(width, policy, epsilon=EPSILON, rngs=rngs)
        self.attn = Attention(width, heads, init, policy, rngs=rngs)
        self.ln_2 = layer_norm(width, policy, epsilon=EPSILON, rngs=rngs)

    def __call__(
        self, x: jax.Array, mlp: Mlp, key_mask: jax.Array | None, scale: jax.Array | None
    ) -> jax.Array:
        """x [B,L,D] -> [B,L,D], with the MLP of one modality.

        key_mask: bool [B,L], False hides a token. scale: [2,B] or None, the DropPath factors of the
        two branches.
        """
        attn_scale, mlp_scale = (1.0, 1.0) if scale is None else scale[..., None, None]
        x = x + (attn_scale * self.attn(self.ln_1(x), key_mask=key_mask)).astype(x.dtype)
        return x + (mlp_scale * mlp(self.ln_2(x))).astype(x.dtype)


class SharedTrunk(nnx.Module):
    """Embeddings of both modalities, the blocks, and the final norm.

    The feature of an image or a text is its token 0, D wide, without any projection.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        width: int,
        depth: int,
        heads: int,
        image_ffn: int,
        text_ffn: int,
        vocab_size: int,
        max_positions: int,
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        def param(shape: tuple[int, ...]) -> nnx.Param:
            axes = (None,) * (len(shape) - 1) + (EMBED,)
            return nnx.Param(normal(0.02)(rngs.params(), shape, policy.param), axes=axes)

        rows, cols = patch_grid(image_size, patch, stride)
        conv = normal(math.sqrt(2 / (patch * patch * width)))
        self.patch_embed = PatchEmbed(
            width, patch, stride, policy, init=conv, bias_init=zeros, rngs=rngs
        )
        self.class_embed = param((width,))
        self.pos_embed = param((1 + rows * cols, width))
        # In spite of its name a second positional table, not one vector per modality.
        self.type_embed = param((1 + rows * cols, width))
        self.text_embed = BertEmbedding(vocab_size, max_positions, width, policy, rngs=rngs)
        init = BlockInit.bert(width)
        self.blocks = stack_layers(
            lambda r: SharedBlock(width, heads, init, policy, rngs=r), depth, rngs=rngs
        )

        def mlps(hidden: int) -> Mlp:
            return stack_layers(
                lambda r: Mlp(width, init, policy, hidden=hidden, activation=gelu, rngs=r),
                depth,
                rngs=rngs,
            )

        self.mlp_image, self.mlp_text = mlps(image_ffn), mlps(text_ffn)
        self.ln_final = layer_norm(width, policy, epsilon=EPSILON, rngs=rngs)
        self.policy = policy

    def embed_image(self, image: jax.Array) -> jax.Array:
        """image float [B,H,W,3], normalised -> [B,1+P,D]."""
        x = self.patch_embed(image)
        cls = jnp.broadcast_to(self.class_embed.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        positions = self.pos_embed[...] + self.type_embed[...]
        return jnp.concatenate([cls, x], axis=1) + positions.astype(x.dtype)

    def image_tokens(
        self,
        image: jax.Array,
        *,
        key_mask: jax.Array | None = None,
        scale: jax.Array | None = None,
    ) -> jax.Array:
        """image float [B,H,W,3], normalised -> tokens float32 [B,1+P,D].

        key_mask: bool [B,1+P], False removes a token. scale: DropPath factors [depth,2,B].
        """
        return self.run(self.embed_image(image), self.mlp_image, key_mask, scale)

    def text_tokens(
        self,
        text_ids: jax.Array,
        *,
        key_mask: jax.Array,
        scale: jax.Array | None = None,
        keys: jax.Array | None = None,
        dropout: float = 0.0,
    ) -> jax.Array:
        """text_ids int [B,L] -> tokens float32 [B,L,D].

        key_mask: bool [B,L], False for padding and removed tokens. scale: DropPath factors
        [depth,2,B]. keys, dropout: random keys [B] and rate of the dropout of the embedding.
        """
        chex.assert_rank(text_ids, 2)
        x = self.text_embed(text_ids, keys, dropout)
        return self.run(x, self.mlp_text, key_mask, scale)

    def run(
        self, x: jax.Array, mlps: Mlp, key_mask: jax.Array | None, scale: jax.Array | None
    ) -> jax.Array:
        """x [B,L,D] through the blocks with the MLPs of one modality, and the final norm."""
        chex.assert_rank(x, 3)
        if key_mask is not None:
            chex.assert_shape(key_mask, x.shape[:2])
        if scale is not None:
            chex.assert_shape(scale, (None, 2, len(x)))

        def layer(x: jax.Array, parts: tuple) -> tuple[jax.Array, None]:
            block, mlp, branch_scale = parts
            return block(x, mlp, key_mask, branch_scale), None

        return self.ln_final(scan_layers(layer, x, (self.blocks, mlps, scale), self.policy))
