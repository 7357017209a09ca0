"""How a model computes: number formats, what the backward pass recomputes, the attention kernel.

Parameters are float32; matrix products and the activations between them are bfloat16 on
accelerators. LayerNorm, softmax, losses and similarities are float32 whatever the policy.
"""

import dataclasses
from typing import Literal, TypeAlias

import jax
import jax.numpy as jnp
from jax.extend.backend import get_backend
from jax.sharding import NamedSharding

FLOAT16_RELEASED = "float16_released"
PRECISIONS = ("auto", "float32", "bfloat16", FLOAT16_RELEASED)
REMATS = ("none", "dots", "full")
ATTENTIONS = ("auto", "xla", "grouped", "cudnn")
Implementation: TypeAlias = Literal["xla", "cudnn"]  # of attention
# "grouped" attention computes as many heads at a time as have scores of this size on a device. They
# stay on a TPU's chip then; the scores of all heads go through its memory, seven times in a step.
# Compiled for a v5e, a layer is fastest with 4 of 12 heads for 64 x 193 and for 28 x 311 tokens,
# and with 2 for 56 x 311: about 53 MB each time.
SCORE_BYTES = 56_000_000
# The name of what remat "dots" keeps for the backward pass: the products with parameters.
PRODUCT = "product"


@dataclasses.dataclass(frozen=True)
class ComputePolicy:
    """How every module computes on this machine; it changes speed and rounding, no formula.

    param: dtype of the master parameters. compute: dtype of activations and matrix products.
    remat: what the backward pass computes again, layer by layer, instead of keeping it: `none`;
    `dots`, everything except the products with parameters; `full`, everything except the input of
    the layer. attention: `xla`, or `cudnn` (flash attention on NVIDIA GPUs, half precision only).
    score_bytes: how large the scores of the heads of a self-attention may be on a device that are
    computed at a time; 0: all heads are.
    unrolled: every layer of a stack is compiled by itself, see `inference.pieces`.
    activations: sharding of the residual stream, with the batch cut over devices. None leaves it to
    the compiler, which with sharded parameters may gather the batch instead of the parameters.
    """

    param: jnp.dtype = jnp.float32
    compute: jnp.dtype = jnp.float32
    remat: str = "none"
    attention: Implementation = "xla"
    score_bytes: int = 0
    unrolled: bool = False
    activations: NamedSharding | None = None

    def in_float32(self) -> "ComputePolicy":
        """The same policy for what is compared with other rows: bfloat16 gives equal scores."""
        return dataclasses.replace(self, compute=jnp.dtype(jnp.float32))


def policy(
    precision: str = "auto",
    *,
    remat: str = "none",
    attention: str = "auto",
    activations: NamedSharding | None = None,
) -> ComputePolicy:
    """The policy that a config asks for, on the devices of this process.

    `auto` precision is bfloat16 on TPU and GPU, float32 on CPU; `auto` attention is cudnn where it
    runs, grouped on TPU, else xla. `float16_released` computes in float16, on a CPU in float32;
    with it the optimiser keeps no master copy, see `optim.without_master_copy`.

    Raises:
      ValueError: a name that does not exist, or cudnn where there is none.
    """
    fields = {"precision": PRECISIONS, "remat": REMATS, "attention": ATTENTIONS}
    given = {"precision": precision, "remat": remat, "attention": attention}
    for field, known in fields.items():
        if given[field] not in known:
            raise ValueError(f"{field} is {given[field]!r}, expected one of {known}")
    if precision == "auto":
        precision = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if precision == FLOAT16_RELEASED:  # XLA has no float16 products on a CPU
        precision = "float32" if jax.default_backend() == "cpu" else "float16"
    if attention == "auto" and precision == "bfloat16" and on_nvidia_gpu():
        attention = "cudnn"
    elif attention == "auto":
        attention = "grouped" if jax.default_backend() == "tpu" else "xla"
    elif attention == "cudnn" and (precision == "float32" or not on_nvidia_gpu()):
        raise ValueError(
            f"attention is 'cudnn', which needs an NVIDIA GPU and precision bfloat16; this is "
            f"{jax.default_backend()} with {precision}; use --config.attention=auto"
        )
    return ComputePolicy(
        compute=jnp.dtype(precision),
        remat=remat,
        attention="cudnn" if attention == "cudnn" else "xla",
        score_bytes=SCORE_BYTES if attention == "grouped" else 0,
        activations=activations,
    )


def on_nvidia_gpu() -> bool:
    """Whether JAX's default backend of this process is CUDA."""
    return "cuda" in get_backend().platform_version
