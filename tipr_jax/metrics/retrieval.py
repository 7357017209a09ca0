"""Retrieval metrics: R@k, mAP and mINP, exact, without sorting the gallery.

Source: utils/metrics.py in the release of IRRA; mINP: Ye et al., TPAMI 2022, section 4.3. Every
metric needs only the ranks r_1 < ... < r_n of a query's n positives (gallery rows of the
same person): R@k is r_1 <= k, AP is the mean of i / r_i, INP is n / r_n. And a positive's rank is
one more than the number of gallery rows that score higher, so counting replaces sorting. Only a
block of the similarity matrix exists at a time: memory does not grow with the number of queries.
Products and counts run in JAX, whose products use all cores of a CPU (2-3x OpenBLAS's speed here).

Axis letters: Q queries, G gallery rows, C embedding width, N (query, positive) pairs.
"""

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
import tqdm

from tipr_jax.metrics.unit_vectors import l2_normalise

# Of the similarity matrix at a time: 8 MiB in float32 stay in a CPU's cache while they are counted
# (64 MiB: half the speed). A block of few queries wastes the product, though, so a large gallery
# gets blocks of _FEW_QUERIES, up to 256 MiB.
_BLOCK_ELEMENTS = 2**21
_FEW_QUERIES = 128
_MAX_BLOCK_ELEMENTS = 2**26
_PROGRESS_AFTER_SECONDS = 3.0


@dataclasses.dataclass(frozen=True)
class PositiveRanks:
    """Where the positives of each query stand, best first.

    Attributes:
      rank: int64 [N], 1-based, ascending within a query; the queries' ranks follow each other.
      count: int64 [Q], positives of each query; sums to N. A query without one is a miss at every
        rank, its AP and INP are 0.
    """

    rank: np.ndarray
    count: np.ndarray

    @property
    def start(self) -> np.ndarray:
        """int64 [Q], the place in `rank` of each query's first positive."""
        return np.cumsum(self.count) - self.count

    def best_rank(self) -> np.ndarray:
        """int64 [Q], the rank of the first correct image: what R@k asks about."""
        found = self.count > 0
        best = np.full(len(self.count), np.iinfo(np.int64).max)
        best[found] = self.rank[self.start[found]]
        return best

    def average_precision(self, *, trapezoid: bool = False) -> np.ndarray:
        """float64 [Q], AP = mean over positives i = 1..n of i / r_i.

        trapezoid: each positive counts the mean of the precisions before it and at it instead,
        (i-1) / (r_i - 1), which is 1 at rank 1, and i / r_i. Source: utils/metrics.py in the
        release of IVT.
        """
        nth = np.arange(len(self.rank)) - np.repeat(self.start, self.count) + 1
        precision = nth / self.rank
        if trapezoid:
            before = np.where(self.rank == 1, 1.0, (nth - 1) / np.maximum(self.rank - 1, 1))
            precision = (before + precision) / 2
        found = self.count > 0
        average = np.zeros(len(self.count))
        if found.any():
            average[found] = np.add.reduceat(precision, self.start[found]) / self.count[found]
        return average

    def inverse_negative_penalty(self) -> np.ndarray:
        """float64 [Q], INP = n / r_n."""
        found = self.count > 0
        penalty = np.zeros(len(self.count))
        penalty[found] = self.count[found] / self.rank[(self.start + self.count - 1)[found]]
        return penalty


class _Positives:
    """The gallery rows of each query's person."""

    def __init__(
        self, query_person_id: np.ndarray, gallery_person_id: np.ndarray, count_misses: bool
    ):
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
        if not (count_misses or self.count.all()):
            index = int(np.argmin(self.count))
            raise ValueError(
                f"query {index} (person_id {query[index]}) has no positive: none of the "
                f"{len(gallery)} gallery rows shows that person; remove it or complete the gallery"
            )

    def rows(self, query: np.ndarray, places: np.ndarray) -> np.ndarray:
        """int32 [b, n]: the `places`-th positives [n] of `query` [b]; its last one past the end."""
        at = np.minimum(self._start[query, None] + places, self._stop[query, None] - 1)
        return self._by_person[at].astype(np.int32)


def _as_ids(person_id: np.ndarray, name: str) -> np.ndarray:
    ids = np.asarray(person_id)
    if ids.ndim != 1 or ids.dtype.kind not in "iu":
        raise ValueError(f"{name} is {ids.dtype} {list(ids.shape)}, expected one integer per row")
    return ids


def positive_ranks(
    similarity: np.ndarray,
    query_person_id: np.ndarray,
    gallery_person_id: np.ndarray,
    *,
    count_misses: bool = False,
) -> PositiveRanks:
    """Ranks of every query's positives in a similarity matrix that is already there.

    Args:
      similarity: float [Q, G], higher is more similar. Equal scores rank by gallery index.
      query_person_id: int [Q].
      gallery_person_id: int [G].
      count_misses: accept queries without a positive; they count as misses.

    Raises:
      ValueError: shapes that do not fit, NaN, or a query without a positive (it is named).
    """
    similarity = np.asarray(similarity)
    positives = _Positives(query_person_id, gallery_person_id, count_misses)
    expected = (len(query_person_id), len(gallery_person_id))
    if similarity.shape != expected:
        raise ValueError(
            f"similarity is {list(similarity.shape)}, but there are {expected[0]} query and "
            f"{expected[1]} gallery person ids; expected {list(expected)}"
        )
    if np.isnan(similarity).any():
        raise ValueError(f"similarity of query {_first_bad_row(~np.isnan(similarity))} has NaN")
    column = np.arange(expected[1])
    ranks = []
    for query, (scores, count) in enumerate(zip(similarity, positives.count, strict=True)):
        row = positives.rows(np.array([query]), np.arange(count))[0][:, None]
        better = (scores > scores[row]) | ((scores == scores[row]) & (column < row))
        ranks.append(np.sort(1 + np.count_nonzero(better, axis=1)))
    return PositiveRanks(np.concatenate(ranks), positives.count)


def embedding_ranks(
    query_embed: np.ndarray,
    gallery_embed: np.ndarray,
    query_person_id: np.ndarray,
    gallery_person_id: np.ndarray,
    *,
    count_misses: bool = False,
    progress: bool = True,
) -> PositiveRanks:
    """Ranks of every query's positives by cosine similarity, a block of queries at a time.

    Args:
      query_embed: float [Q, C], any length of row: rows are L2-normalised here, in float32.
      gallery_embed: float [G, C].
      query_person_id: int [Q].
      gallery_person_id: int [G].
      count_misses: accept queries without a positive; they count as misses.
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
    positives = _Positives(query_person_id, gallery_person_id, count_misses)
    # Queries with equally many positives share a block, so that no rank is counted for positives
    # that a query does not have.
    order = np.argsort(positives.count, kind="stable")
    places = np.arange(max(1, int(positives.count[order[-1]])))
    ranks = PositiveRanks(np.empty(positives.count.sum(), np.int64), positives.count)
    start, size = ranks.start, _block_rows(len(query), len(gallery))
    gallery = jnp.asarray(gallery)
    with tqdm.tqdm(
        total=len(query),
        desc="ranking",
        unit="query",
        delay=_PROGRESS_AFTER_SECONDS,
        disable=None if progress else True,  # None: shown on a terminal only
    ) as bar:
        for first in range(0, len(query), size):
            some = order.take(np.arange(first, first + size), mode="clip")  # one shape, one compile
            there = places < positives.count[some, None]
            rows, most = positives.rows(some, places), positives.count[some[-1]]
            block = np.array(_block_ranks(query[some], gallery, rows, most))
            block[~there] = len(gallery) + 1  # sorted to the end, then dropped
            block.sort(axis=1)
            ranks.rank[(start[some, None] + places)[there]] = block[there]
            bar.update(min(size, len(query) - first))
    return ranks


def _block_rows(num_query: int, num_gallery: int) -> int:
    few = min(_FEW_QUERIES, _MAX_BLOCK_ELEMENTS // num_gallery)
    return min(num_query, max(1, few, _BLOCK_ELEMENTS // num_gallery))


@jax.jit
def _block_ranks(
    query: jax.Array, gallery: jax.Array, positive: jax.Array, most: jax.Array
) -> jax.Array:
    """int32 [b, n]: ranks of the gallery rows `positive` [b, n]; ties: lower index first.

    Only the first `most` of the n columns are computed. query [b, C], gallery [G, C]: unit rows.
    """
    similarity = jnp.matmul(query, gallery.T, precision="highest")
    column = jnp.arange(len(gallery), dtype=jnp.int32)

    def place(i: jax.Array, ranks: jax.Array) -> jax.Array:
        row = positive[:, i, None]
        score = jnp.take_along_axis(similarity, row, axis=1)
        better = (similarity > score) | ((similarity == score) & (column < row))
        return ranks.at[:, i].set(1 + jnp.sum(better, axis=1, dtype=jnp.int32))

    return jax.lax.fori_loop(0, most, place, jnp.zeros_like(positive))


def _normalised(embed: np.ndarray, num_ids: int, name: str) -> np.ndarray:
    """`l2_normalise` in float32, after checks of shape and values."""
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
    return l2_normalise(embed)


def _first_bad_row(good: np.ndarray) -> int:
    return int(np.argmin(good.all(axis=1)))


def metrics_from_ranks(
    positive: PositiveRanks, ks: Sequence[int] = (1, 5, 10), *, trapezoid_ap: bool = False
) -> dict[str, float]:
    """{"R1", "R5", "R10", "mAP", "mINP"} in percent, means over queries.

    trapezoid_ap: adds "mAP_trapezoid", the mean of the AP of the release of IVT.

    Deviation: a gallery of fewer than k rows is allowed (the released code stops there); R@k then
    is R@G, which is 100.
    """
    best = positive.best_rank()
    values = {f"R{k}": np.mean(best <= k) for k in ks}
    values["mAP"] = np.mean(positive.average_precision())
    values["mINP"] = np.mean(positive.inverse_negative_penalty())
    if trapezoid_ap:
        values["mAP_trapezoid"] = np.mean(positive.average_precision(trapezoid=True))
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
    trapezoid_ap: bool = False,
    count_misses: bool = False,
    progress: bool = True,
) -> dict[str, float]:
    """R@k, mAP and mINP in percent of embeddings; arguments and errors as in `embedding_ranks`.

    Text-to-image retrieval has texts as queries; swap query and gallery for image-to-text.
    """
    ranks = embedding_ranks(
        query_embed,
        gallery_embed,
        query_person_id,
        gallery_person_id,
        count_misses=count_misses,
        progress=progress,
    )
    return metrics_from_ranks(ranks, trapezoid_ap=trapezoid_ap)


def gallery_images(caption_image_id: np.ndarray, num_images: int, gallery: str) -> np.ndarray:
    """int [G], the images that make up the gallery of a test split.

    Args:
      caption_image_id: int [Q], the image that each caption describes, in annotation order.
      num_images: of the split.
      gallery: "unique": every image once. "every_second_row" (the released IVT on CUHK-PEDES and
        RSTPReid): the images of captions 0, 2, 4, ...; an image with three captions may be there
        twice, one with a single caption not at all.

    Raises:
      ValueError: another gallery.
    """
    if gallery == "unique":
        return np.arange(num_images)
    if gallery == "every_second_row":
        return np.asarray(caption_image_id)[::2]
    raise ValueError(f"eval.gallery {gallery!r} is unknown; use 'unique' or 'every_second_row'")
