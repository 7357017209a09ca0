"""Distillation distances against their formulas in numpy."""

import jax
import numpy as np
import pytest

from tipr_jax.losses.distill import attention_divergence, cosine_distance, smooth_l1_distance

RNG = np.random.default_rng(0)
TEACHER, STUDENT = (RNG.normal(size=(4, 5, 6)).astype(np.float32) for _ in range(2))
VALID = np.array([True, True, False, True])
DISTANCES = [cosine_distance, smooth_l1_distance, attention_divergence]


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def test_cosine():
    t, s = TEACHER[VALID], STUDENT[VALID]
    cos = (t * s).sum(-1) / np.linalg.norm(t, axis=-1) / np.linalg.norm(s, axis=-1)
    np.testing.assert_allclose(cosine_distance(TEACHER, STUDENT, VALID), np.mean(1 - cos), 1e-5)
    # Only directions count.
    ours = cosine_distance(TEACHER, 3 * TEACHER, VALID)
    np.testing.assert_allclose(ours, 0, atol=1e-6)


def test_smooth_l1():
    t, s = TEACHER[VALID], STUDENT[VALID]
    t = (t - t.mean(-1, keepdims=True)) / np.sqrt(t.var(-1, keepdims=True) + 1e-5)
    error = np.abs(t - s)
    want = np.where(error < 0.5, error**2, error - 0.25).mean()
    np.testing.assert_allclose(smooth_l1_distance(TEACHER, STUDENT, VALID), want, 1e-5)


def test_attention():
    t, s = (softmax(softmax(x[VALID][:, None])) for x in (TEACHER, STUDENT))
    want = (t * np.log(t / s)).sum(-1).mean()
    maps = (softmax(x)[:, None] for x in (TEACHER, STUDENT))
    np.testing.assert_allclose(attention_divergence(*maps, VALID), want, 1e-4)


@pytest.mark.parametrize("distance", DISTANCES)
def test_teacher_has_no_gradient(distance):
    heads = (lambda x: x[:, None]) if distance is attention_divergence else (lambda x: x)
    measure = lambda t, s: distance(heads(t), heads(s), VALID)  # noqa: E731
    grad = jax.grad(measure, (0, 1))(TEACHER, STUDENT)
    assert not np.any(grad[0]) and np.any(grad[1])
    assert not np.any(grad[1][~VALID])


@pytest.mark.parametrize("distance", DISTANCES)
def test_wrong_shapes_raise(distance):
    for wrong in ((TEACHER, STUDENT[:, :4], VALID), (TEACHER[0], STUDENT[0], VALID)):
        with pytest.raises(AssertionError):
            distance(*wrong)
