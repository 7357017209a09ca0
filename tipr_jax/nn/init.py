"""Initialisers: CLIP's depth-scaled normals, PyTorch's defaults, BERT's single normal."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

normal = nnx.initializers.normal
zeros = nnx.initializers.zeros


def uniform_fan_in(fan_in: int) -> nnx.Initializer:
    """U(-1/sqrt(fan_in), 1/sqrt(fan_in)): the default of torch.nn.Linear for kernel and bias."""
    bound = fan_in**-0.5

    def init(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32, **_) -> jax.Array:
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


@dataclasses.dataclass(frozen=True)
class BlockInit:
    """Initialisers of one residual block; the biases of the attention are 0.

    qkv, out: kernels of the attention. fc_in, fc_out: kernels of the MLP. mlp_bias: a function from
    the number of inputs of a layer of the MLP to the initialiser of its bias.
    """

    qkv: nnx.Initializer
    out: nnx.Initializer
    fc_in: nnx.Initializer
    fc_out: nnx.Initializer
    mlp_bias: Callable[[int], nnx.Initializer] = uniform_fan_in

    @classmethod
    def clip(cls, width: int, depth: int) -> "BlockInit":
        """Normal distributions whose standard deviations depend on width and depth.

        Source: `initialize_parameters` of clip/model.py in the release of CLIP (text tower); the
        release of IRRA uses them for its fusion encoder, too (model/build.py).
        """
        attn, proj, fc = width**-0.5, width**-0.5 * (2 * depth) ** -0.5, (2 * width) ** -0.5
        return cls(qkv=normal(attn), out=normal(proj), fc_in=normal(fc), fc_out=normal(proj))

    @classmethod
    def torch_default(cls, width: int) -> "BlockInit":
        """What a block of PyTorch modules begins with: the image tower of an untrained CLIP."""
        xavier = uniform_fan_in(int(2 * width / 3))  # sqrt(6 / (width + 3 width))
        return cls(
            qkv=xavier,
            out=uniform_fan_in(width),
            fc_in=uniform_fan_in(width),
            fc_out=uniform_fan_in(4 * width),
        )

    @classmethod
    def bert(cls, width: int) -> "BlockInit":
        """One normal distribution for every kernel, zero biases: as BERT and timm's ViT.

        Its standard deviation is 0.02 at the published width of 768. A narrower model keeps the
        same gain (with 0.02 its features would hardly differ between inputs, and it would learn
        nothing for epochs).
        """
        init = normal(0.02 * (768 / width) ** 0.5)
        return cls(init, init, init, init, lambda fan_in: zeros)
