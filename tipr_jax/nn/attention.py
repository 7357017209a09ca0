"""Multi-head attention with a packed query/key/value projection (spec irra §1.1)."""

import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.init import BlockInit
from tipr_jax.precision import DtypePolicy
from tipr_jax.sharding import EMBED, HEAD_DIM, HEADS


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    implementation: str,
    *,
    causal: bool = False,
    key_mask: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v: q [B,L,H,K], k and v [B,M,H,K] -> [B,L,H,K].

    implementation: "xla" or "cudnn". For cuDNN a key mask would become an additive bias, since the
    tokens it hides may stand anywhere: masked attention always is XLA's.
    """
    if key_mask is not None:
        mask = key_mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    if implementation == "cudnn":
        return attend_padded(q, k, v, implementation, causal=causal)
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=implementation)


def attend_padded(
    q: jax.Array, k: jax.Array, v: jax.Array, implementation: str, *, causal: bool
) -> jax.Array:
    """`attend` with odd lengths (193, 77) made even, as JAX's gradient of cuDNN attention needs.

    The added token is hidden by lengths. Padding here rather than once per tower adds a copy of
    the result, about 1 % of a ViT-B/16 step, and keeps towers free of it.
    """
    lengths = [jnp.full(len(x), x.shape[1], jnp.int32) if x.shape[1] % 2 else None for x in (q, k)]
    even = lambda x: jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, 0), (0, 0)))  # noqa: E731
    y = jax.nn.dot_product_attention(
        even(q),
        even(k),
        even(v),
        is_causal=causal,
        query_seq_lengths=lengths[0],
        key_value_seq_lengths=lengths[1],
        implementation=implementation,
    )
    return y[:, : q.shape[1]]


class Projection(nnx.Module):
    """Parameters of a dense map between token width and [parts, heads, head_dim]."""

    def __init__(self, shape, axes, bias_shape, init, policy: DtypePolicy, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), shape, policy.param), axes=axes)
        bias_axes = axes[len(shape) - len(bias_shape) :]
        self.bias = nnx.Param(jnp.zeros(bias_shape, policy.param), axes=bias_axes)


class Attention(nnx.Module):
    """softmax(q k^T / sqrt(head_dim)) v; self-attention, or cross-attention with `context`.

    Softmax is computed in float32. Head dimension is 64 in every model of this family.
    """

    def __init__(
        self, width: int, heads: int, init: BlockInit, policy: DtypePolicy, *, rngs: nnx.Rngs
    ):
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        dim = width // heads
        self.qkv = Projection(
            (width, 3, heads, dim),
            (EMBED, None, HEADS, HEAD_DIM),
            (3, heads, dim),
            init.qkv,
            policy,
            rngs=rngs,
        )
        self.out = Projection(
            (heads, dim, width), (HEADS, HEAD_DIM, EMBED), (width,), init.out, policy, rngs=rngs
        )
        self.dtype = policy.compute
        self.implementation = policy.attention

    def _project(self, x: jax.Array, first: int, last: int) -> list[jax.Array]:
        """Parts first..last of (query, key, value), each B L H K."""
        kernel = self.qkv.kernel[:, first:last].astype(self.dtype)
        bias = self.qkv.bias[first:last].astype(self.dtype)
        parts = jnp.einsum("bld,dphk->blphk", x.astype(self.dtype), kernel) + bias
        return [parts[:, :, i] for i in range(last - first)]

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        *,
        causal: bool = False,
        key_mask: jax.Array | None = None,
    ) -> jax.Array:
        """x [B,L,D], context [B,M,D] or None (self-attention) -> [B,L,D].

        key_mask bool [B,M]: False hides a token from every query; at least one must be True.
        """
        if context is None:
            q, k, v = self._project(x, 0, 3)
        else:
            (q,), (k, v) = self._project(x, 0, 1), self._project(context, 1, 3)
        y = attend(q, k, v, self.implementation, causal=causal, key_mask=key_mask)
        kernel, bias = self.out.kernel.astype(self.dtype), self.out.bias.astype(self.dtype)
        return jnp.einsum("blhk,hkd->bld", y, kernel) + bias
