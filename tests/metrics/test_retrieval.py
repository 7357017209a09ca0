"""R@k, mAP, mINP: a sorting reference, blocks, misses, bad input."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tipr_jax.metrics import retrieval


def by_sorting(similarity, query_person_id, gallery_person_id):
    """The definition, query by query, with a stable sort."""
    r, ap, inp = {1: [], 5: [], 10: []}, [], []
    for scores, person in zip(similarity, query_person_id, strict=True):
        match = gallery_person_id[np.argsort(-scores, kind="stable")] == person
        places = np.flatnonzero(match) + 1
        for k in r:
            r[k].append(match[:k].any())
        ap.append(np.mean([match[:p].mean() for p in places]))
        inp.append(len(places) / places[-1])
    values = {f"R{k}": np.mean(hits) for k, hits in r.items()}
    return {k: 100 * v for k, v in (values | {"mAP": np.mean(ap), "mINP": np.mean(inp)}).items()}


@st.composite
def problems(draw):
    """Small problems, mostly with ties; every query has a positive."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    num_gallery, levels = draw(st.integers(1, 30)), draw(st.integers(1, 40))
    gallery_id = rng.integers(0, draw(st.integers(1, 8)), num_gallery) * 7 - 3
    query_id = rng.choice(gallery_id, draw(st.integers(1, 9)))
    similarity = rng.integers(0, levels, (len(query_id), num_gallery)).astype(np.float32)
    return similarity, query_id, gallery_id


@settings(max_examples=150, deadline=None)
@given(problems())
def test_equals_sorting(problem):
    metrics = retrieval.metrics_from_similarity(*problem)
    assert metrics == pytest.approx(by_sorting(*problem), abs=1e-9)


@pytest.mark.parametrize("rows", [1, 4, 50])
def test_embeddings_equal_sorting(monkeypatch, rows):
    """Signs in width 16: every product is exact, and most of the gallery ties."""
    monkeypatch.setattr(retrieval, "_block_rows", lambda *_: rows)
    rng = np.random.default_rng(rows)
    query, gallery = (np.sign(rng.standard_normal((n, 16))) for n in (50, 70))
    gallery_id = np.repeat([3, 9, 4, 8], [1, 2, 60, 7])
    query_id = rng.choice([3, 9, 4, 8], 50)
    metrics = retrieval.retrieval_metrics(query, gallery, query_id, gallery_id)
    want = by_sorting(query @ gallery.T, query_id, gallery_id)
    assert metrics == pytest.approx(want, abs=1e-9)


def test_blocks_fit_a_cache_and_bound_memory():
    assert retrieval._block_rows(6156, 3074) * 3074 <= 2**21
    assert retrieval._block_rows(20_000, 100_000) == 128
    for num_gallery in (1, 2**21, 10**7, 10**9):
        rows = retrieval._block_rows(10**6, num_gallery)
        assert rows == 1 or rows * num_gallery <= 2**26
    assert retrieval._block_rows(5, 10) == 5


def test_ties_go_to_the_lower_gallery_index():
    similarity = np.array([[0.5, 0.5, 0.9, 0.5]], np.float32)
    ranks = retrieval.positive_ranks(similarity, np.array([1]), np.array([0, 1, 0, 1]))
    assert ranks.rank.tolist() == [3, 4]
    assert ranks.best_rank().tolist() == [3]
    assert ranks.average_precision() == pytest.approx([(1 / 3 + 2 / 4) / 2])
    assert ranks.inverse_negative_penalty() == pytest.approx([2 / 4])


def test_zero_embedding_and_small_gallery():
    query, gallery = np.zeros((1, 3)), np.eye(3)[:2]
    got = retrieval.retrieval_metrics(query, gallery, np.array([5]), np.array([4, 5]))
    assert got == {"R1": 0.0, "R5": 100.0, "R10": 100.0, "mAP": 50.0, "mINP": 50.0}


def test_trapezoid_of_a_known_ranking():
    """Right images at ranks 1 and 4: (1 + 1) / 2, and (1/3 + 2/4) / 2."""
    ranks = retrieval.PositiveRanks(np.array([1, 4]), np.array([2]))
    want = (1 + (1 / 3 + 2 / 4) / 2) / 2
    assert ranks.average_precision(trapezoid=True) == pytest.approx([want])


@pytest.mark.parametrize("wanted", [[5, 4], [9, 5, 9, 4], [9, 9]])
def test_misses(wanted):
    """Person 9 is not in the gallery: a miss at every rank, AP and INP 0, in every mean."""
    query_id, gallery_id = np.array(wanted), np.array([4, 5, 5])
    similarity = np.tile(np.array([0.1, 0.9, 0.3], np.float32), (len(wanted), 1))
    ranks = retrieval.positive_ranks(similarity, query_id, gallery_id, count_misses=True)
    per_query = {5: (1, 1, 1), 4: (0, 1 / 3, 1 / 3), 9: (0, 0, 0)}
    r1, ap, inp = (
        100 * np.mean(column) for column in zip(*map(per_query.get, wanted), strict=True)
    )
    got = retrieval.metrics_from_ranks(ranks, trapezoid_ap=True)
    assert (got["R1"], got["mAP"], got["mINP"]) == pytest.approx((r1, ap, inp))
    assert got["R10"] == pytest.approx(100 * np.mean(query_id != 9))
    gallery = np.eye(3)
    embed = np.array([[0.1, 0.9, 0.3]] * len(wanted))
    options = dict(trapezoid_ap=True, count_misses=True)
    assert retrieval.retrieval_metrics(embed, gallery, query_id, gallery_id, **options) == got


def test_gallery_images():
    caption_image_id = np.array([0, 0, 1, 1, 1, 2, 2])
    assert retrieval.gallery_images(caption_image_id, 3, "unique").tolist() == [0, 1, 2]
    second = retrieval.gallery_images(caption_image_id, 3, "every_second_row")
    assert second.tolist() == [0, 1, 1, 2]
    with pytest.raises(ValueError, match="'all' is unknown; use 'unique' or 'every_second_row'"):
        retrieval.gallery_images(caption_image_id, 3, "all")


def test_query_without_positive_is_named():
    with pytest.raises(ValueError, match=r"query 1 \(person_id 42\) has no positive") as error:
        retrieval.metrics_from_similarity(np.zeros((3, 2)), np.array([7, 42, 43]), np.array([7, 8]))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(query_embed=np.full((2, 4), np.nan)), "query embedding 0 has NaN"),
        (dict(gallery_embed=np.diag([1, 1, np.inf, 1])), "gallery embedding 2 has NaN or inf"),
        (dict(query_embed=np.ones((3, 4))), r"\[3, 4\] for 2 person ids"),
        (dict(query_embed=np.ones((2, 5))), "width 5"),
        (dict(query_person_id=np.array([0.0, 1.0])), "query_person_id is float64"),
        (dict(gallery_embed=np.ones((0, 4)), gallery_person_id=np.arange(0)), "nothing to rank"),
    ],
)
def test_bad_input(change, message):
    arguments = dict(
        query_embed=np.ones((2, 4)),
        gallery_embed=np.eye(4),
        query_person_id=np.array([0, 1]),
        gallery_person_id=np.arange(4),
    )
    retrieval.retrieval_metrics(**arguments)
    with pytest.raises(ValueError, match=message):
        retrieval.retrieval_metrics(**arguments | change)


def test_bad_similarity():
    ids = np.arange(2)
    with pytest.raises(ValueError, match=r"expected \[2, 2\]"):
        retrieval.metrics_from_similarity(np.zeros((2, 3)), ids, ids)
    with pytest.raises(ValueError, match="query 1 has NaN"):
        retrieval.metrics_from_similarity(np.array([[0, 0], [0, np.nan]]), ids, ids)
