"""Batch normalisation over tokens, with padding rows and running statistics as torch keeps them.

Source: Ioffe and Szegedy, ICML 2015; torch.nn.BatchNorm1d.
"""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import MLP


class BatchNorm(nnx.Module):
    """torch.nn.BatchNorm1d over all tokens of a batch: [B,K,D] -> float32 [B,K,D].

    Statistics are of the global batch, whatever the number of devices. The running variance takes
    the unbiased variance of the batch, as torch's does (flax's takes the biased one).
    """

    EPSILON, MOMENTUM = 1e-5, 0.1

    def __init__(self, width: int, policy: ComputePolicy):
        ones, zeros = jnp.ones(width, policy.param), jnp.zeros(width, policy.param)
        self.scale, self.bias = nnx.Param(ones, axes=(MLP,)), nnx.Param(zeros, axes=(MLP,))
        self.mean, self.var = nnx.BatchStat(zeros, axes=(MLP,)), nnx.BatchStat(ones, axes=(MLP,))

    def __call__(self, x: jax.Array, rows: jax.Array | None = None) -> jax.Array:
        """rows: bool [B], the rows whose statistics are used and remembered; None: the running
        statistics are used, and stay as they are.
        """
        x = x.astype(jnp.float32)
        mean, var = self.mean[...], self.var[...]
        if rows is not None:
            weight = rows.astype(jnp.float32)[:, None, None]
            count = jnp.maximum(jnp.sum(rows) * x.shape[1], 1)
            mean = jnp.sum(weight * x, (0, 1)) / count
            var = jnp.sum(weight * (x - mean) ** 2, (0, 1)) / count
            unbiased = var * count / jnp.maximum(count - 1, 1)
            self.mean[...] = (1 - self.MOMENTUM) * self.mean[...] + self.MOMENTUM * mean
            self.var[...] = (1 - self.MOMENTUM) * self.var[...] + self.MOMENTUM * unbiased
        return (x - mean) * jax.lax.rsqrt(var + self.EPSILON) * self.scale[...] + self.bias[...]
