"""RDE's model: two CLIP towers, and for each modality the embedding of its most attended tokens.

Source: Qin et al., CVPR 2024, section 3.1; model/CrossEmbeddingLayer_tse.py and model/build.py in
the release.
"""

from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
from flax import nnx

from tipr_jax.augment.image import normalise
from tipr_jax.losses.contrastive import l2_normalise
from tipr_jax.models.rde.config import Config
from tipr_jax.nn.batch_norm import BatchNorm
from tipr_jax.nn.clip_text import ClipText, end_position, end_token
from tipr_jax.nn.init import uniform_fan_in
from tipr_jax.nn.transformer import Block, apply_blocks, dense
from tipr_jax.nn.vit import VisionTransformer
from tipr_jax.precision import ComputePolicy
from tipr_jax.sharding import EMBED, MLP

# `build_transforms` of datasets/build.py in the release, CLIP's constants.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


class Embeddings(NamedTuple):
    """What stands for an image or a text, float32, not normalised.

    bge: [B,C], the global embedding; tse: [B,E], the token-selection embedding.
    """

    bge: jax.Array
    tse: jax.Array


class TokenSelection(nnx.Module):
    """The token-selection embedding: selected tokens [B,K,C] -> the largest of each channel [B,E].

    A linear map of each token at unit length, plus a layer with a batch norm in between. The
    release has two more layers that nothing reads (`pretrained.rde.UNUSED`); they are left out.
    """

    def __init__(self, n_in: int, n_out: int, policy: ComputePolicy, *, rngs: nnx.Rngs):
        def linear(a: int, b: int, axes: tuple) -> nnx.Linear:
            init = uniform_fan_in(a)
            return dense(a, b, axes, init, init, policy, rngs=rngs)

        self.skip_proj = linear(n_in, n_out, (EMBED, None))
        self.hidden_proj = linear(n_in, n_out // 2, (EMBED, MLP))
        self.hidden_norm = BatchNorm(n_out // 2, policy)
        self.out_proj = linear(n_out // 2, n_out, (MLP, EMBED))
        self.dtype = policy.compute

    def __call__(
        self, tokens: jax.Array, count: jax.Array, rows: jax.Array | None = None
    ) -> jax.Array:
        """tokens [B,K,C], best first, of which the first `count` (int [B]) are compared.

        rows: as in `BatchNorm`, whose statistics include the tokens behind `count`.
        """
        tokens = tokens.astype(jnp.float32)
        length = jnp.linalg.norm(tokens, axis=-1, keepdims=True)
        tokens = (tokens / (length + 1e-8)).astype(self.dtype)
        hidden = nnx.relu(self.hidden_norm(self.hidden_proj(tokens), rows)).astype(self.dtype)
        z = (self.skip_proj(tokens) + self.out_proj(hidden)).astype(jnp.float32)
        counts = jnp.arange(z.shape[1]) < count[:, None]
        return jnp.max(jnp.where(counts[..., None], z, -jnp.inf), axis=1)


def attention_of(block: Block, x: jax.Array, position: jax.Array, *, causal: bool) -> jax.Array:
    """How much the token at a position attends to each, the mean over heads: float32 [B,L].

    x [B,L,D]; position int [B]. Computed apart from the block's own attention, which therefore may
    be a fused kernel; float32, because tokens are ordered by it.
    """
    context = block.ln_1(x)
    query = jnp.take_along_axis(context, position[:, None, None], axis=1)[:, 0]
    attn = block.attn
    kernel, bias = attn.qkv.kernel.astype(attn.dtype), attn.qkv.bias.astype(attn.dtype)
    q = jnp.einsum("bd,dhk->bhk", query.astype(attn.dtype), kernel[:, 0]) + bias[0]
    k = jnp.einsum("bld,dhk->blhk", context.astype(attn.dtype), kernel[:, 1]) + bias[1]
    logits = jnp.einsum("bhk,blhk->bhl", q, k, preferred_element_type=jnp.float32)
    if causal:
        read = jnp.arange(x.shape[1]) <= position[:, None]
        logits = jnp.where(read[:, None], logits, -jnp.inf)
    return jnp.mean(jax.nn.softmax(logits / q.shape[-1] ** 0.5, axis=-1), axis=1)


def with_last_attention(
    blocks: Block, x: jax.Array, position: jax.Array, *, causal: bool = False
) -> tuple[jax.Array, jax.Array]:
    """(x through stacked blocks [B,L,D], `attention_of` the last one [B,L], without gradient)."""
    x = apply_blocks(jax.tree.map(lambda p: p[:-1], blocks), x, causal=causal)
    last = jax.tree.map(lambda p: p[-1], blocks)
    weights = attention_of(last, jax.lax.stop_gradient(x), position, causal=causal)
    x = apply_blocks(jax.tree.map(lambda p: p[-1:], blocks), x, causal=causal)
    return x, jax.lax.stop_gradient(weights)


class ImageTower(VisionTransformer):
    """The image tower, which also tells what its class token looks at."""

    def tokens_and_attention(self, image: jax.Array) -> tuple[jax.Array, jax.Array]:
        """image float [B,H,W,3], normalised -> (tokens [B,1+P,C], attention [B,1+P])."""
        start = jnp.zeros(image.shape[:1], int)
        x, weights = with_last_attention(self.blocks, self._embed(image), start)
        return self._project(x), weights


class TextTower(ClipText):
    """The text tower, which also tells what its end mark looks at.

    The paper (section 3.1) writes the first token; the released code reads the end mark.
    """

    def tokens_and_attention(self, text_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
        """text_ids int [B,L] -> (tokens [B,L,C], attention [B,L])."""
        x, end = self._embed(text_ids), end_position(text_ids)
        x, weights = with_last_attention(self.blocks, x, end, causal=True)
        return self._project(x), weights


def select_patches(attention: jax.Array, count: int) -> jax.Array:
    """attention [B,1+P] of the class token -> int [B,count]: the patches it looks at most.

    Places among the tokens, from 1 on: the class token is not chosen. Of equal weights the lower
    place comes first (torch leaves the order open).
    """
    return jax.lax.top_k(attention.at[:, 0].set(-1), count)[1]


def select_words(
    attention: jax.Array, text_ids: jax.Array, count: int
) -> tuple[jax.Array, jax.Array]:
    """attention [B,L] of the end mark, text_ids int [B,L] -> (places int [B,count], n int [B]).

    The first n of the places are tokens of the caption, the others padding, which has a weight of
    0; the two marks come last. The id 0 is padding in the middle of a caption, too (released). n is
    at least 1; in the release a caption without a token makes the embeddings of its whole batch
    NaN.
    """
    chex.assert_equal_shape((attention, text_ids))
    place = jnp.arange(text_ids.shape[1])
    marks = (place == 0) | (place == end_position(text_ids)[:, None])
    token = text_ids != 0
    weights = jnp.where(token, jnp.where(marks, -1, attention), 0)
    return jax.lax.top_k(weights, count)[1], jnp.clip(jnp.sum(token, axis=1) - 2, 1, count)


class Rde(nnx.Module):
    """The two towers, and a `TokenSelection` for each."""

    def __init__(self, config: Config, policy: ComputePolicy, *, rngs: nnx.Rngs):
        c = config
        self.selected_patches, self.selected_words = c.selected_patches, c.selected_words
        self.similarity = c.similarity
        self.image_encoder = ImageTower(
            image_size=c.image_size,
            patch=c.patch,
            stride=c.stride,
            width=c.vision_width,
            depth=c.vision_depth,
            embed_dim=c.embed_dim,
            head_dim=c.vision_head_dim,
            hidden=c.vision_hidden or None,
            activation=c.activation,
            policy=policy,
            rngs=rngs,
        )
        self.text_encoder = TextTower(
            vocab_size=c.vocab_size,
            length=c.text_length,
            width=c.text_width,
            depth=c.text_depth,
            embed_dim=c.embed_dim,
            head_dim=c.text_head_dim,
            hidden=c.text_hidden or None,
            activation=c.activation,
            policy=policy,
            rngs=rngs,
        )
        self.image_selection = TokenSelection(c.embed_dim, c.tse_dim, policy, rngs=rngs)
        self.text_selection = TokenSelection(c.embed_dim, c.tse_dim, policy, rngs=rngs)

    def embed_image(self, image: jax.Array, rows: jax.Array | None = None) -> Embeddings:
        """image float [B,H,W,3], normalised -> `Embeddings`; rows as in `BatchNorm`."""
        tokens, attention = self.image_encoder.tokens_and_attention(image)
        places = select_patches(attention, self.selected_patches)
        chosen = jnp.take_along_axis(tokens, places[..., None], axis=1)
        tse = self.image_selection(chosen, jnp.full(image.shape[:1], places.shape[1]), rows)
        return Embeddings(tokens[:, 0].astype(jnp.float32), tse)

    def embed_text(self, text_ids: jax.Array, rows: jax.Array | None = None) -> Embeddings:
        """text_ids int [B,L] -> `Embeddings`; rows as in `BatchNorm`."""
        tokens, attention = self.text_encoder.tokens_and_attention(text_ids)
        places, count = select_words(attention, text_ids, self.selected_words)
        chosen = jnp.take_along_axis(tokens, places[..., None], axis=1)
        tse = self.text_selection(chosen, count, rows)
        return Embeddings(end_token(tokens, text_ids).astype(jnp.float32), tse)

    def encode_image(self, image: jax.Array) -> jax.Array:
        """image uint8 [B,H,W,3] -> the `feature` of the image, float32 [B,C+E], [B,C] or [B,E]."""
        return feature(self.embed_image(normalise(image, MEAN, STD)), self.similarity)

    def encode_text(self, text_ids: jax.Array, language: int = 0) -> jax.Array:
        """text_ids int [B,L] -> the `feature` of the text; one language alone."""
        del language
        return feature(self.embed_text(text_ids), self.similarity)


def feature(embeddings: Embeddings, similarity: str) -> jax.Array:
    """One vector whose cosine with another is the similarity of the two, float32.

    Of "mean" it is both embeddings at unit length, one after the other: their cosine is the mean of
    both cosines, by which the release ranks.
    """
    if similarity != "mean":
        return getattr(embeddings, similarity)
    return jnp.concatenate([l2_normalise(part) for part in embeddings], axis=1)
