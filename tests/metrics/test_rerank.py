"""Composition of the re-ranking score."""

import numpy as np
import pytest

from tipr_jax.metrics.rerank import match_score, rerank_scores, top_candidates


def test_scores_of_the_candidates_and_nothing_else():
    rng = np.random.default_rng(0)
    sim, score = rng.normal(size=(5, 9)), rng.normal(size=(5, 9)).astype(np.float32)
    filled = rerank_scores(sim, score, 3)
    for row in range(5):
        best = set(np.argsort(-sim[row])[:3].tolist())
        for column in range(9):
            assert filled[row, column] == (score[row, column] if column in best else -100)


def test_ties_at_the_cut_go_to_the_lower_index():
    assert top_candidates(np.array([[1.0, 2.0, 1.0, 1.0]]), 2).tolist() == [[1, 0]]


def test_k_larger_than_the_gallery_scores_everything():
    score = np.arange(6, dtype=np.float32).reshape(2, 3)
    np.testing.assert_array_equal(rerank_scores(np.zeros((2, 3)), score, 256), score)


def test_k_below_one_is_an_error():
    with pytest.raises(ValueError, match="candidates is 0"):
        top_candidates(np.zeros((2, 3)), 0)


def test_kinds_of_score():
    logits = np.array([[1.0, 3.0], [2.0, -1.0]])
    np.testing.assert_array_equal(match_score(logits), [3.0, -1.0])
    np.testing.assert_array_equal(match_score(logits, "logit_diff"), [2.0, -3.0])
    want = np.exp(logits)[:, 1] / np.exp(logits).sum(axis=1)
    np.testing.assert_allclose(match_score(logits, "prob"), want)
    with pytest.raises(ValueError, match="logit1"):
        match_score(logits, "cosine")
