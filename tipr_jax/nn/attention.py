"""Multi-head attention with a packed query/key/value projection.

Source: Attention is all you need, section 3.2, with the parameters of torch.nn.MultiheadAttention.
"""

import math

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from tipr_jax.nn.init import BlockInit
from tipr_jax.precision import PRODUCT, ComputePolicy, Implementation
from tipr_jax.sharding import EMBED, HEAD_DIM, HEADS, PARTS


def attend(
    q: jax.Array,
    k: jax.Array,
    v: jax.Array,
    implementation: Implementation,
    *,
    causal: bool = False,
    key_mask: jax.Array | None = None,
) -> jax.Array:
    """softmax(q k^T / sqrt(K)) v, softmax in float32.

    Args:
      q: float [B,L,H,K]; the result has its shape and dtype.
      k, v: float [B,M,H,K].
      implementation: "xla" or "cudnn".
      causal: a query reads no key behind its own position.
      key_mask: bool [B,M]; False hides a key from every query. Such attention always is XLA's: for
        cuDNN the mask would become an additive bias, since the hidden tokens may stand anywhere.
    """
    chex.assert_rank((q, k, v), 4)
    chex.assert_equal_shape((k, v))
    chex.assert_equal_shape((q, k), dims=(0, 2, 3))
    if key_mask is not None:
        chex.assert_shape(key_mask, k.shape[:2])
        mask = key_mask[:, None, None, :]
        return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")
    if implementation == "cudnn":
        return attend_padded(q, k, v, implementation, causal=causal)
    return jax.nn.dot_product_attention(q, k, v, is_causal=causal, implementation=implementation)


def attend_padded(
    q: jax.Array, k: jax.Array, v: jax.Array, implementation: Implementation, *, causal: bool
) -> jax.Array:
    """`attend` with odd lengths (193, 77) made even, as JAX's gradient of cuDNN attention needs.

    The lengths that are passed to cuDNN hide the added token. Padding in every layer instead of
    once per tower costs a copy of the result, about 1 % of a ViT-B/16 step, and keeps the towers
    free of it.
    """
    lengths = [
        jnp.full(x.shape[0], x.shape[1], jnp.int32) if x.shape[1] % 2 else None for x in (q, k)
    ]
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
    """Kernel and bias of a dense map between tokens [D] and [parts, heads, head_dim]."""

    def __init__(self, shape, axes, bias_shape, init, policy: ComputePolicy, *, rngs: nnx.Rngs):
        self.kernel = nnx.Param(init(rngs.params(), shape, policy.param), axes=axes)
        bias_axes = axes[len(shape) - len(bias_shape) :]
        self.bias = nnx.Param(jnp.zeros(bias_shape, policy.param), axes=bias_axes)


def head_groups(heads: int, rows: int, tokens: int, policy: ComputePolicy) -> list[slice]:
    """The heads of a self-attention that are computed at a time, see `ComputePolicy.score_bytes`.

    Whatever the groups, a head's result is the same: it reads no other head. All groups have as
    many heads. rows: of the whole batch; on a device, a head's scores are [rows,tokens,tokens] in
    float32, in tiles of 8 x 128.
    """
    size = heads
    if policy.score_bytes:
        devices = policy.activations.mesh.size if policy.activations is not None else 1
        tiles = math.ceil(tokens / 8) * math.ceil(tokens / 128)
        one_head = math.ceil(rows / devices) * tiles * 8 * 128 * 4
        fitting = (n for n in range(1, heads + 1) if n * one_head <= policy.score_bytes)
        size = max((n for n in fitting if heads % n == 0), default=1)
    return [slice(first, first + size) for first in range(0, heads, size)]


class Attention(nnx.Module):
    """softmax(q k^T / sqrt(head_dim)) v; self-attention, or cross-attention with `context`.

    Softmax is computed in float32.
    """

    def __init__(
        self, width: int, heads: int, init: BlockInit, policy: ComputePolicy, *, rngs: nnx.Rngs
    ):
        if width % heads:
            raise ValueError(f"width {width} is not divisible by {heads} heads")
        dim = width // heads
        self.qkv = Projection(
            (width, 3, heads, dim),
            (EMBED, PARTS, HEADS, HEAD_DIM),
            (3, heads, dim),
            init.qkv,
            policy,
            rngs=rngs,
        )
        self.out = Projection(
            (heads, dim, width), (HEADS, HEAD_DIM, EMBED), (width,), init.out, policy, rngs=rngs
        )
        self.dtype = policy.compute
        self.implementation: Implementation = policy.attention
        self.heads, self.policy = heads, policy

    def _project(
        self, x: jax.Array, first: int, last: int, heads: slice = slice(None)
    ) -> list[jax.Array]:
        """The parts `first` to `last - 1` of (query, key, value), each [B,L,H,K].

        A product for each part: to cut one product of all into its parts, a TPU copies it.
        """
        x = x.astype(self.dtype)
        parts = []
        for part in range(first, last):
            kernel = self.qkv.kernel[:, part, heads].astype(self.dtype)
            bias = self.qkv.bias[part, heads].astype(self.dtype)
            y = jnp.einsum("bld,dhk->blhk", x, kernel) + bias
            parts.append(checkpoint_name(y, PRODUCT))
        return parts

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
        if context is not None:
            return self.read(x, *self.keys_values(context), causal=causal, key_mask=key_mask)
        parts = []
        for group in head_groups(self.heads, x.shape[0], x.shape[1], self.policy):
            q, k, v = self._project(x, 0, 3, group)
            parts.append(attend(q, k, v, self.implementation, causal=causal, key_mask=key_mask))
        return self._merge(parts[0] if len(parts) == 1 else jnp.concatenate(parts, axis=2))

    def keys_values(self, context: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What `read` reads of the tokens [B,M,D]: keys and values, each [B,M,H,K]."""
        k, v = self._project(context, 1, 3)
        return k, v

    def read(
        self,
        x: jax.Array,
        keys: jax.Array,
        values: jax.Array,
        *,
        causal: bool = False,
        key_mask: jax.Array | None = None,
    ) -> jax.Array:
        """The attention of queries from x [B,L,D] -> [B,L,D]; the mask as in the call."""
        (q,) = self._project(x, 0, 1)
        return self._merge(
            attend(q, keys, values, self.implementation, causal=causal, key_mask=key_mask)
        )

    def _merge(self, y: jax.Array) -> jax.Array:
        """The heads' results [B,L,H,K] -> [B,L,D]."""
        kernel, bias = self.out.kernel.astype(self.dtype), self.out.bias.astype(self.dtype)
        return checkpoint_name(jnp.einsum("blhk,hkd->bld", y, kernel) + bias, PRODUCT)
