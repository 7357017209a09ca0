"""The operations of RandAugment against Pillow and written-out formulas, and which are drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from tipr_jax.augment import rand_augment as aug
from tipr_jax.augment.image import normalise
from tipr_jax.models.bi_irra.model import AUGMENTATION, MEAN, STD

H, W = 40, 24
KEY = jax.random.key(3)
JITTER, ROTATION, CROP, GREY, FLIP, ERASE = aug.operations(AUGMENTATION)


@pytest.fixture(scope="module")
def image() -> np.ndarray:
    """float32 [H,W,3] in [0, 1], smooth with some noise, no pixel black."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:H, :W]
    smooth = np.stack([y / H, x / W, (x + y) / (H + W)], -1)
    return (0.1 + 0.7 * smooth + 0.2 * rng.random((H, W, 3))).astype(np.float32)


def many(operation, image: np.ndarray, n: int) -> np.ndarray:
    """n independent draws of an operation on one image."""
    run = jax.jit(jax.vmap(operation, (None, 0)))
    return np.asarray(run(jnp.asarray(image), jax.random.split(KEY, n)))


def near(count: int, n: int, p: float) -> bool:
    return abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))


@pytest.mark.parametrize("angle", [-15.0, -3.7, 6.2, 14.9])
def test_rotation_is_pillows(image, angle):
    """Pillow rounds differently at the borders between two pixels, and nowhere else."""
    pixels = (255 * image).round().astype(np.uint8)
    want = np.asarray(Image.fromarray(pixels).rotate(angle, Image.Resampling.NEAREST))
    got = np.asarray(aug.rotate(jnp.asarray(pixels, jnp.float32), angle))
    assert (got == want).all(axis=-1).mean() > 0.99
    assert (got == 0).all(axis=-1).any()  # black corners


def test_no_rotation_changes_nothing(image):
    np.testing.assert_array_equal(aug.rotate(image, 0.0), image)


@pytest.mark.parametrize("box", [(0, 0, H, W), (2, 1, 36, 22), (1, 3, 39, 21), (0, 0, 33, 24)])
def test_crop_is_pillows(image, box):
    """Pillow's antialiased bilinear resize, a channel at a time, in float32."""
    top, left, height, width = box
    part = image[top : top + height, left : left + width]
    want = [
        np.asarray(Image.fromarray(part[..., c]).resize((W, H), Image.Resampling.BILINEAR))
        for c in range(3)
    ]
    got = aug.resized_crop(image, (top, left), (height, width))
    np.testing.assert_allclose(got, np.stack(want, -1), atol=2e-6)


def reference_jitter(image: np.ndarray, factors: list, order: list) -> np.ndarray:
    for kind in order:
        grey = image @ np.array([0.2989, 0.587, 0.114])
        other = [np.zeros(3), np.full(3, grey.mean()), grey[..., None]][kind]
        image = np.clip(image * factors[kind] + other * (1 - factors[kind]), 0, 1)
    return image


@pytest.mark.parametrize("order", [[0, 1, 2], [2, 0, 1], [1, 2, 0]])
def test_jitter(image, order):
    factors = [1.1, 0.9, 1.08]
    bright = np.minimum(image + 0.1, 1)  # some of it is clipped, so that the order matters
    want = reference_jitter(bright, factors, order)
    got = aug.jitter(bright, jnp.asarray(factors), jnp.asarray(order))
    np.testing.assert_allclose(got, want, atol=2e-6)
    other = reference_jitter(bright, factors, order[::-1])
    assert np.abs(want - other).max() > 1e-4


def test_jitter_draws_every_order_and_all_factors(image):
    """Of an image without colours and contrast only the brightness changes; it tells the factor."""
    flat = np.full((H, W, 3), 0.5, np.float32)
    factor = many(JITTER, flat, 2000).mean(axis=(1, 2, 3)) / 0.5
    assert 0.9 <= factor.min() < 0.905 and 1.095 < factor.max() <= 1.1 + 1e-6
    assert abs(factor.mean() - 1) < 0.01


def test_crops_have_the_area_and_aspect_of_the_law():
    """On coordinate images a crop shows its box: the differences between its borders."""
    y, x = np.mgrid[:96, :96].astype(np.float32)
    crops = many(CROP, np.stack([y, x, y], -1), 2000)
    height = crops[:, -1, 0, 0] - crops[:, 0, 0, 0] + 1
    width = crops[:, 0, -1, 1] - crops[:, 0, 0, 1] + 1
    area, ratio = height * width / 96**2, width / height
    assert 0.88 < area.min() < 0.92 and 0.99 < area.max() <= 1
    # Of 3/4..4/3 only what fits into the square, 0.9..1/0.9, is accepted.
    assert 0.88 < ratio.min() < 0.95 and 1.05 < ratio.max() < 1.14
    assert near((ratio > 1).sum() + (ratio == 1).sum() // 2, 2000, 0.5)
    top, left = crops[:, 0, 0, 0], crops[:, 0, 0, 1]
    assert top.min() == left.min() == 0
    np.testing.assert_allclose([top.mean(), left.mean()], 1.3, atol=0.6)
    assert (top + height <= 96).all() and (left + width <= 96).all()


def test_upright_images_keep_their_aspect_on_average():
    y, x = np.mgrid[:96, :48].astype(np.float32)
    crops = many(CROP, np.stack([y, x, y], -1), 500)
    height, width = crops[:, -1, 0, 0] - crops[:, 0, 0, 0] + 1, crops[:, 0, -1, 1] + 1
    assert height.min() > 82 and width.min() > 40


def test_grey_flip_and_erase(image):
    n = 2000
    grey = many(GREY, image, n)
    changed = (grey != image).any(axis=(1, 2, 3))
    assert near(changed.sum(), n, 0.1)
    want = image @ np.array([0.2989, 0.587, 0.114], np.float32)
    # Three products and two sums of numbers below 1: five roundings of at most half a unit in the
    # last place of [0.5, 1) each, on both sides; processors with fused products round less often.
    limit = 2 * 5 * 0.5 * np.spacing(np.float32(0.5))
    want = np.tile(want[..., None], (changed.sum(), 1, 1, 3))
    np.testing.assert_allclose(grey[changed], want, rtol=0, atol=limit)

    flipped = many(aug.random_flip, image, n)
    mirrored = (flipped == image[:, ::-1]).all(axis=(1, 2, 3))
    assert near(mirrored.sum(), n, 0.5)
    assert (mirrored | (flipped == image).all(axis=(1, 2, 3))).all()

    erased = many(ERASE, image, n)
    black = (erased == 0).all(axis=-1)
    assert near(black.any(axis=(1, 2)).sum(), n, 0.5)
    np.testing.assert_array_equal(erased[~black], np.tile(image, (n, 1, 1, 1))[~black])
    area = black.mean(axis=(1, 2))[black.any(axis=(1, 2))]
    assert 0.08 < area.min() < 0.12 and 0.18 < area.max() < 0.22


def test_two_operations_are_drawn_with_replacement(monkeypatch):
    """Stand-ins that write down which they are: 36 ordered pairs, equally often."""
    digits = [lambda image, key, i=i: image * 6 + i + 1 for i in range(6)]
    monkeypatch.setattr(aug, "operations", lambda augmentation: digits)
    n = 7200
    out = aug.rand_augment(jnp.zeros((n, 1, 1, 3), jnp.uint8), KEY, AUGMENTATION)
    code = np.round(np.asarray(out)[:, 0, 0] * STD + MEAN).astype(int)
    counts = np.bincount(code[:, 0])[7:]  # 6 * first + second, both from 1
    assert len(counts) == 36 and all(near(c, n, 1 / 36) for c in counts)


def test_the_whole_transform():
    image = np.random.default_rng(0).integers(1, 256, (64, H, W, 3), dtype=np.uint8)
    run = jax.jit(functools.partial(aug.rand_augment, augmentation=AUGMENTATION))
    out = np.asarray(run(image, KEY))
    assert out.shape == image.shape and out.dtype == np.float32
    np.testing.assert_array_equal(out, run(image, KEY))
    assert not np.array_equal(out, run(image, jax.random.key(4)))
    plain = np.asarray(normalise(jnp.asarray(image), MEAN, STD))
    # Flips and grey images that were not done, drawn twice: about 13 % stay as they are.
    untouched = (np.abs(out - plain) < 1e-5).all(axis=(1, 2, 3)).sum()
    assert 0 < untouched < 26
    low, high = (np.asarray(normalise(jnp.full(3, v, jnp.uint8), MEAN, STD)) for v in (0, 255))
    assert (out > low - 1e-4).all() and (out < high + 1e-4).all()


def test_wrong_shapes_raise():
    with pytest.raises(AssertionError, match="shape"):
        aug.rand_augment(jnp.zeros((2, H, W, 4), jnp.uint8), KEY, AUGMENTATION)
