"""The second stage of a search: the model's matching head on the best candidates by cosine.

Queries come in blocks. The tokens of a block's texts are computed anew and stay on the devices,
while the tokens of the gallery's images, which the host keeps, pass by tile after tile; a program
of one shape gathers and scores some (text, image) pairs of a tile at a time. So the memory of the
devices does not grow with the data, and per block every image crosses to them once.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice

import jax
import numpy as np
from tqdm import tqdm

from tipr_jax.batch import Batch
from tipr_jax.inference.embedder import padded
from tipr_jax.inference.encoders import Encoders, TextTokens
from tipr_jax.models.method import Params
from tipr_jax.sharding import batch_shards, check_batch_size, process_rows, put_batch, put_params

BLOCK_QUERIES = 1024  # 120 MB of text tokens in bfloat16, at 77 tokens of width 768
TILE_IMAGES = 256  # 77 MB of image tokens, at 197


class Reranker:
    """Scores (text, image) pairs by the model's matching head.

    Every process holds all image tokens, works on its devices' share of each pair batch and gets
    all scores.

    Args:
      encoders: of a model that can match.
      text_rows: rows of a text batch, over all devices.
      pairs: how many pairs to score at a time, over all devices.
      check: called before every batch of pairs; what it raises ends the work.

    Raises:
      ValueError: the pairs cannot be cut evenly over the devices.
    """

    def __init__(
        self,
        encoders: Encoders,
        *,
        text_rows: int,
        pairs: int,
        check: Callable[[], None] = lambda: None,
    ):
        self.encoders, self.text_rows, self.pairs, self.check = encoders, text_rows, pairs, check
        check_batch_size("eval.rerank_pairs", pairs, encoders.mesh, encoders.rules)

    def __call__(
        self,
        params: Params,
        text_batches: Iterable[Batch],
        image_tokens: np.ndarray,
        candidates: np.ndarray,
        what: str = "",
    ) -> np.ndarray:
        """Logits float32 [Q,k,2] of each query with its candidates; column 1 of 2 is "match".

        Args:
          params: of the model without training heads.
          text_batches: this process's rows of the batches of all queries, `text_rows` each.
          image_tokens: [G,1+P,D], from `Encoders.image_tokens`.
          candidates: int [Q,k], rows of `image_tokens`.
          what: names the progress bar.
        """
        size, count = self.text_rows, len(candidates)
        batches = min(max(1, BLOCK_QUERIES // size), -(-count // size))
        texts = (self._texts(params, batch) for batch in text_batches)
        logits = np.empty((*candidates.shape, 2), np.float32)
        with tqdm(
            total=candidates.size, desc=f"re-rank {what}", unit="pair", leave=False, disable=None
        ) as bar:
            for first in range(0, count, batches * size):
                parts = list(islice(texts, batches))
                text = self.encoders.join(*parts, *parts[:1] * (batches - len(parts)))  # one shape
                block = slice(first, first + batches * size)
                flat = logits[block].reshape(-1, 2)  # a view
                scored = self._scored(params, text, image_tokens, candidates[block])
                for pairs, score in _one_ahead(scored):
                    flat[pairs] = np.asarray(score)[: len(pairs)]
                    bar.update(len(pairs))
        return logits

    def _texts(self, params: Params, batch: Batch) -> TextTokens:
        text_ids = self.encoders.put_rows({"text_ids": batch["text_ids"]})["text_ids"]
        return self.encoders.text_tokens(params, text_ids)

    def _scored(
        self, params: Params, text: TextTokens, image_tokens: np.ndarray, candidates: np.ndarray
    ) -> Iterator[tuple[np.ndarray, jax.Array]]:
        """(pairs int [n], their logits [>=n,2]): a pair is an index into the flat candidates."""
        tile = min(TILE_IMAGES, len(image_tokens))
        shards = batch_shards(self.encoders.mesh, self.encoders.rules)
        size = min(self.pairs, -(-candidates.size // shards) * shards)
        image_row = candidates.reshape(-1)
        by_tile = np.argsort(image_row // tile, kind="stable")
        bounds = np.searchsorted(image_row[by_tile], np.arange(0, len(image_tokens) + tile, tile))
        for number, (start, stop) in enumerate(zip(bounds, bounds[1:], strict=False)):
            if start == stop:
                continue
            tokens = image_tokens[number * tile : (number + 1) * tile]
            image = put_params(padded(tokens, tile), self.encoders.whole)
            for first in range(start, stop, size):
                self.check()
                pairs = by_tile[first : min(first + size, stop)]
                row = {
                    "image": image_row[pairs] - number * tile,
                    "text": pairs // candidates.shape[1],
                }
                yield pairs, self.encoders.match(params, image, text, self._put(row, size))

    def _put(self, row: dict[str, np.ndarray], size: int) -> dict[str, jax.Array]:
        mine = process_rows(self.encoders.rows, size)
        local = {key: padded(x.astype(np.int32), size)[mine] for key, x in row.items()}
        return put_batch(local, self.encoders.rows)


def _one_ahead(items: Iterable) -> Iterator:
    """The same items, each after the next one is there: the devices do not wait for the host."""
    items = iter(items)
    for before in islice(items, 1):
        for item in items:
            yield before
            before = item
        yield before
