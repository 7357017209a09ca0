"""The image tower: CLIP's ViT with any patch stride and aspect ratio (spec irra §1.2)."""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.init import BlockInit, normal, uniform_fan_in
from tipr_jax.nn.pos_embed import patch_grid
from tipr_jax.nn.transformer import Block, layer_norm, run, stack
from tipr_jax.precision import DtypePolicy
from tipr_jax.sharding import EMBED


class PatchEmbed(nnx.Module):
    """Convolution of patch x patch with a stride, no padding: [B,H,W,3] -> [B,P,D].

    CLIP's has no bias and torch's default kernel; `bias_init` adds one, `init` is the kernel's.
    """

    def __init__(
        self,
        width: int,
        patch: int,
        stride: int,
        policy: DtypePolicy,
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
        x = self._convolve(image)
        return x if self.bias is None else x + self.bias.astype(self.dtype)

    def _convolve(self, image: jax.Array) -> jax.Array:
        patch, _, _, width = self.kernel.shape
        kernel = self.kernel.astype(self.dtype)
        image = image.astype(self.dtype)
        if patch == self.stride:  # the patches do not overlap: one matrix product
            b = image.shape[0]
            rows, cols = patch_grid(image.shape[1:3], patch, patch)
            x = image[:, : rows * patch, : cols * patch]
            x = x.reshape(b, rows, patch, cols, patch, 3).transpose(0, 1, 3, 2, 4, 5)
            return x.reshape(b, rows * cols, -1) @ kernel.reshape(-1, width)
        x = jax.lax.conv_general_dilated(
            image, kernel, (self.stride,) * 2, "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return x.reshape(x.shape[0], -1, width)


class VisionTransformer(nnx.Module):
    """Class token, positions, `ln_pre`, blocks; then `ln_post` and `proj` on EVERY token.

    OpenAI's CLIP projects the class token only; IRRA needs all tokens for its fusion encoder.
    """

    def __init__(
        self,
        image_size: tuple[int, int],
        patch: int,
        stride: int,
        width: int,
        depth: int,
        embed_dim: int,
        policy: DtypePolicy,
        *,
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
        self.blocks = stack(
            lambda r: Block(width, width // 64, block_init, policy, rngs=r), depth, rngs=rngs
        )
        self.ln_post = layer_norm(width, policy, rngs=rngs)
        self.proj = nnx.Param(
            init(rngs.params(), (width, embed_dim), policy.param), axes=(EMBED, None)
        )
        self.dtype = policy.compute

    def __call__(self, image: jax.Array) -> jax.Array:
        """image float [B,H,W,3], normalised -> tokens [B,1+P,C]; token 0 is the image feature."""
        x = self.patch_embed(image)
        cls = jnp.broadcast_to(self.class_embed.astype(x.dtype), (x.shape[0], 1, x.shape[2]))
        x = jnp.concatenate([cls, x], axis=1) + self.pos_embed.astype(x.dtype)
        x = run(self.blocks, self.ln_pre(x).astype(x.dtype))
        return self.ln_post(x).astype(self.dtype) @ self.proj.astype(self.dtype)
