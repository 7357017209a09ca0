"""Composition of the re-ranking score."""

import numpy as np
import pytest

from tipr_jax.metrics import rerank
from tipr_jax.metrics.rerank import (
    candidate_ranks,
    cosine_candidates,
    fill_scores,
    match_score,
    rerank_scores,
    top_candidates,
)
from tipr_jax.metrics.retrieval import positive_ranks
from tipr_jax.metrics.unit_vectors import l2_normalise


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


def test_selection_equals_a_stable_sort_with_many_ties():
    rng = np.random.default_rng(0)
    similarity = rng.integers(0, 6, (50, 40)).astype(np.float32)
    for k in (1, 7, 39, 40, 99):
        want = np.argsort(-similarity, axis=1, kind="stable")[:, :k]
        np.testing.assert_array_equal(top_candidates(similarity, k), want)


@pytest.mark.parametrize("block", [1, 70, 10**6])
def test_blocks_of_queries_change_nothing(monkeypatch, block):
    monkeypatch.setattr(rerank, "_BLOCK_ELEMENTS", block)
    rng = np.random.default_rng(0)
    query, gallery = rng.normal(size=(30, 4)), rng.normal(size=(20, 4))
    person = rng.permutation(30) % 7, np.arange(20) % 7
    similarity = l2_normalise(query) @ l2_normalise(gallery).T
    candidates = cosine_candidates(query, gallery, 6)
    np.testing.assert_array_equal(candidates, top_candidates(similarity, 6))
    score = rng.normal(size=(30, 20)).astype(np.float32)
    ranks = candidate_ranks(candidates, np.take_along_axis(score, candidates, 1), *person)
    want = positive_ranks(rerank_scores(similarity, score, 6), *person)
    np.testing.assert_array_equal(ranks.rank, want.rank)
    np.testing.assert_array_equal(ranks.count, want.count)


def test_a_query_without_an_image_of_its_person():
    arguments = np.array([[0]]), np.array([[1.0]]), np.array([5]), np.array([4])
    with pytest.raises(ValueError, match="person_id 5.*no positive"):
        candidate_ranks(*arguments)
    assert candidate_ranks(*arguments, count_misses=True).count.tolist() == [0]


def test_wrong_shapes_raise():
    with pytest.raises(AssertionError):
        fill_scores(np.zeros((3, 2), int), np.zeros((3, 4)), 5)
    with pytest.raises(AssertionError):
        match_score(np.zeros((3, 3)))
    with pytest.raises(AssertionError):
        cosine_candidates(np.zeros((3, 4)), np.zeros((3, 5)), 2)
