"""The law of random token removal of the released IVT, measured on many samples."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tipr_jax.augment.token_removal import keep_tokens

SIZE, LONGEST, DRAWS = 24, 16, 6000
LENGTHS = jnp.array([5, LONGEST, 9])


def draws(**options) -> np.ndarray:
    """bool [DRAWS,3,SIZE]: which tokens were removed."""
    keys = jax.random.split(jax.random.key(0), DRAWS)
    keep = jax.vmap(lambda key: keep_tokens(key, LENGTHS, SIZE, 0.2, **options))(keys)
    return ~np.asarray(keep)


def check_counts(counts: np.ndarray, most: int) -> None:
    """Uniform over 0..most: within five standard deviations."""
    frequency = np.bincount(counts, minlength=most + 1) / len(counts)
    assert len(frequency) == most + 1
    expected = 1 / (most + 1)
    assert np.all(np.abs(frequency - expected) < 5 * np.sqrt(expected / len(counts)))


def check_positions(removed: np.ndarray, length: int) -> None:
    """Never token 0, nothing behind `length`, all others alike."""
    rate = removed.mean(axis=0)
    assert rate[0] == 0 and not rate[length:].any()
    mean = rate[1:length].mean()
    assert np.all(np.abs(rate[1:length] - mean) < 5 * np.sqrt(mean / len(removed)))


def test_one_draw_per_batch():
    removed = draws()
    assert (removed == removed[:, :1]).all()
    check_counts(removed[:, 0].sum(axis=1), int(0.2 * LONGEST))
    # The longest text of the batch decides: padding of the shorter ones is removed like words.
    check_positions(removed[:, 0], LONGEST)


def test_draw_per_sample():
    removed = draws(per_sample=True)
    assert (removed[:, 0] != removed[:, 1]).any()
    for row, length in enumerate(LENGTHS.tolist()):
        check_counts(removed[:, row].sum(axis=1), int(0.2 * length))
        check_positions(removed[:, row], length)
    # Rows draw independently: the joint frequency of "nothing removed" is the product.
    nothing = ~removed[:, 1:].any(axis=2)
    both, product = nothing.all(axis=1).mean(), nothing.mean(axis=0).prod()
    assert abs(both - product) < 5 * np.sqrt(product / DRAWS)


@pytest.mark.parametrize("length, most", [(4, 0), (5, 1), (9, 1), (10, 2), (15, 3), (20, 4)])
def test_largest_count(length, most):
    keys = jax.random.split(jax.random.key(1), 400)
    keep = jax.vmap(lambda key: keep_tokens(key, jnp.array([length]), SIZE, 0.2))(keys)
    assert (SIZE - np.asarray(keep).sum(axis=-1)).max() == most
