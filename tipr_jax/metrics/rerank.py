"""Two-stage ranking: a matching head scores the best candidates by cosine (spec bi_irra §6)."""

import numpy as np

NOT_SCORED = -100.0  # of gallery rows outside the candidates


def top_candidates(similarity: np.ndarray, k: int) -> np.ndarray:
    """int [Q,min(k,G)]: per query the gallery rows most similar to it, best first.

    similarity float [Q,G]. Among equals the lower index comes first (the released sort leaves them
    in any order).

    Raises:
      ValueError: k below 1.
    """
    if k < 1:
        raise ValueError(f"the number of candidates is {k}, expected at least 1")
    return np.argsort(-np.asarray(similarity), axis=1, kind="stable")[:, :k]


def rerank_scores(similarity: np.ndarray, match_score: np.ndarray, k: int) -> np.ndarray:
    """float [Q,G]: the matching score of each query's k most similar rows, -100 elsewhere.

    similarity and match_score float [Q,G]; the similarity itself is not part of the result.
    """
    candidates = top_candidates(similarity, k)
    return fill_scores(
        candidates, np.take_along_axis(match_score, candidates, axis=1), len(similarity[0])
    )


def fill_scores(candidates: np.ndarray, score: np.ndarray, gallery_size: int) -> np.ndarray:
    """float [Q,G]: score [Q,k] at the gallery rows candidates [Q,k], -100 elsewhere."""
    filled = np.full((len(candidates), gallery_size), NOT_SCORED, np.float32)
    np.put_along_axis(filled, candidates, score, axis=1)
    return filled


def match_score(logits: np.ndarray, kind: str = "logit1") -> np.ndarray:
    """[...,2] logits (no match, match) -> [...] score to rank by.

    kind: "logit1" (released: the raw match logit) | "logit_diff" | "prob".

    Raises:
      ValueError: an unknown kind.
    """
    no, yes = logits[..., 0], logits[..., 1]
    if kind == "logit1":
        return yes
    if kind == "logit_diff":
        return yes - no
    if kind == "prob":
        return 1 / (1 + np.exp(no - yes))
    raise ValueError(f"score is {kind!r}, expected 'logit1', 'logit_diff' or 'prob'")
