"""Two-stage ranking: cosine similarity selects candidates, a matching head ranks them.

Source: ALBEF (Li et al., NeurIPS 2021), section 5; `evaluation` of Retrieval.py in the release of
X2-VLM. Axis letters: Q queries, G gallery rows, k candidates.
"""

import chex
import numpy as np

from tipr_jax.metrics.retrieval import PositiveRanks, positive_ranks
from tipr_jax.metrics.unit_vectors import l2_normalise

NOT_SCORED = -100.0  # of gallery rows outside the candidates
_BLOCK_ELEMENTS = 2**24  # of a [queries, gallery] matrix at a time: 64 MiB in float32


def top_candidates(similarity: np.ndarray, k: int) -> np.ndarray:
    """int [Q,min(k,G)]: per query the gallery rows most similar to it, best first.

    similarity float [Q,G], no NaN. Among equals the lower index comes first (torch.topk leaves
    them in any order).

    Raises:
      ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"the number of candidates is {k}, expected at least 1")
    similarity = np.asarray(similarity)
    chex.assert_rank(similarity, 2)
    k = min(k, similarity.shape[1])
    last = np.partition(similarity, -k, axis=1)[:, -k, None]  # the k-th best value
    better, equal = similarity > last, similarity == last
    room = k - np.count_nonzero(better, axis=1, keepdims=True)
    chosen = better | equal & (np.cumsum(equal, axis=1) <= room)
    rows = np.nonzero(chosen)[1].reshape(-1, k)  # ascending
    order = np.argsort(-np.take_along_axis(similarity, rows, axis=1), axis=1, kind="stable")
    return np.take_along_axis(rows, order, axis=1)


def cosine_candidates(query_embed: np.ndarray, gallery_embed: np.ndarray, k: int) -> np.ndarray:
    """int32 [Q,min(k,G)]: `top_candidates` by cosine, a block of queries at a time.

    query_embed float32 [Q,C] and gallery_embed float32 [G,C], rows of any L2 norm.
    """
    chex.assert_rank((query_embed, gallery_embed), 2)
    chex.assert_equal_shape((query_embed, gallery_embed), dims=1)
    query, gallery = l2_normalise(query_embed), l2_normalise(gallery_embed)
    blocks = _query_blocks(len(query), len(gallery))
    best = [top_candidates(query[block] @ gallery.T, k) for block in blocks]
    return np.concatenate(best).astype(np.int32)


def _query_blocks(num_query: int, num_gallery: int) -> list[slice]:
    size = max(1, _BLOCK_ELEMENTS // num_gallery)
    return [slice(first, first + size) for first in range(0, num_query, size)]


def rerank_scores(similarity: np.ndarray, match_score: np.ndarray, k: int) -> np.ndarray:
    """float [Q,G]: the matching score of each query's k most similar rows, -100 elsewhere.

    similarity and match_score float [Q,G]; the similarity itself is not part of the result. This is
    the unblocked form of `candidate_ranks`, which needs the scores of the candidates alone.
    """
    chex.assert_equal_shape((similarity, match_score))
    candidates = top_candidates(similarity, k)
    return fill_scores(
        candidates, np.take_along_axis(match_score, candidates, axis=1), len(similarity[0])
    )


def fill_scores(candidates: np.ndarray, score: np.ndarray, gallery_size: int) -> np.ndarray:
    """float32 [Q,G]: score float [Q,k] at the gallery rows candidates int [Q,k], -100 elsewhere."""
    chex.assert_rank((candidates, score), 2)
    chex.assert_equal_shape((candidates, score))
    filled = np.full((len(candidates), gallery_size), NOT_SCORED, np.float32)
    np.put_along_axis(filled, candidates, score, axis=1)
    return filled


def candidate_ranks(
    candidates: np.ndarray,
    score: np.ndarray,
    query_person_id: np.ndarray,
    gallery_person_id: np.ndarray,
    *,
    count_misses: bool = False,
) -> PositiveRanks:
    """Ranks of every query's positives by `fill_scores`, a block of queries at a time.

    Equal scores rank by gallery index; that concerns above all the rows at -100. candidates
    int [Q,k], score float [Q,k]; other arguments and errors as in `positive_ranks`.
    """
    chex.assert_equal_shape((candidates, score))
    num_gallery = len(gallery_person_id)
    blocks = [
        positive_ranks(
            fill_scores(candidates[block], score[block], num_gallery),
            query_person_id[block],
            gallery_person_id,
            count_misses=count_misses,
        )
        for block in _query_blocks(len(candidates), num_gallery)
    ]
    return PositiveRanks(
        np.concatenate([b.rank for b in blocks]), np.concatenate([b.count for b in blocks])
    )


def candidate_cosines(
    query_embed: np.ndarray, gallery_embed: np.ndarray, candidates: np.ndarray
) -> np.ndarray:
    """float32 [Q,k]: the cosine of each query float32 [Q,C] with its candidates int [Q,k].

    gallery_embed float32 [G,C]; rows of any L2 norm.
    """
    query, gallery = l2_normalise(query_embed), l2_normalise(gallery_embed)
    blocks = _query_blocks(len(query), len(gallery))
    return np.concatenate(
        [np.take_along_axis(query[b] @ gallery.T, candidates[b], axis=1) for b in blocks]
    )


def mixed_score(match: np.ndarray, cosine: np.ndarray, weight: float) -> np.ndarray:
    """float [Q,k]: (1 - weight) x the matching head's score + weight x the cosine.

    match and cosine float [Q,k] of the same candidates, each brought to mean 0 and deviation 1
    over a query's candidates, since their scales have nothing in common. 0 orders as the matching
    head alone (published), 1 as the cosine. Ours; the papers do not mix.
    """
    chex.assert_equal_shape((match, cosine))
    return (1 - weight) * _standardised(match) + weight * _standardised(cosine)


def _standardised(score: np.ndarray) -> np.ndarray:
    score = score - score.mean(axis=1, keepdims=True)
    deviation = score.std(axis=1, keepdims=True)
    return score / np.where(deviation > 0, deviation, 1)


def match_score(logits: np.ndarray, kind: str = "logit1") -> np.ndarray:
    """float [...,2] logits (no match, match) -> float [...], the score to rank by.

    kind: "logit1", the logit of a match, as released; "logit_diff", minus the other logit; "prob",
    the probability of a match.

    Raises:
      ValueError: an unknown kind.
    """
    chex.assert_shape(logits, (..., 2))
    no, yes = logits[..., 0], logits[..., 1]
    if kind == "logit1":
        return yes
    if kind == "logit_diff":
        return yes - no
    if kind == "prob":
        return 1 / (1 + np.exp(no - yes))
    raise ValueError(f"eval.rerank_score is {kind!r}, expected 'logit1', 'logit_diff' or 'prob'")
