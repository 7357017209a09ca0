"""The second stage of a search: the model's matching head on the best candidates by cosine.

Queries come in blocks. The tokens of a block's texts are computed anew and stay on the devices,
while the tokens of the gallery's images, which the host keeps, pass by tile after tile; a program
of one shape gathers and scores some (text, image) pairs of a tile at a time. So the memory of the
devices does not grow with the data, and per block every image crosses to them once.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tqdm import tqdm

from tipr_jax.batch import Batch
from tipr_jax.experiment import Experiment, compute_policy
from tipr_jax.models.bi_irra import text_mask
from tipr_jax.sharding import (
    batch_shards,
    check_batch_size,
    process_rows,
    put_batch,
    put_params,
)

BLOCK_QUERIES = 1024  # 120 MB of text tokens in bfloat16, at 77 tokens of width 768
TILE_IMAGES = 256  # 77 MB of image tokens, at 197


def can_match(exp: Experiment) -> bool:
    """Whether the model has what `match` needs."""
    return "itm_head" in exp.abstract_params


class Reranker:
    """Scores pairs with `model.match`, `config.eval.rerank_pairs` at a time over all devices.

    Every process holds all image tokens, works on its devices' share of each pair batch and gets
    all scores. `check` is called before every batch of pairs; what it raises ends the work.

    Raises:
      ValueError: the pairs cannot be cut evenly over the devices.
    """

    def __init__(self, exp: Experiment, check: Callable[[], None] = lambda: None):
        self.exp, self.check = exp, check
        self.pairs = exp.config.eval.rerank_pairs
        check_batch_size("eval.rerank_pairs", self.pairs, exp.mesh, exp.rules)
        dtype = compute_policy(exp.config, exp.mesh, exp.rules).compute
        params, rows, whole = exp.param_shardings, exp.batch_sharding, exp.replicated

        def encode_image(params: Any, image: jax.Array) -> tuple[jax.Array, jax.Array]:
            model = nnx.merge(exp.graphdef, params)
            tokens = model.image_tokens(image)
            return model.image_feature(tokens), tokens.astype(dtype)

        def encode_text(params: Any, text_ids: jax.Array) -> tuple[jax.Array, jax.Array]:
            tokens = nnx.merge(exp.graphdef, params).text_tokens(text_ids)
            return tokens.astype(dtype), text_mask(text_ids)

        def match(params: Any, image: jax.Array, text: tuple, row: dict) -> jax.Array:
            model, (tokens, mask) = nnx.merge(exp.graphdef, params), text
            return model.match(image[row["image"]], tokens[row["text"]], mask[row["text"]])

        # Fusion computes in this dtype anyway, so that tokens lose nothing by being stored in it.
        self.encode_image = jax.jit(encode_image, in_shardings=(params, rows), out_shardings=whole)
        self._encode_text = jax.jit(encode_text, in_shardings=(params, rows), out_shardings=whole)
        self._match = jax.jit(match, in_shardings=(params, whole, whole, rows), out_shardings=whole)
        self._join = jax.jit(lambda *x: jax.tree.map(_concatenate, *x), out_shardings=whole)

    def __call__(
        self,
        params: Any,
        text_batches: Iterable[Batch],
        image_tokens: np.ndarray,
        candidates: np.ndarray,
        what: str = "",
    ) -> np.ndarray:
        """Logits float32 [Q,k,2] of each query with its candidates; column 1 of 2 is "match".

        Args:
          params: of the model without training heads.
          text_batches: this process's rows of the batches of all queries, of `eval.batch_size`.
          image_tokens: [G,1+P,D], what `encode_image` gives besides the features.
          candidates: int [Q,k], rows of `image_tokens`.
          what: names the progress bar.
        """
        size, count = self.exp.config.eval.batch_size, len(candidates)
        batches = min(max(1, BLOCK_QUERIES // size), -(-count // size))
        texts = (self._texts(params, batch) for batch in text_batches)
        logits = np.empty((*candidates.shape, 2), np.float32)
        with tqdm(
            total=candidates.size, desc=f"re-rank {what}", unit="pair", leave=False, disable=None
        ) as bar:
            for first in range(0, count, batches * size):
                parts = list(islice(texts, batches))
                text = self._join(*parts, *parts[:1] * (batches - len(parts)))  # one shape
                block = slice(first, first + batches * size)
                flat = logits[block].reshape(-1, 2)  # a view
                scored = self._scored(params, text, image_tokens, candidates[block])
                for pairs, score in _one_ahead(scored):
                    flat[pairs] = np.asarray(score)[: len(pairs)]
                    bar.update(len(pairs))
        return logits

    def _texts(self, params: Any, batch: Batch) -> tuple[jax.Array, jax.Array]:
        batch = put_batch({"text_ids": batch["text_ids"]}, self.exp.batch_sharding)
        return self._encode_text(params, batch["text_ids"])

    def _scored(
        self, params: Any, text: tuple, image_tokens: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """(pairs int [n], their logits [>=n,2]): a pair is an index into the flat candidates."""
        tile = min(TILE_IMAGES, len(image_tokens))
        shards = batch_shards(self.exp.mesh, self.exp.rules)
        size = min(self.pairs, -(-candidates.size // shards) * shards)
        image_row = candidates.reshape(-1)
        by_tile = np.argsort(image_row // tile, kind="stable")
        bounds = np.searchsorted(image_row[by_tile], np.arange(0, len(image_tokens) + tile, tile))
        for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if start == stop:
                continue
            tokens = image_tokens[number * tile : (number + 1) * tile]
            image = put_params(_padded(tokens, tile), self.exp.replicated)
            for first in range(start, stop, size):
                self.check()
                pairs = by_tile[first : min(first + size, stop)]
                row = {
                    "image": image_row[pairs] - number * tile,
                    "text": pairs // candidates.shape[1],
                }
                yield pairs, self._match(params, image, text, self._put(row, size))

    def _put(self, row: dict[str, np.ndarray], size: int) -> dict[str, jax.Array]:
        mine = process_rows(self.exp.batch_sharding, size)
        local = {key: _padded(x.astype(np.int32), size)[mine] for key, x in row.items()}
        return put_batch(local, self.exp.batch_sharding)


def _concatenate(*parts: jax.Array) -> jax.Array:
    return jnp.concatenate(parts)


def _padded(x: np.ndarray, rows: int) -> np.ndarray:
    """x with zeros up to `rows`."""
    if len(x) == rows:
        return x
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def _one_ahead(items: Iterable) -> Iterator:
    """The same items, each after the next one is there: the devices do not wait for the host."""
    items = iter(items)
    for before in islice(items, 1):
        for item in items:
            yield before
            before = item
        yield before
