"""BERT's parts: text embedding, post-norm layers, head for masked words.

The layers build fusion encoders (with cross-attention) and the text tower of XLM-RoBERTa (without).
Source: BERT (Devlin et al., NAACL 2019); cross-attention as in models/xbert.py of the releases of
ALBEF and X2-VLM, and model/backbones/xbert_fusion.py in the release of IVT.
"""

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.nn.attention import Attention
from tipr_jax.nn.dropout import dropout, fold_in
from tipr_jax.nn.init import BlockInit, normal, zeros
from tipr_jax.nn.transformer import Mlp, dense, gelu, layer_norm, scan_layers, stack_layers
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, VOCAB

EPSILON = 1e-12  # of every LayerNorm in BERT
_HIDDEN = -1e30


class BertEmbedding(nnx.Module):
    """LN(word + token type 0 + position), then dropout."""

    def __init__(
        self,
        vocab_size: int,
        positions: int,
        width: int,
        policy: ComputePolicy,
        *,
        token_types: int = 2,
        epsilon: float = EPSILON,
        # The default of torch.nn.Embedding; released checkpoints overwrite it.
        init: nnx.Initializer = normal(1.0),  # noqa: B008
        pad_id: int | None = None,
        rngs: nnx.Rngs,
    ):
        def table(rows: int, axes: tuple) -> nnx.Param:
            return nnx.Param(init(rngs.params(), (rows, width), policy.param), axes=axes)

        self.word = table(vocab_size, (VOCAB, EMBED))
        self.position = table(positions, (None, EMBED))
        self.token_type = table(token_types, (None, EMBED))
        self.ln = layer_norm(width, policy, epsilon=epsilon, rngs=rngs)
        # The row of this id in `word` gets no gradient here, as with torch's padding_idx.
        self.pad_id = pad_id
        self.dtype = policy.compute

    def __call__(
        self,
        text_ids: jax.Array,
        keys: jax.Array | None = None,
        rate: float = 0.0,
        *,
        positions: jax.Array | None = None,
    ) -> jax.Array:
        """text_ids int [B,L] -> [B,L,D].

        keys: random keys [B] of the dropout, None for evaluation. rate: of the dropout. positions:
        int [B,L]; by default 0, 1, 2, ...
        """
        chex.assert_rank(text_ids, 2)
        if positions is not None:
            chex.assert_equal_shape((text_ids, positions))
        x = jnp.take(self.word[...], text_ids, axis=0)
        if self.pad_id is not None:
            x = jnp.where((text_ids == self.pad_id)[..., None], jax.lax.stop_gradient(x), x)
        table = self.position[...]
        at = table[: text_ids.shape[1]] if positions is None else jnp.take(table, positions, axis=0)
        x = x + self.token_type[0] + at
        return dropout(self.ln(x), keys, rate).astype(self.dtype)


class DropoutAttention(Attention):
    """Attention with dropout of the attention probabilities in training."""

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        *,
        key_mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        rate: float = 0.0,
    ) -> jax.Array:
        """As `Attention`; keys: random keys [B] of the dropout, None for evaluation."""
        if keys is None or rate == 0:
            return super().__call__(x, context, key_mask=key_mask)
        (v,) = self._project(x if context is None else context, 2, 3)
        weight = dropout(self.weights(x, context, key_mask=key_mask), keys, rate)
        y = jnp.einsum("bhlm,bmhk->blhk", weight.astype(self.dtype), v)
        return self._merge(y)

    def weights(
        self, x: jax.Array, context: jax.Array | None = None, *, key_mask: jax.Array | None = None
    ) -> jax.Array:
        """The attention probabilities before dropout, float32 [B,H,L,M]."""
        (q,) = self._project(x, 0, 1)
        (k,) = self._project(x if context is None else context, 1, 2)
        logits = jnp.einsum("blhk,bmhk->bhlm", q, k, preferred_element_type=jnp.float32)
        logits = logits / q.shape[-1] ** 0.5
        if key_mask is not None:
            logits = jnp.where(key_mask[:, None, None, :], logits, _HIDDEN)
        return jax.nn.softmax(logits)


class BertLayer(nnx.Module):
    """x = ln_1(x + self_attn(x)); ln_2(x + cross_attn(x, context)); ln_3(x + mlp(x)).

    The second of these three steps exists only with `cross`.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        policy: ComputePolicy,
        *,
        cross: bool = True,
        epsilon: float = EPSILON,
        rngs: nnx.Rngs,
    ):
        init = BlockInit.bert(width)
        norm = lambda: layer_norm(width, policy, epsilon=epsilon, rngs=rngs)  # noqa: E731
        self.self_attn = DropoutAttention(width, heads, init, policy, rngs=rngs)
        self.ln_1 = norm()
        if cross:
            self.cross_attn = DropoutAttention(width, heads, init, policy, rngs=rngs)
            self.ln_2 = norm()
        self.mlp = Mlp(width, init, policy, hidden=hidden, activation=gelu, rngs=rngs)
        self.ln_3 = norm()
        self.cross = cross
        self.dtype = policy.compute

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None,
        key_mask: jax.Array | None,
        context_mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        rate: float = 0.0,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """x [B,L,D], context [B,M,D], masks bool [B,L] and [B,M], keys [B] -> [B,L,D].

        at: int [B,N], the only tokens whose results are computed -> [B,N,D].
        """
        key = lambda i: fold_in(keys, i)  # noqa: E731
        x = self._read_itself(x, key_mask, keys, rate, at)
        if self.cross:
            y = self.cross_attn(x, context, key_mask=context_mask, keys=key(2), rate=rate)
            x = self.ln_2(x + dropout(y, key(3), rate)).astype(self.dtype)
        return self.ln_3(x + dropout(self.mlp(x), key(4), rate)).astype(self.dtype)

    def _read_itself(self, x, key_mask, keys, rate, at=None) -> jax.Array:
        every, x = x, x if at is None else jnp.take_along_axis(x, at[..., None], axis=1)
        context = None if at is None else every
        y = self.self_attn(x, context, key_mask=key_mask, keys=fold_in(keys, 0), rate=rate)
        return self.ln_1(x + dropout(y, fold_in(keys, 1), rate)).astype(self.dtype)

    def attention_weights(
        self, x, context, key_mask, context_mask, keys, rate
    ) -> tuple[jax.Array, jax.Array]:
        """Probabilities of self- and cross-attention before dropout, [B,H,L,L] and [B,H,L,M]."""
        y = self._read_itself(x, key_mask, keys, rate)
        return (
            self.self_attn.weights(x, key_mask=key_mask),
            self.cross_attn.weights(y, context, key_mask=context_mask),
        )


class BertStack(nnx.Module):
    """`depth` layers; with cross-attention every layer reads itself, then the same context."""

    def __init__(
        self,
        *,
        width: int,
        depth: int,
        heads: int,
        hidden: int,
        policy: ComputePolicy,
        cross: bool = True,
        epsilon: float = EPSILON,
        rngs: nnx.Rngs,
    ):
        def make(rngs: nnx.Rngs) -> BertLayer:
            return BertLayer(width, heads, hidden, policy, cross=cross, epsilon=epsilon, rngs=rngs)

        self.blocks = stack_layers(make, depth, rngs=rngs)
        self.depth, self.dtype, self.policy = depth, policy.compute, policy

    def __call__(
        self,
        x: jax.Array,
        context: jax.Array | None = None,
        key_mask: jax.Array | None = None,
        *,
        context_mask: jax.Array | None = None,
        keys: jax.Array | None = None,
        rate: float = 0.0,
        at: jax.Array | None = None,
    ) -> jax.Array:
        """x [B,L,D] -> [B,L,D]. Either modality may be x, and the other one the context.

        Args:
          x: tokens that read.
          context: [B,M,D], tokens that are read, in stacks with cross-attention.
          key_mask: bool [B,L], False for padding of x.
          context_mask: bool [B,M], False for padding of the context.
          keys: random keys [B] of the dropout, None for evaluation.
          rate: of the dropout.
          at: int [B,N], the tokens of x whose results are wanted -> [B,N,D]; None: all. The last
            layer computes nothing else.
        """
        chex.assert_rank(x, 3)
        if context is not None:
            chex.assert_rank(context, 3)
            chex.assert_equal_shape((x, context), dims=(0, 2))
        if key_mask is not None:
            chex.assert_shape(key_mask, x.shape[:2])
        if at is None:
            layers = self.blocks, jnp.arange(self.depth)
            return self._run(layers, x, context, key_mask, context_mask, keys, rate)
        chex.assert_shape(at, (x.shape[0], None))
        lower, last = self._lower_and_last()
        x = self._run(lower, x, context, key_mask, context_mask, keys, rate)
        return last(x, context, key_mask, context_mask, self._last_keys(keys, rate), rate, at)

    def last_attention_weights(
        self,
        x: jax.Array,
        context: jax.Array,
        key_mask: jax.Array | None,
        context_mask: jax.Array | None,
        keys: jax.Array | None = None,
        rate: float = 0.0,
    ) -> tuple[jax.Array, jax.Array]:
        """`BertLayer.attention_weights` of the last layer."""
        lower, last = self._lower_and_last()
        x = self._run(lower, x, context, key_mask, context_mask, keys, rate)
        keys = self._last_keys(keys, rate)
        return last.attention_weights(x, context, key_mask, context_mask, keys, rate)

    def _lower_and_last(self) -> tuple[tuple[BertLayer, jax.Array], BertLayer]:
        """The layers below the last one with their numbers, as `_run` takes them; the last one."""
        lower = jax.tree.map(lambda p: p[:-1], self.blocks), jnp.arange(self.depth - 1)
        return lower, jax.tree.map(lambda p: p[-1], self.blocks)

    def _last_keys(self, keys: jax.Array | None, rate: float) -> jax.Array | None:
        return fold_in(keys if rate else None, self.depth - 1)

    def _run(self, layers, x, context, key_mask, context_mask, keys, rate) -> jax.Array:
        context = None if context is None else context.astype(self.dtype)
        keys = keys if rate else None  # without dropout no random numbers are computed

        def layer(x: jax.Array, block: tuple[BertLayer, jax.Array]) -> tuple[jax.Array, None]:
            module, number = block
            layer_keys = fold_in(keys, number)
            return module(x, context, key_mask, context_mask, layer_keys, rate), None

        return scan_layers(layer, x.astype(self.dtype), layers, self.policy)


def token_0(x: jax.Array) -> jax.Array:
    """x [B,...] -> int [B,1]: what `BertStack` takes as `at` where token 0 stands for the whole."""
    return jnp.zeros((x.shape[0], 1), int)  # may be symbolic, so not len()


class BertMlmHead(nnx.Module):
    """LN(GELU(dense(x))) times the word table, plus a bias: tokens [...,D] -> logits [...,V].

    tied: the head has no word table, each call brings one.
    """

    def __init__(
        self,
        width: int,
        vocab_size: int,
        policy: ComputePolicy,
        *,
        epsilon: float = EPSILON,
        tied: bool = False,
        rngs: nnx.Rngs,
    ):
        self.dense = dense(width, width, (EMBED, None), normal(0.02), zeros, policy, rngs=rngs)
        self.ln = layer_norm(width, policy, epsilon=epsilon, rngs=rngs)
        if not tied:
            word = normal(0.02)(rngs.params(), (vocab_size, width), policy.param)
            self.word = nnx.Param(word, axes=(VOCAB, EMBED))
        self.bias = nnx.Param(jnp.zeros(vocab_size, policy.param), axes=(VOCAB,))
        self.dtype = policy.compute

    def __call__(self, x: jax.Array, word: jax.Array | None = None) -> jax.Array:
        """x [...,D] -> logits [...,V]. word: the table [V,D] of a tied head."""
        table = self.word[...] if word is None else word
        x = self.ln(gelu(self.dense(x))).astype(self.dtype)
        return x @ table.astype(self.dtype).T + self.bias.astype(self.dtype)
