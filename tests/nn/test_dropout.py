"""Dropout and DropPath: their rates, and that what a row loses depends on its own key alone."""

import jax
import jax.numpy as jnp
import numpy as np

from tipr_jax.nn.dropout import drop_path_from_uniform, drop_path_scales, dropout, fold_in

KEYS = jax.random.split(jax.random.key(0), 500)


def test_dropout_rate_and_scale():
    x = dropout(jnp.ones((500, 40)), KEYS, 0.25)
    assert set(np.unique(x)) == {0.0, np.float32(1 / 0.75)}
    assert abs(np.mean(x == 0) - 0.25) < 5 * np.sqrt(0.25 * 0.75 / x.size)


def test_no_keys_or_no_rate_change_nothing():
    x = jnp.ones((500, 3))
    assert dropout(x, None, 0.5) is x and dropout(x, KEYS, 0.0) is x
    assert drop_path_scales(None, 0.5, 3) is None and drop_path_scales(KEYS, 0.0, 3) is None
    assert fold_in(None, 1) is None


def test_a_row_loses_the_same_in_any_batch():
    x, some = jnp.ones((500, 7, 5)), np.array([3, 99, 0])
    whole = dropout(x, KEYS, 0.5)
    np.testing.assert_array_equal(dropout(x[some], KEYS[some], 0.5), whole[some])
    paths = drop_path_scales(KEYS, 0.5, 4)
    np.testing.assert_array_equal(drop_path_scales(KEYS[some], 0.5, 4), paths[..., some])
    assert (np.asarray(dropout(x, fold_in(KEYS, 1), 0.5)) != np.asarray(whole)).any()


def test_drop_path_rates_grow_with_depth():
    scale = np.asarray(drop_path_scales(KEYS, 0.3, 4))
    assert scale.shape == (4, 2, 500)
    for layer, rate in enumerate((0.0, 0.1, 0.2, 0.3)):
        np.testing.assert_allclose(scale[layer].max(), 1 / (1 - rate), rtol=1e-6)
        dropped = np.mean(scale[layer] == 0)
        assert abs(dropped - rate) <= 5 * np.sqrt(rate * (1 - rate) / 1000)
    assert (scale[3, 0] != scale[3, 1]).any()  # the two branches are independent


def test_the_largest_draw_keeps_a_branch_once():
    """1 + u rounds to 2 in float32 for the largest u below 1."""
    largest = jnp.full((1, 2, 2), np.nextafter(np.float32(1), np.float32(0)))
    np.testing.assert_allclose(drop_path_from_uniform(largest, 0.5)[:, 0, 0], [1, 2])
