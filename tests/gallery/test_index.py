"""The index gives what a full sort of all inner products gives, on any number of devices."""

import jax
import numpy as np
import pytest

from tipr_jax import sharding
from tipr_jax.gallery import index as indexing
from tipr_jax.gallery.index import Index

BLOCK = 32


def unit(count: int, width: int = 16, seed: int = 0) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def full_sort(vectors, ids, query, keep=None):
    scores = vectors @ query
    order = np.argsort(-scores, kind="stable")
    if keep is not None:
        order = order[np.isin(ids[order], keep)]
    return ids[order], scores[order]


@pytest.fixture(params=[1, 8], ids=["one device", "eight"])
def mesh(request):
    return sharding.make_mesh(devices=jax.devices()[: request.param])


def filled(count, mesh=None, pieces=3):
    ids, vectors = np.arange(count) * 2 + 5, unit(count)
    index = Index(16, mesh, block=BLOCK)
    for part in np.array_split(np.arange(count), pieces):
        index.add(ids[part], vectors[part])
    return index, ids, vectors


@pytest.mark.parametrize("count", [1, BLOCK - 1, BLOCK, BLOCK + 1, 200])
def test_equal_to_a_full_sort(mesh, count):
    index, ids, vectors = filled(count, mesh)
    queries = unit(6, seed=1)
    for query, (found, scores) in zip(queries, index.search(queries, 10), strict=True):
        expected, expected_scores = full_sort(vectors, ids, query)
        np.testing.assert_array_equal(found, expected[:10])
        np.testing.assert_allclose(scores, expected_scores[:10], atol=1e-6)


def test_pages_are_the_ranking_to_its_end():
    index, ids, vectors = filled(150)
    query = unit(1, seed=2)
    pages = [index.search(query, 20, offset)[0][0] for offset in range(0, 200, 20)]
    np.testing.assert_array_equal(np.concatenate(pages), full_sort(vectors, ids, query[0])[0])
    assert [len(page) for page in pages] == [20] * 7 + [10, 0, 0]


def test_equal_scores_stay_in_item_order(mesh):
    index = Index(16, mesh, block=BLOCK)
    index.add(np.arange(100), np.repeat(unit(1), 100, axis=0))
    assert index.search(unit(1), 70)[0][0].tolist() == list(range(70))


def test_filters_come_before_the_ranking():
    index, ids, vectors = filled(150)
    keep = ids[[3, 40, 77, 149]]
    query = unit(1, seed=3)
    found, _ = index.search(query, 10, allowed=index.rows(keep))[0]
    np.testing.assert_array_equal(found, full_sort(vectors, ids, query[0], keep)[0])
    assert index.search(query, 10, allowed=index.rows(np.array([], int)))[0][0].size == 0


def test_removed_rows_are_not_found_and_new_ones_are():
    index, ids, vectors = filled(100)
    query = unit(1, seed=4)
    gone = full_sort(vectors, ids, query[0])[0][:5]
    index.search(query, 1)
    index.remove(gone)
    index.add(np.array([1000]), query)
    found, scores = index.search(query, 100)[0]
    assert found[0] == 1000 and scores[0] == pytest.approx(1, abs=1e-5)
    assert len(index) == 96 == len(found) and not np.isin(gone, found).any()


def add_and_remove(index, first, count, width=16):
    """So many pairs of an added and a removed row."""
    for number in range(first, first + count):
        index.add(np.array([number]), unit(1, width, seed=number))
        index.remove([number])


@pytest.mark.parametrize("count", [0, 1, BLOCK - 1, BLOCK, 3 * BLOCK])
def test_rows_that_come_and_go_leave_no_room_behind(mesh, count):
    index, ids, vectors = filled(count, mesh)
    query = unit(1, seed=6)
    index.search(query, 10)
    before = len(index._blocks)
    for first in range(10_000, 10_000 + 6 * BLOCK, BLOCK):
        add_and_remove(index, first, BLOCK)
        assert len(index.ids) <= count / 0.9 + BLOCK and len(index._blocks) <= before + 1
    (found, scores), (expected, expected_scores) = (
        index.search(query, count + 5)[0],
        full_sort(vectors, ids, query[0]),
    )
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_allclose(scores, expected_scores, atol=1e-6)


def test_moving_together_compiles_nothing_and_keeps_filters_and_later_rows():
    index, ids, vectors = filled(200)
    query = unit(1, seed=7)
    index.search(query, 10)
    program = indexing._compiled(index._whole)
    compiled = program._cache_size()
    index.remove(ids[::2])  # of every block a half
    assert len(index._blocks) == -(-100 // BLOCK) and len(index.ids) == len(index) == 100
    index.add(np.array([5000]), query)
    left, all_vectors = np.append(ids[1::2], 5000), np.concatenate([vectors[1::2], query])
    for keep in (None, left[::3]):
        allowed = None if keep is None else index.rows(keep)
        found = index.search(query, 10, allowed=allowed)[0][0]
        np.testing.assert_array_equal(found, full_sort(all_vectors, left, query[0], keep)[0][:10])
    assert program._cache_size() == compiled


def test_few_dead_rows_stay_where_they_are():
    index, ids, _ = filled(10 * BLOCK)
    index.remove(ids[:BLOCK])  # a tenth, a whole block
    assert len(index._blocks) == 10
    index.remove(ids[BLOCK : BLOCK + 1])
    assert len(index._blocks) == 9 and len(index) == 9 * BLOCK - 1


def test_ids_ascend():
    index, _, _ = filled(10)
    with pytest.raises(ValueError, match="ascending"):
        index.add(np.array([3]), unit(1))


def test_an_empty_index_finds_nothing():
    ((found, scores),) = Index(16).search(unit(1), 3)
    assert len(found) == len(scores) == 0


def test_growth_compiles_nothing_new():
    index, _, _ = filled(40)
    for size in (1, 3, 9, 40):
        index.search(unit(size), 10)
    program = indexing._compiled(index._whole)
    compiled = program._cache_size()
    index.add(np.arange(1000, 1200), unit(200))
    for size in (1, 2, 4, 5, 16, 17, 64):
        index.search(unit(size), 7)
    assert program._cache_size() == compiled


def test_many_queries_and_an_approximate_search():
    index, ids, vectors = filled(90)
    queries = unit(150, seed=5)
    exact = index.search(queries, 5)
    for query, (found, _) in zip(queries, exact, strict=True):
        np.testing.assert_array_equal(found, full_sort(vectors, ids, query)[0][:5])
    near = index.search(queries, 5, approximate=True)
    shared = [len(np.intersect1d(a, b)) for (a, _), (b, _) in zip(exact, near, strict=True)]
    assert np.mean(shared) / 5 > 0.8
