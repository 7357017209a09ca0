"""Retrieval metrics: R@k, mAP and mINP (spec irra §7), exact, without sorting the gallery.

Every metric needs only the ranks r_1 < ... < r_n of a query's n positives (gallery rows of the
same person): R@k is r_1 <= k, AP is the mean of i / r_i, INP is n / r_n. And a positive's rank is
one more than the number of gallery rows that score higher, so counting replaces sorting. Only a
block of the similarity matrix exists at a time: memory does not grow with the number of queries.

Axis letters: Q queries, G gallery rows, C embedding width, N (query, positive) pairs.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
import tqdm

_BLOCK_ELEMENTS = 2**24  # of the similarity matrix at a time: 64 MiB in float32
_PROGRESS_AFTER_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class PositiveRanks:
    """Where the positives of each query stand, best first.

    Attributes:
      rank: int64 [N], 1-based, ascending within a query; the queries' ranks follow each other.
      count: int64 [Q], positives of each query, each at least 1; sums to N.
    """

    rank: np.ndarray
    count: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """int64 [Q], the place in `rank` of each query's first positive."""
        return np.cumsum(self.count) - self.count

    def best_rank(self) -> np.ndarray:
        """int64 [Q], the rank of the first correct image: what R@k asks about."""
        return self.rank[self.start]

    def average_precision(self) -> np.ndarray:
        """float64 [Q], AP = mean over positives i = 1..n of i / r_i."""
        nth = np.arange(len(self.rank)) - np.repeat(self.start, self.count) + 1
        return np.add.reduceat(nth / self.rank, self.start) / self.count

    def inverse_negative_penalty(self) -> np.ndarray:
        """float64 [Q], INP = n / r_n."""
        return self.count / self.rank[self.start + self.count - 1]


class _Positives:
    """The gallery rows of each query's person."""

    def __init__(self, query_person_id: np.ndarray, gallery_person_id: np.ndarray):
        query = _as_ids(query_person_id, "query_person_id")
        gallery = _as_ids(gallery_person_id, "gallery_person_id")
        if not len(query) or not len(gallery):
            raise ValueError(
                f"nothing to rank: {len(query)} queries and {len(gallery)} gallery rows given"
            )
        self._by_person = np.argsort(gallery, kind="stable")
        in_order = gallery[self._by_person]
        self._start = np.searchsorted(in_order, query, "left")
        self._stop = np.searchsorted(in_order, query, "right")
        self.count = self._stop - self._start
        if not self.count.all():
            index = int(np.argmin(self.count))
            raise ValueError(
                f"query {index} (person_id {query[index]}) has no positive: none of the "
                f"{len(gallery)} gallery rows shows that person; remove it or complete the gallery"
            )

    def ranks(self, query: int, similarity: np.ndarray) -> list[int]:
        """Ranks, ascending, of the query's positives in its row [G]; ties: lower index first."""
        count = np.count_nonzero
        rows = self._by_person[self._start[query] : self._stop[query]].tolist()
        return sorted(
            1 + count(similarity[:row] >= score) + count(similarity[row + 1 :] > score)
            for row, score in zip(rows, similarity[rows], strict=True)
        )


def _as_ids(person_id: np.ndarray, name: str) -> np.ndarray:
    ids = np.asarray(person_id)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} is {ids.dtype} {list(ids.shape)}, expected one integer per row")
    return ids


def positive_ranks(
    similarity: np.ndarray, query_person_id: np.ndarray, gallery_person_id: np.ndarray
) -> PositiveRanks:
    """Ranks of every query's positives in a similarity matrix that is already there.

    Args:
      similarity: float [Q, G], higher is more similar. Equal scores rank by gallery index.
      query_person_id: int [Q].
      gallery_person_id: int [G].

    Raises:
      ValueError: shapes that do not fit, NaN, or a query without a positive (it is named).
    """
    similarity = np.asarray(similarity)
    positives = _Positives(query_person_id, gallery_person_id)
    expected = (len(query_person_id), len(gallery_person_id))
    if similarity.shape != expected:
        raise ValueError(
            f"similarity is {list(similarity.shape)}, but there are {expected[0]} query and "
            f"{expected[1]} gallery person ids; expected {list(expected)}"
        )
    if np.isnan(similarity).any():
        raise ValueError(f"similarity of query {_first_bad_row(~np.isnan(similarity))} has NaN")
    ranks = [rank for query, row in enumerate(similarity) for rank in positives.ranks(query, row)]
    return PositiveRanks(np.asarray(ranks, np.int64), positives.count)


def embedding_ranks(
    query_embed: np.ndarray,
    gallery_embed: np.ndarray,
    query_person_id: np.ndarray,
    gallery_person_id: np.ndarray,
    *,
    progress: bool = True,
) -> PositiveRanks:
    """Ranks of every query's positives by cosine similarity, a block of queries at a time.

    Args:
      query_embed: float [Q, C], any length of row: rows are L2-normalised here, in float32.
      gallery_embed: float [G, C].
      query_person_id: int [Q].
      gallery_person_id: int [G].
      progress: show a progress bar on a terminal when ranking takes more than a few seconds.

    Raises:
      ValueError: shapes that do not fit, NaN or infinity, a query without a positive (it is named).
    """
    query = _normalised(query_embed, len(query_person_id), "query")
    gallery = _normalised(gallery_embed, len(gallery_person_id), "gallery")
    if query.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"query embeddings have width {query.shape[1]} and gallery embeddings "
            f"{gallery.shape[1]}; both must come from the same model"
        )
    positives = _Positives(query_person_id, gallery_person_id)
    rows = min(len(query), max(1, _BLOCK_ELEMENTS // len(gallery)))
    buffer = np.empty((rows, len(gallery)), np.float32)
    ranks = []
    with tqdm.tqdm(
        total=len(query),
        desc="ranking",
        unit="query",
        delay=_PROGRESS_AFTER_SECONDS,
        disable=None if progress else True,  # None: shown on a terminal only
    ) as bar:
        for first in range(0, len(query), rows):
            queries = query[first : first + rows]
            block = np.matmul(queries, gallery.T, out=buffer[: len(queries)])
            for i, row in enumerate(block, first):
                ranks += positives.ranks(i, row)
            bar.update(len(block))
    return PositiveRanks(np.asarray(ranks, np.int64), positives.count)


def _normalised(embed: np.ndarray, num_ids: int, name: str) -> np.ndarray:
    """float32 rows over their L2 norm, which is clamped below by 1e-12 (spec irra §7)."""
    embed = np.asarray(embed, np.float32)
    if embed.ndim != 2 or len(embed) != num_ids:
        raise ValueError(
            f"{name} embeddings are {list(embed.shape)} for {num_ids} person ids; "
            f"expected [{num_ids}, width]"
        )
    finite = np.isfinite(embed)
    if not finite.all():
        # NaN compares false with everything, hence ranks first: a broken model would look perfect.
        raise ValueError(f"{name} embedding {_first_bad_row(finite)} has NaN or infinite values")
    return embed / np.maximum(np.linalg.norm(embed, axis=1, keepdims=True), 1e-12)


def _first_bad_row(good: np.ndarray) -> int:
    return int(np.argmin(good.all(axis=1)))


def metrics_from_ranks(positive: PositiveRanks, ks: Sequence[int] = (1, 5, 10)) -> dict[str, float]:
    """{"R1", "R5", "R10", "mAP", "mINP"} in percent, means over queries (spec irra §7).

    Deviation: a gallery of fewer than k rows is allowed (the released code stops there); R@k then
    is R@G, which is 100.
    """
    best = positive.best_rank()
    values = {f"R{k}": np.mean(best <= k) for k in ks}
    values["mAP"] = np.mean(positive.average_precision())
    values["mINP"] = np.mean(positive.inverse_negative_penalty())
    return {name: 100.0 * float(value) for name, value in values.items()}


def metrics_from_similarity(
    similarity: np.ndarray, query_person_id: np.ndarray, gallery_person_id: np.ndarray
) -> dict[str, float]:
    """R@k, mAP and mINP in percent of a similarity matrix; arguments as in `positive_ranks`."""
    return metrics_from_ranks(positive_ranks(similarity, query_person_id, gallery_person_id))


def retrieval_metrics(
    query_embed: np.ndarray,
    gallery_embed: np.ndarray,
    query_person_id: np.ndarray,
    gallery_person_id: np.ndarray,
    *,
    progress: bool = True,
) -> dict[str, float]:
    """R@k, mAP and mINP in percent of embeddings; arguments and errors as in `embedding_ranks`.

    Text-to-image retrieval has texts as queries; swap query and gallery for image-to-text.
    """
    return metrics_from_ranks(
        embedding_ranks(
            query_embed, gallery_embed, query_person_id, gallery_person_id, progress=progress
        )
    )
