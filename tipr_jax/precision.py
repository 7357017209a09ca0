"""Number formats: parameters in float32, matrix products in bfloat16 on accelerators.

LayerNorm, softmax, losses and similarities are computed in float32 whatever the policy.
"""

import dataclasses

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class DtypePolicy:
    """`param`: dtype of the master parameters; `compute`: of activations and matrix products."""

    param: jnp.dtype = jnp.float32
    compute: jnp.dtype = jnp.float32


def policy(name: str = "auto") -> DtypePolicy:
    """`auto` (bfloat16 on TPU/GPU, float32 on CPU), `float32` or `bfloat16`."""
    if name == "auto":
        name = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if name not in ("float32", "bfloat16"):
        raise ValueError(f"precision is {name!r}, expected 'auto', 'float32' or 'bfloat16'")
    return DtypePolicy(compute=jnp.dtype(name))
