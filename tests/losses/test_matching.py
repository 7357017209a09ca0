"""Contrast with soft targets, hard negatives and matching, against numpy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tipr_jax.losses.matching import (
    hard_negatives,
    matching_loss,
    negative_weights,
    soft_itc_loss,
    take_rows,
)

B, C = 6, 8
IDS = np.array([1, 1, 2, 3, 3, 4])


@pytest.fixture(scope="module")
def pair():
    rng = np.random.default_rng(0)
    return tuple(rng.normal(size=(B, C)).astype(np.float32) for _ in range(2))


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def reference_itc(image, text, ids, scale):
    z = scale * np.float64(image) @ np.float64(text).T
    target = (ids[:, None] == ids[None]) / (ids[:, None] == ids[None]).sum(axis=1, keepdims=True)
    return -sum((target * np.log(softmax(x))).sum(axis=1).mean() for x in (z, z.T)) / 2


@pytest.mark.parametrize("ids", [IDS, np.arange(B)])
def test_soft_itc(pair, ids):
    loss = soft_itc_loss(*pair, jnp.asarray(ids), scale=2.0, valid=jnp.ones(B, bool))
    np.testing.assert_allclose(loss, reference_itc(*pair, ids, 2.0), rtol=1e-6)


def test_padding_rows_do_not_count(pair):
    valid = jnp.arange(B) < 4
    function = jax.value_and_grad(
        lambda a, b: soft_itc_loss(a, b, jnp.asarray(IDS), scale=2.0, valid=valid), (0, 1)
    )
    loss, grads = function(*map(jnp.asarray, pair))
    want = reference_itc(*(x[:4] for x in pair), IDS[:4], 2.0)
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    assert all(np.isfinite(g).all() and not g[4:].any() and g[:4].any() for g in grads)


def test_weights(pair):
    valid = np.arange(B) != 2
    weights = negative_weights(*pair, jnp.asarray(IDS), scale=2.0, valid=jnp.asarray(valid))
    z = np.where(valid[None], 2 * np.float64(pair[0]) @ np.float64(pair[1]).T, -np.inf)
    want = np.where((IDS[:, None] != IDS[None]) & valid[None], softmax(z) + 1e-4, 0)
    np.testing.assert_allclose(weights, want, rtol=1e-5, atol=1e-7)


def test_weights_carry_no_gradient(pair):
    grads = jax.grad(
        lambda a, b, s: jnp.sum(
            negative_weights(a, b, jnp.asarray(IDS), scale=s, valid=jnp.ones(B, bool)) ** 2
        ),
        (0, 1, 2),
    )(*map(jnp.asarray, pair), 2.0)
    assert not any(np.any(g) for g in grads)


def test_one_person_alone_falls_back_to_the_other_rows(pair):
    valid = jnp.arange(B) < 5
    weights = negative_weights(*pair, jnp.zeros(B, int), scale=1.0, valid=valid)
    np.testing.assert_array_equal(weights, ~np.eye(B, dtype=bool) & np.asarray(valid)[None])


def test_draws_follow_the_weights(pair):
    count, valid, ids = 4000, jnp.arange(B) != 5, jnp.arange(B)
    keys = jax.random.split(jax.random.key(0), (count, B))
    options = dict(scale=0.5, valid=valid)
    image, text = jax.vmap(lambda k: hard_negatives(*pair, ids, k, **options))(keys)
    for drawn, (query, candidate) in ((image, pair[::-1]), (text, pair)):
        weights = np.asarray(negative_weights(query, candidate, ids, **options))
        want = weights / weights.sum(axis=1, keepdims=True)
        got = np.stack([np.bincount(drawn[:, i], minlength=B) for i in range(B)]) / count
        assert np.all(np.abs(got - want) <= 5 * np.sqrt(want * (1 - want) / count))
    assert (np.asarray(image) != np.asarray(text)).any()


def test_groups_stay_among_themselves(pair):
    keys = jax.random.split(jax.random.key(1), (200, B))
    options = dict(scale=1.0, valid=jnp.ones(B, bool), group_size=3)
    drawn = jax.vmap(lambda k: hard_negatives(*pair, jnp.arange(B), k, **options))(keys)
    for index in map(np.asarray, drawn):
        assert (index // 3 == np.arange(B) // 3).all() and (index != np.arange(B)).all()
        x = jnp.asarray(pair[0])
        np.testing.assert_array_equal(take_rows(x, index[0], 3), pair[0][index[0]])


def test_matching():
    rng = np.random.default_rng(1)
    logits, valid = rng.normal(size=(4, 3, 2)).astype(np.float32), np.array([1, 1, 1, 0], bool)
    log_p = np.log(softmax(np.float64(logits[:3]).reshape(-1, 2))).reshape(3, 3, 2)
    want = -np.mean([log_p[:, 0, 1], log_p[:, 1, 0], log_p[:, 2, 0]])
    loss, accuracy = matching_loss(jnp.asarray(logits), jnp.asarray(valid))
    np.testing.assert_allclose(loss, want, rtol=1e-6)
    hits = np.argmax(logits[:3], axis=-1) == np.array([1, 0, 0])
    np.testing.assert_allclose(accuracy, hits.mean(), rtol=1e-6)


def test_wrong_shapes_raise(pair):
    ids, keys = jnp.asarray(IDS), jax.random.split(jax.random.key(0), B)
    options = dict(scale=1.0, valid=jnp.ones(B, bool))
    with pytest.raises(AssertionError):
        soft_itc_loss(pair[0], pair[1][:, :4], ids, **options)
    with pytest.raises(AssertionError):
        negative_weights(*pair, ids[:4], **options)
    with pytest.raises(AssertionError):
        hard_negatives(*pair, ids, keys, group_size=4, **options)
    with pytest.raises(AssertionError):
        matching_loss(jnp.zeros((B, 2)), options["valid"])
