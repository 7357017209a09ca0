"""CLIP's image tower: a ViT, with any patch stride and aspect ratio.

Source: `VisionTransformer` of clip/model.py in the release of CLIP, and of model/clip_model.py in
the release of IRRA, which strides the patches and projects every token (IRRA, section 3.1).
"""

from typing import Any

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.init import BlockInit, normal, uniform_fan_in
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.nn.transformer import (
    ACTIVATIONS,
    Block,
    apply_blocks,
    apply_blocks_at,
    layer_norm,
    stack_layers,
)
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED


class PatchEmbed(nnx.Module):
    """Convolution of patch x patch pixels with a stride and no padding: [B,H,W,3] -> [B,P,D].

    init: initialiser of the kernel, by default the one of torch. bias_init: initialiser of a bias;
    without it there is none, as in CLIP.
    """

    def __init__(
        self,
        width: int,
        patch: int,
        stride: int,
        policy: ComputePolicy,
        *,
        init: nnx.Initializer | None = None,
        bias_init: nnx.Initializer | None = None,
        rngs: nnx.Rngs,
    ):
        init = init or uniform_fan_in(3 * patch * patch)
        shape = (patch, patch, 3, width)
        self.kernel = nnx.Param(
            init(rngs.params(), shape, policy.param), axes=(None, None, None, EMBED)
        )
        self.bias = (
            nnx.Param(bias_init(rngs.params(), (width,), policy.param), axes=(EMBED,))
            if bias_init
            else None
        )
        self.stride = stride
        self.dtype = policy.compute

    def __call__(self, image: jax.Array) -> jax.Array:
        """image float [B,H,W,3], normalised -> patches [B,P,D], row-major."""
        chex.assert_shape(image, (None, None, None, 3))
        x = self._convolve(image)
        return x if self.bias is None else x + self.bias.astype(self.dtype)

    def _convolve(self, image: jax.Array) -> jax.Array:
        patch, _, _, width = self.kernel.shape
        kernel = self.kernel.astype(self.dtype)
        image = image.astype(self.dtype)
        if patch == self.stride:  # the patches do not overlap: one matrix product
            b = image.shape[0]
            rows, cols = patch_grid((image.shape[1], image.shape[2]), patch, patch)
            x = image[:, : rows * patch, : cols * patch]
            x = x.reshape(b, rows, patch, cols, patch, 3).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(b, rows * cols, -1) @ kernel.reshape(-1, width)
        x = jax.lax.conv_general_dilated(
            image, kernel, (self.stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.reshape(x.shape[0], -1, width)


class VisionTransformer(nnx.Module):
    """Class token, positions, `ln_pre`, blocks; then `ln_post` and `proj` on EVERY token.

    OpenAI's CLIP projects the class token only; a fusion encoder needs all tokens.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        width: int,
        depth: int,
        embed_dim: int,
        head_dim: int = 64,
        hidden: int | None = None,
        activation: str = "quick_gelu",
        policy: ComputePolicy,
        rngs: nnx.Rngs,
    ):
        rows, cols = patch_grid(image_size, patch, stride)
        init = normal(width**-0.5)
        self.patch_embed = PatchEmbed(width, patch, stride, policy, rngs=rngs)
        self.class_embed = nnx.Param(init(rngs.params(), (width,), policy.param), axes=(EMBED,))
        self.pos_embed = nnx.Param(
            init(rngs.params(), (1 + rows * cols, width), policy.param), axes=(None, EMBED)
        )
        self.ln_pre = layer_norm(width, policy, rngs=rngs)
        block_init = BlockInit.torch_default(width)
        feed_forward: Any = dict(hidden=hidden, activation=ACTIVATIONS[activation])
        self.blocks = stack_layers(
            lambda r: Block(width, width // head_dim, block_init, policy, **feed_forward, rngs=r),
            depth,
            rngs=rngs,
        )
        self.ln_post = layer_norm(width, policy, rngs=rngs)
        self.proj = nnx.Param(
            init(rngs.params(), (width, embed_dim), policy.param), axes=(EMBED, None)
        )
        self.dtype = policy.compute

    def __call__(self, image: jax.Array) -> jax.Array:
        """image float [B,H,W,3], normalised -> tokens [B,1+P,C]; token 0 is the image feature."""
        x = apply_blocks(self.blocks, self._embed(image))
        return self._project(x)

    def feature(self, image: jax.Array) -> jax.Array:
        """Token 0 of the call alone, for less work: image [B,H,W,3] -> [B,C]."""
        start = jnp.zeros(image.shape[0], int)  # may be symbolic, so not len()
        return self._project(apply_blocks_at(self.blocks, self._embed(image), start))

    def _embed(self, image: jax.Array) -> jax.Array:
        x = self.patch_embed(image)
        cls = jnp.broadcast_to(self.class_embed.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([cls, x], axis=1) + self.pos_embed.astype(x.dtype)
        return self.ln_pre(x).astype(x.dtype)

    def _project(self, x: jax.Array) -> jax.Array:
        return self.ln_post(x).astype(self.dtype) @ self.proj.astype(self.dtype)
