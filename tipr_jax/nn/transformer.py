"""Pre-LayerNorm residual blocks with QuickGELU, and a scan over stacked layers.

Source: `ResidualAttentionBlock` and `Transformer` of clip/model.py in the release of CLIP.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.sharding import NamedSharding

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.init import BlockInit
from tipr_jax.precision import PRODUCT, ComputePolicy
from tipr_jax.sharding import EMBED, MLP, named

Layer = TypeVar("Layer", bound=nnx.Module)

# A stack of so few layers is compiled layer by layer: a loop copies what it keeps for the backward
# pass into one array and out again (measured: a third of the quickstart's warm-up step on a CPU).
UNROLLED = 4

# What each remat policy keeps for the backward pass.
SAVED = {
    "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT),
    "full": jax.checkpoint_policies.nothing_saveable,
}


def quick_gelu(x: jax.Array) -> jax.Array:
    """CLIP's approximation of the GELU; any shape."""
    return x * jax.nn.sigmoid(1.702 * x)


def gelu(x: jax.Array) -> jax.Array:
    """The exact GELU, with the error function."""
    return jax.nn.gelu(x, approximate=False)


def layer_norm(
    width: int, policy: ComputePolicy, *, epsilon: float = 1e-5, rngs: nnx.Rngs
) -> nnx.LayerNorm:
    """LayerNorm over the last axis; statistics and result in float32 whatever the compute dtype."""
    return nnx.LayerNorm(
        width,
        epsilon=epsilon,
        dtype=jnp.float32,
        param_dtype=policy.param,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses the digits that parity needs
        scale_init=named(nnx.initializers.ones, EMBED),
        bias_init=named(nnx.initializers.zeros, EMBED),
        rngs=rngs,
    )


def dense(
    n_in, n_out, axes, init, bias_init, policy: ComputePolicy, *, rngs: nnx.Rngs
) -> nnx.Linear:
    """A Linear layer whose kernel carries the logical `axes` (in, out)."""
    return nnx.Linear(
        n_in,
        n_out,
        kernel_init=named(init, *axes),
        bias_init=named(bias_init, axes[1]),
        dtype=policy.compute,
        param_dtype=policy.param,
        rngs=rngs,
    )


ACTIVATIONS = {"quick_gelu": quick_gelu, "gelu": gelu}


class Mlp(nnx.Module):
    """[...,D] -> hidden (default 4D) -> [...,D] with an activation in between."""

    def __init__(
        self,
        width: int,
        init: BlockInit,
        policy: ComputePolicy,
        *,
        hidden: int | None = None,
        activation: Callable[[jax.Array], jax.Array] = quick_gelu,
        rngs: nnx.Rngs,
    ):
        hidden = hidden or 4 * width
        in_bias, out_bias = init.mlp_bias(width), init.mlp_bias(hidden)
        self.fc_in = dense(width, hidden, (EMBED, MLP), init.fc_in, in_bias, policy, rngs=rngs)
        self.fc_out = dense(hidden, width, (MLP, EMBED), init.fc_out, out_bias, policy, rngs=rngs)
        self.activation = activation

    def __call__(self, x: jax.Array) -> jax.Array:
        hidden = checkpoint_name(self.fc_in(x), PRODUCT)
        return checkpoint_name(self.fc_out(self.activation(hidden)), PRODUCT)


class Block(nnx.Module):
    """x += attn(ln_1(x)); x += mlp(ln_2(x)), with the feed-forward layer of `Mlp`."""

    def __init__(
        self,
        width: int,
        heads: int,
        init: BlockInit,
        policy: ComputePolicy,
        *,
        hidden: int | None = None,
        activation: Callable[[jax.Array], jax.Array] = quick_gelu,
        rngs: nnx.Rngs,
    ):
        self.ln_1 = layer_norm(width, policy, rngs=rngs)
        self.attn = Attention(width, heads, init, policy, rngs=rngs)
        self.ln_2 = layer_norm(width, policy, rngs=rngs)
        self.mlp = Mlp(width, init, policy, hidden=hidden, activation=activation, rngs=rngs)
        self.policy = policy

    def __call__(self, x: jax.Array, *, causal: bool = False) -> jax.Array:
        """x [B,L,D] -> [B,L,D]."""
        x = x + self.attn(self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))

    def at(self, x: jax.Array, position: jax.Array, *, causal: bool = False) -> jax.Array:
        """One token of what the call returns: x [B,L,D], position int [B] -> [B,D].

        The other tokens are read as keys and values alone, a sixth of the call's products.
        """
        read = jnp.arange(x.shape[1]) <= position[:, None] if causal else None
        context = self.ln_1(x)
        x, query = (jnp.take_along_axis(y, position[:, None, None], axis=1) for y in (x, context))
        x = x + self.attn(query, context, key_mask=read)
        return (x + self.mlp(self.ln_2(x)))[:, 0]


def stack_layers(make: Callable[[nnx.Rngs], Layer], depth: int, *, rngs: nnx.Rngs) -> Layer:
    """`depth` modules as one, every parameter with a leading axis of layers."""
    keys = jax.random.split(rngs.params(), depth)
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)


def scan_layers(layer: Callable, x: jax.Array, layers: Any, policy: ComputePolicy) -> jax.Array:
    """x through all layers, one after the other: a scan compiles one layer instead of `depth`,
    except for a stack of at most `UNROLLED` and where the policy says so.

    Args:
      layer: (x, inputs of one layer) -> (x, None).
      x: the residual stream, [B,L,D].
      layers: any tree of arrays with a leading axis of layers: parameters, factors, keys.
      policy: says how the residual stream lies on the devices and what the backward pass computes
        again.
    """
    if policy.activations is not None:
        layer = _laid_out(layer, policy.activations)
    if policy.remat != "none":
        # In a scan, forward and backward are separate loops that no compiler merges.
        layer = jax.checkpoint(layer, policy=SAVED[policy.remat], prevent_cse=False)
    depth = jax.tree.leaves(layers)[0].shape[0]
    flat = policy.unrolled or (depth <= UNROLLED and policy.remat == "none")
    return jax.lax.scan(layer, x, layers, unroll=max(1, depth) if flat else 1)[0]


def _laid_out(layer: Callable, layout: NamedSharding) -> Callable:
    """`layer` with an x whose batch axis stays on its devices, forward and backward."""

    def constrained(x: jax.Array, parameters: Any) -> tuple[jax.Array, None]:
        return layer(jax.lax.with_sharding_constraint(x, layout), parameters)

    return constrained


def apply_blocks(blocks: "Block", x: jax.Array, *, causal: bool = False) -> jax.Array:
    """x [B,L,D] through stacked `Block`s -> [B,L,D]."""

    def layer(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return block(x, causal=causal), None

    return scan_layers(layer, x, blocks, blocks.policy)


def apply_blocks_at(
    blocks: "Block", x: jax.Array, position: jax.Array, *, causal: bool = False
) -> jax.Array:
    """One token of what `apply_blocks` returns: x [B,L,D], position int [B] -> [B,D].

    A tower that only gives one feature needs no other token of its last block.
    """
    x = apply_blocks(jax.tree.map(lambda p: p[:-1], blocks), x, causal=causal)
    return jax.tree.map(lambda p: p[-1], blocks).at(x, position, causal=causal)
