"""Token masking: what a draw decides, and the rates of our generator."""

import jax
import jax.numpy as jnp
import numpy as np

from tipr_jax.augment.masking import apply_mask, mask_tokens

MASK_ID = 49405


def test_one_draw_decides_selection_and_action():
    ids = jnp.asarray([[126, 5, 6, 7, 8, 127, 0]])
    draw = jnp.asarray([[0.0, 0.119, 0.121, 0.136, 0.151, 0.0, 0.0]])
    masked, labels = apply_mask(ids, draw, jnp.full_like(ids, 99), mask_id=125)
    assert masked[0].tolist() == [126, 125, 99, 7, 8, 127, 0]  # mask, random, kept, not selected
    assert labels[0].tolist() == [0, 5, 6, 7, 0, 0, 0]


def test_a_row_without_selection_masks_its_first_word():
    ids = jnp.asarray([[126, 5, 6, 127], [126, 127, 0, 0]])
    masked, labels = apply_mask(ids, jnp.ones(ids.shape), ids, mask_id=125)
    assert masked.tolist() == [
        [126, 125, 6, 127],
        [126, 125, 0, 0],
    ]  # the second loses its end mark
    assert labels.tolist() == [[0, 5, 0, 0], [0, 127, 0, 0]]


def test_rates():
    """15 % selected; of these 80 % masked, 10 % random, 10 % kept: within five deviations."""
    rows, length = 4000, 42
    ids = np.zeros((rows, length), np.int32)
    ids[:, 0], ids[:, 1:33], ids[:, 33] = 49406, 777, 49407
    mask = jax.jit(mask_tokens, static_argnums=2)
    masked, labels = map(np.asarray, mask(ids, jax.random.key(0), MASK_ID))
    selected = labels != 0
    assert not selected[:, [0, *range(33, length)]].any()
    np.testing.assert_array_equal(masked[~selected], ids[~selected])
    np.testing.assert_array_equal(labels[selected], ids[selected])

    def agrees(share: float, expected: float, n: int, extra: float = 0.0) -> None:
        assert abs(share - expected) < 5 * np.sqrt(expected * (1 - expected) / n) + extra

    n, got = selected.sum(), masked[selected]
    fallback = 0.85**32 / 32  # rows without any draw below 0.15 mask one word
    agrees(n / (rows * 32), 0.15 + fallback, rows * 32)
    agrees(np.mean(got == MASK_ID), 0.8, n, extra=2 * fallback)
    agrees(np.mean(got == 777), 0.1, n, extra=2 * fallback)
    random_words = got[(got != MASK_ID) & (got != 777)]
    assert random_words.min() >= 1 and random_words.max() < MASK_ID
    assert len(np.unique(random_words)) > 0.9 * len(random_words)
    agrees(np.mean(random_words < MASK_ID / 2), 0.5, len(random_words))


def test_rows_and_keys_are_independent():
    ids = np.tile(np.r_[49406, np.full(30, 5), 49407].astype(np.int32), (64, 1))
    first = mask_tokens(ids, jax.random.key(0), MASK_ID)[1]
    again = mask_tokens(ids, jax.random.key(0), MASK_ID)[1]
    other = mask_tokens(ids, jax.random.key(1), MASK_ID)[1]
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)
    assert len(np.unique(np.asarray(first), axis=0)) > 60
