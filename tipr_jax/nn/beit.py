"""BEiT v2: a pre-norm ViT with a relative position bias in every block.

There is no absolute position embedding. The output drops the class token and puts the mean of the
normalised patches in its place, as models/beit2.py in the release of X2-VLM.
"""

import chex
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from tipr_jax.nn.attention import Projection, head_groups
from tipr_jax.nn.dropout import drop_path_scales
from tipr_jax.nn.init import BlockInit, normal, uniform_fan_in
from tipr_jax.nn.interleave import deinterleave, interleave, interleaved_keys
from tipr_jax.nn.pos_embed import num_relative_distance, patch_grid
from tipr_jax.nn.transformer import Mlp, gelu, layer_norm, scan_layers, stack_layers
from tipr_jax.nn.vit import PatchEmbed
from tipr_jax.precision import PRODUCT, ComputePolicy
from tipr_jax.sharding import EMBED, HEAD_DIM, HEADS, PARTS

LN_EPSILON = 1e-6


def relative_position_index(grid: tuple[int, int]) -> np.ndarray:
    """int32 [1+P,1+P]: which row of the table a (query, key) pair of tokens reads."""
    rows, cols = grid
    r, c = (x.reshape(-1) for x in np.mgrid[:rows, :cols])
    down, right = r[:, None] - r[None, :] + rows - 1, c[:, None] - c[None, :] + cols - 1
    n = num_relative_distance(grid)
    index = np.empty((1 + rows * cols,) * 2, np.int32)
    index[1:, 1:] = down * (2 * cols - 1) + right
    index[0, :], index[:, 0], index[0, 0] = n - 3, n - 2, n - 1
    return index


class RelativeAttention(nnx.Module):
    """Self-attention with a learned bias per head and offset between two patches.

    The projections of queries and values have a bias, the projection of keys has none. Flash
    kernels hardly support an additive bias [heads,S,S]: this always runs as XLA's attention.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        grid: tuple[int, int],
        init: BlockInit,
        policy: ComputePolicy,
        *,
        rngs: nnx.Rngs,
    ):
        dim = width // heads
        axes = (HEADS, HEAD_DIM)
        kernel = init.qkv(rngs.params(), (width, 3, heads, dim), policy.param)
        self.qkv = nnx.Param(kernel, axes=(EMBED, PARTS, *axes))
        self.q_bias = nnx.Param(jnp.zeros((heads, dim), policy.param), axes=axes)
        self.v_bias = nnx.Param(jnp.zeros((heads, dim), policy.param), axes=axes)
        self.position_bias = nnx.Param(
            jnp.zeros((num_relative_distance(grid), heads), policy.param), axes=(None, HEADS)
        )
        self.out = Projection(
            (heads, dim, width), (*axes, EMBED), (width,), init.out, policy, rngs=rngs
        )
        self.grid = grid
        self.dtype = policy.compute
        self.heads, self.policy = heads, policy

    def __call__(self, x: jax.Array) -> jax.Array:
        """x [B,1+P,D] -> [B,1+P,D]."""
        x = x.astype(self.dtype)
        bias = self.position_bias[...][relative_position_index(self.grid)]  # S S H
        bias = bias.transpose(2, 0, 1)[None]
        groups = head_groups(self.heads, x.shape[0], x.shape[1], self.policy)
        parts = [self._attend(x, bias[:, group], group) for group in groups]
        y = parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2)
        kernel, bias = self.out.kernel.astype(self.dtype), self.out.bias.astype(self.dtype)
        return checkpoint_name(jnp.einsum("blhk,hkd->bld", y, kernel) + bias, PRODUCT)

    def _attend(self, x: jax.Array, bias: jax.Array, heads: slice) -> jax.Array:
        """Some heads H of x [B,S,D] with their position bias [1,H,S,S]: [B,S,H,K]."""
        q, k, v = (
            jnp.einsum("bld,dhk->blhk", x, self.qkv[:, part, heads].astype(self.dtype))
            for part in range(3)
        )
        q = checkpoint_name(q + self.q_bias[heads].astype(self.dtype), PRODUCT)
        k = checkpoint_name(k, PRODUCT)
        v = checkpoint_name(v + self.v_bias[heads].astype(self.dtype), PRODUCT)
        return jax.nn.dot_product_attention(q, k, v, bias=bias, implementation="xla")


class BeitBlock(nnx.Module):
    """x += drop(gamma_1 * attn(ln_1(x))); x += drop(gamma_2 * mlp(ln_2(x)))."""

    def __init__(
        self,
        width: int,
        heads: int,
        grid: tuple[int, int],
        layer_scale: float,
        policy: ComputePolicy,
        *,
        rngs: nnx.Rngs,
    ):
        init = BlockInit.bert(width)
        self.ln_1 = layer_norm(width, policy, epsilon=LN_EPSILON, rngs=rngs)
        self.attn = RelativeAttention(width, heads, grid, init, policy, rngs=rngs)
        self.gamma_1 = nnx.Param(jnp.full(width, layer_scale, policy.param), axes=(EMBED,))
        self.ln_2 = layer_norm(width, policy, epsilon=LN_EPSILON, rngs=rngs)
        self.mlp = Mlp(width, init, policy, activation=gelu, rngs=rngs)
        self.gamma_2 = nnx.Param(jnp.full(width, layer_scale, policy.param), axes=(EMBED,))

    def __call__(self, x: jax.Array, scale: jax.Array | None = None) -> jax.Array:
        """x [B,1+P,D] -> [B,1+P,D]; scale [2,B] or None: DropPath factors of the two branches."""
        attn_scale, mlp_scale = (1.0, 1.0) if scale is None else scale[..., None, None]
        y = self.gamma_1.astype(x.dtype) * self.attn(self.ln_1(x))
        x = x + (attn_scale * y).astype(x.dtype)
        y = self.gamma_2.astype(x.dtype) * self.mlp(self.ln_2(x))
        return x + (mlp_scale * y).astype(x.dtype)


class Beit(nnx.Module):
    """Patches through the blocks; token 0 of the result is the mean of the normalised patches.

    layer_scale: initial factor of every residual branch. drop_path_rate: rate of the stochastic
    depth in the last block; it grows linearly from 0 in the first. mask_token: whether patches can
    be hidden.
    """

    def __init__(
        self,
        *,
        image_size: tuple[int, int],
        patch: int,
        width: int,
        depth: int,
        heads: int,
        policy: ComputePolicy,
        layer_scale: float = 0.1,
        drop_path_rate: float = 0.1,
        mask_token: bool = True,
        rngs: nnx.Rngs,
    ):
        grid = patch_grid(image_size, patch, patch)

        def token() -> nnx.Param:
            return nnx.Param(normal(0.02)(rngs.params(), (width,), policy.param), axes=(EMBED,))

        self.patch_embed = PatchEmbed(
            width, patch, patch, policy, bias_init=uniform_fan_in(3 * patch * patch), rngs=rngs
        )
        self.class_embed = token()
        if mask_token:
            self.mask_embed = token()
        self.blocks = stack_layers(
            lambda r: BeitBlock(width, heads, grid, layer_scale, policy, rngs=r), depth, rngs=rngs
        )
        # At the start a block adds the less to the residual stream the deeper it lies.
        shrink = jnp.sqrt(2.0 * jnp.arange(1, depth + 1))
        for kernel in (self.blocks.attn.out.kernel, self.blocks.mlp.fc_out.kernel):
            kernel[...] /= shrink.reshape(-1, *[1] * (kernel.ndim - 1))
        self.ln_post = layer_norm(width, policy, epsilon=LN_EPSILON, rngs=rngs)
        self.drop_path_rate, self.policy = drop_path_rate, policy
        self.dtype = policy.compute

    def __call__(self, image: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """image float [B,H,W,3], normalised -> tokens [B,1+P,D].

        keys: random keys [B] of the stochastic depth, None for evaluation.
        """
        return self.encode(self.patch_embed(image), keys)

    def clean_and_masked(
        self, image: jax.Array, mask: jax.Array, keys: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """Tokens of the images, and of the images whose patches in `mask` bool [B,P] are hidden.

        Hidden patches become the mask token after the patch embedding; none is left out. The two
        passes draw their stochastic depth independently. Source: section 2.3 of BEiT (Bao et al.,
        ICLR 2022).
        """
        clean = self.patch_embed(image)
        masked = self.hide(clean, mask)
        tokens = self.encode(interleave([clean, masked]), interleaved_keys(keys, 2))
        clean, masked = deinterleave(tokens, 2)
        return clean, masked

    def hide(self, patches: jax.Array, mask: jax.Array) -> jax.Array:
        """patches [B,P,D] with the mask token where `mask` bool [B,P] is True."""
        chex.assert_rank(patches, 3)
        chex.assert_shape(mask, patches.shape[:2])
        return jnp.where(mask[..., None], self.mask_embed.astype(patches.dtype), patches)

    def add_class_token(self, patches: jax.Array) -> jax.Array:
        """patches [B,P,D] -> [B,1+P,D]."""
        shape = patches.shape[0], 1, patches.shape[2]
        cls = jnp.broadcast_to(self.class_embed.astype(patches.dtype), shape)
        return jnp.concatenate([cls, patches], axis=1)

    def encode(self, patches: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Embedded patches [B,P,D] -> tokens [B,1+P,D]."""
        scale = drop_path_scales(keys, self.drop_path_rate, self.blocks.gamma_1.shape[0])

        def layer(x: jax.Array, inputs: tuple) -> tuple[jax.Array, None]:
            block, branch_scale = inputs
            return block(x, branch_scale), None

        layers = self.blocks, scale
        x = scan_layers(layer, self.add_class_token(patches), layers, self.policy)
        patches = self.ln_post(x[:, 1:])  # float32
        mean = jnp.mean(patches, axis=1, keepdims=True)
        return jnp.concatenate([mean, patches], axis=1).astype(self.dtype)
