"""Pre-LayerNorm residual blocks with QuickGELU, and a scan over a stack (spec irra §1.1)."""

from collections.abc import Callable

import jax
from flax import nnx

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.init import BlockInit, uniform_fan_in
from tipr_jax.precision import DtypePolicy
from tipr_jax.sharding import EMBED, MLP, named


def quick_gelu(x: jax.Array) -> jax.Array:
    return x * jax.nn.sigmoid(1.702 * x)


def layer_norm(width: int, policy: DtypePolicy, *, rngs: nnx.Rngs) -> nnx.LayerNorm:
    """LayerNorm, eps 1e-5, statistics and result in float32 whatever the compute dtype."""
    return nnx.LayerNorm(
        width,
        epsilon=1e-5,
        dtype=jax.numpy.float32,
        param_dtype=policy.param,
        use_fast_variance=False,  # E[x^2] - E[x]^2 loses the digits that parity needs
        scale_init=named(nnx.initializers.ones, EMBED),
        bias_init=named(nnx.initializers.zeros, EMBED),
        rngs=rngs,
    )


def dense(n_in, n_out, axes, init, bias_init, policy: DtypePolicy, *, rngs: nnx.Rngs) -> nnx.Linear:
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


class Mlp(nnx.Module):
    """D -> 4D -> D with QuickGELU."""

    def __init__(self, width: int, init: BlockInit, policy: DtypePolicy, *, rngs: nnx.Rngs):
        hidden = 4 * width
        self.fc_in = dense(
            width, hidden, (EMBED, MLP), init.fc_in, uniform_fan_in(width), policy, rngs=rngs
        )
        self.fc_out = dense(
            hidden, width, (MLP, EMBED), init.fc_out, uniform_fan_in(hidden), policy, rngs=rngs
        )

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.fc_out(quick_gelu(self.fc_in(x)))


class Block(nnx.Module):
    """x += attn(ln_1(x)); x += mlp(ln_2(x))."""

    def __init__(self, width, heads, init: BlockInit, policy: DtypePolicy, *, rngs: nnx.Rngs):
        self.ln_1 = layer_norm(width, policy, rngs=rngs)
        self.attn = Attention(width, heads, init, policy, rngs=rngs)
        self.ln_2 = layer_norm(width, policy, rngs=rngs)
        self.mlp = Mlp(width, init, policy, rngs=rngs)

    def __call__(self, x: jax.Array, *, causal: bool = False) -> jax.Array:
        x = x + self.attn(self.ln_1(x), causal=causal)
        return x + self.mlp(self.ln_2(x))


def stack(make: Callable[[nnx.Rngs], nnx.Module], depth: int, *, rngs: nnx.Rngs) -> nnx.Module:
    """`depth` modules as one, every parameter with a leading layer axis."""
    keys = jax.random.split(rngs.params(), depth)
    return jax.vmap(lambda key: make(nnx.Rngs(key)))(keys)


def run(blocks: nnx.Module, x: jax.Array, *, causal: bool = False) -> jax.Array:
    """x [B,L,D] through stacked blocks; a scan compiles one layer instead of `depth`."""

    def layer(x: jax.Array, block: Block) -> tuple[jax.Array, None]:
        return block(x, causal=causal), None

    return jax.lax.scan(layer, x, blocks)[0]
