"""Retrieval metrics: R@k, mAP and mINP (spec irra §7), exact, without sorting the gallery.

Every metric needs only the ranks r_1 < r_2 < ... < r_n of a query's n positives (gallery rows of the
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

    def of(self, query: int) -> np.ndarray:
        return self._by_person[self._start[query] : self._stop[query]]


def _as_ids(person_id: np.ndarray, name: str) -> np.ndarray:
    ids = np.asarray(person_id)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} is {ids.dtype} {list(ids.shape)}, expected one integer per row")
    return ids


def _row_ranks(row: np.ndarray, positives: np.ndarray) -> list[int]:
    """Unsorted 1-based ranks of `positives` in one similarity row [G]; ties: lower index first."""
    count = np.count_nonzero
    scores = row[positives]
    return [
        1 + count(row[:p] >= score) + count(row[p + 1 :] > score)
        for p, score in zip(positives, scores, strict=True)
    ]
