"""Initialisers (spec irra §1.5): CLIP's depth-scaled normals and PyTorch's defaults."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

normal = nnx.initializers.normal
zeros = nnx.initializers.zeros


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): torch's default for kernel and bias."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, **_) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@dataclasses.dataclass(frozen=True)
class BlockInit:
    """Initialisers of one residual block; attention biases are 0.

    mlp_bias: fan-in -> initialiser of the bias, torch's default unless stated.
    """

    qkv: nnx.Initializer
    out: nnx.Initializer
    fc_in: nnx.Initializer
    fc_out: nnx.Initializer
    mlp_bias: Callable[[int], nnx.Initializer] = uniform_fan_in

    @classmethod
    def clip(cls, width: int, depth: int) -> "BlockInit":
        """Normals with the stds of CLIP's text tower and of IRRA's new modules."""
        attn, proj, fc = width**-0.5, width**-0.5 * (2 * depth) ** -0.5, (2 * width) ** -0.5
        return cls(qkv=normal(attn), out=normal(proj), fc_in=normal(fc), fc_out=normal(proj))

    @classmethod
    def torch_default(cls, width: int) -> "BlockInit":
        """What an untouched torch block has (CLIP's visual tower built from scratch)."""
        xavier = uniform_fan_in(int(2 * width / 3))  # sqrt(6 / (width + 3 width))
        return cls(
            qkv=xavier,
            out=uniform_fan_in(width),
            fc_in=uniform_fan_in(width),
            fc_out=uniform_fan_in(4 * width),
        )

    @classmethod
    def bert(cls, width: int) -> "BlockInit":
        """One normal for every kernel, zero biases: BERT's and timm's initialisation.

        Its std is 0.02 at the published width of 768; a narrower model keeps that gain (with 0.02
        its features would hardly differ between inputs, and learn nothing for epochs).
        """
        init = normal(0.02 * (768 / width) ** 0.5)
        return cls(init, init, init, init, lambda fan_in: zeros)
