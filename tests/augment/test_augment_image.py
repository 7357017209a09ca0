"""The laws of the training transform: flip, pad and crop, erase, and their probabilities."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from tipr_jax.augment import image as aug
from tipr_jax.models import irra, ivt
from tipr_jax.preprocess.image import normalise as host_normalise

H, W = 48, 16
KEY = jax.random.key(7)
IRRA_SUM = -92665.558  # of the first release of this transform
ERASE = jax.jit(aug.random_erase, static_argnums=2)
AUGMENT = jax.jit(aug.augment_images, static_argnums=2)


def pictures(n: int) -> np.ndarray:
    """uint8 [n,H,W,3]: every pixel tells its place, none is black or equal to its mirror image."""
    y, x = np.mgrid[:H, :W]
    one = np.stack([1 + y * 4, 1 + x * 10, 1 + y + x], axis=-1)
    return np.tile(one.astype(np.uint8), (n, 1, 1, 1))


def near(count: int, n: int, p: float) -> bool:
    return abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))


def test_normalise_equals_the_host_twin():
    image = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_allclose(
        aug.normalise(jnp.asarray(image), irra.MEAN, irra.STD), host_normalise(image), atol=2e-6
    )


def test_flip():
    image = pictures(1000)
    flipped = np.asarray(aug.random_flip(image, jax.random.key(0)))
    mirrored = (flipped == image[:, :, ::-1]).all(axis=(1, 2, 3))
    same = (flipped == image).all(axis=(1, 2, 3))
    assert np.all(mirrored ^ same)
    assert near(mirrored.sum(), 1000, 0.5)


def test_crop_is_a_shift_with_black_borders():
    """Every offset from 0 to 2 * pad occurs, in both directions, about equally often."""
    pad, n = 3, 1500
    image = pictures(n)
    cropped = np.asarray(aug.random_crop(image, jax.random.key(0), pad))
    padded = np.pad(image[0], ((pad, pad), (pad, pad), (0, 0)))
    counts = np.zeros((2 * pad + 1, 2 * pad + 1), int)
    for y in range(2 * pad + 1):
        for x in range(2 * pad + 1):
            counts[y, x] = (cropped == padded[y : y + H, x : x + W]).all(axis=(1, 2, 3)).sum()
    assert counts.sum() == n  # each is exactly one of the shifts
    assert all(near(c, n, 1 / 7) for c in (*counts.sum(0), *counts.sum(1)))


def test_erase():
    """Half the images lose one rectangle, of the released area and aspect, filled with the mean."""
    n = 2000
    image = jnp.zeros((n, H, W, 3))
    erased = np.asarray(ERASE(image, jax.random.key(0), irra.AUGMENTATION.erasing))
    hit = (erased != 0).any(axis=-1)
    touched = hit.any(axis=(1, 2))
    assert near(touched.sum(), n, 0.5)
    np.testing.assert_array_equal(erased[hit], np.tile(np.float32(irra.MEAN), (hit.sum(), 1)))
    rows, cols = hit.any(axis=2), hit.any(axis=1)
    height, width = rows.sum(axis=1)[touched], cols.sum(axis=1)[touched]
    for mask in hit[touched]:  # a filled rectangle
        y, x = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        assert mask[y[0] : y[-1] + 1, x[0] : x[-1] + 1].all()
    assert height.max() < H and width.max() < W
    area = height * width / (H * W)
    # Rounding height and width to pixels moves the area a little.
    assert 0.01 < area.min() < 0.04 and 0.33 < area.max() < 0.45
    ratio = height / width
    assert 0.2 < ratio.min() < 0.45 and 2.6 < ratio.max() < 4.5
    # Log-uniform aspect: as many tall as wide ones, but for tries too wide for the narrow image.
    assert 0.9 < np.median(ratio) < 1.8
    top = rows.argmax(axis=1)[touched] / np.maximum(H - height, 1)
    left = cols.argmax(axis=1)[touched] / np.maximum(W - width, 1)
    assert abs(top.mean() - 0.5) < 0.05 and abs(left.mean() - 0.5) < 0.06


def test_erase_with_noise():
    """Half the images lose a rectangle to numbers from N(0, 1), another one for every value."""
    n = 2000
    image = jnp.full((n, H, W, 3), 50.0)
    erased = np.asarray(ERASE(image, KEY, ivt.AUGMENTATION.erasing))
    hit = (erased != 50).any(axis=-1)
    assert near(hit.any(axis=(1, 2)).sum(), n, 0.5)
    noise = erased[hit]
    assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
    assert abs(np.corrcoef(noise.T)[0, 1]) < 0.01  # channels differ
    assert len(np.unique(noise.round(6))) > noise.size / 3  # images differ
    boxes = hit[hit.any(axis=(1, 2))]
    height, width = boxes.any(axis=2).sum(axis=1), boxes.any(axis=1).sum(axis=1)
    np.testing.assert_array_equal(boxes.sum(axis=(1, 2)), height * width)
    area = height * width / (H * W)
    assert 0.01 < area.min() < 0.04 and 0.28 < area.max() < 0.38
    assert height.max() < H and width.max() < W


def without_erasing(augmentation: aug.ImageAugmentation) -> aug.ImageAugmentation:
    erasing = dataclasses.replace(augmentation.erasing, probability=0.0)
    return dataclasses.replace(augmentation, erasing=erasing)


def test_order_of_flip_and_crop():
    white, black = (jnp.full((1, 2, 2, 3), v, jnp.uint8) for v in (255, 0))
    np.testing.assert_allclose(aug.normalise(white, ivt.MEAN, ivt.STD), 1, atol=1e-6)
    np.testing.assert_allclose(aug.normalise(black, ivt.MEAN, ivt.STD), -1, atol=1e-6)
    flip_first, crop_first = (without_erasing(m.AUGMENTATION) for m in (irra, ivt))

    @jax.jit
    def pairs(image, key):
        flips, crops, _ = jax.random.split(key, 3)
        first = aug.random_crop(aug.random_flip(image, flips), crops, 1)
        last = aug.random_flip(aug.random_crop(image, crops, 1), flips)
        return (
            (aug.augment_images(image, key, flip_first), aug.normalise(first, irra.MEAN, irra.STD)),
            (aug.augment_images(image, key, crop_first), aug.normalise(last, ivt.MEAN, ivt.STD)),
            (first, last),
        )

    *equal, (first, last) = pairs(pictures(64), KEY)
    assert not np.array_equal(first, last)
    for got, want in equal:
        np.testing.assert_allclose(got, want, atol=1e-6)


def test_numbers_never_change():
    """A recorded sum: runs that resume, and the quickstart's result, depend on the draws."""
    out = np.asarray(AUGMENT(pictures(64), KEY, irra.AUGMENTATION), np.float64)
    assert out.sum() == pytest.approx(IRRA_SUM, abs=0.05)


def test_erase_leaves_an_image_in_which_nothing_fits():
    """The rectangle must be smaller than the image in both directions."""
    image = jnp.zeros((200, 1, 40, 3))
    assert not np.any(ERASE(image, jax.random.key(0), irra.AUGMENTATION.erasing))


def test_the_whole_transform():
    image = pictures(64)
    key = jax.random.key(1)
    out = AUGMENT(image, key, irra.AUGMENTATION)
    assert out.shape == image.shape and out.dtype == jnp.float32
    np.testing.assert_array_equal(out, AUGMENT(image, key, irra.AUGMENTATION))
    different = np.unique(np.asarray(out).reshape(64, -1), axis=0)
    assert len(different) > 40  # 18 flips and shifts, and the erased ones
    # Padding is black before normalisation; the pad scales with the height (384 -> 10 pixels).
    black = np.asarray(aug.normalise(jnp.zeros(3, jnp.uint8), irra.MEAN, irra.STD))
    assert np.any(np.all(np.abs(np.asarray(out) - black) < 1e-6, axis=-1))


def test_wrong_shapes_raise():
    with pytest.raises(AssertionError, match="shape"):
        aug.normalise(jnp.zeros((2, H, W), jnp.uint8), irra.MEAN, irra.STD)


@pytest.mark.parametrize(("scale_pad", "pad"), [(True, 3), (False, 10)])
def test_padding_of_the_crop_scales_or_not(scale_pad, pad):
    """128 rows: 10 * 128 / 384 = 3 pixels, or the released 10 at any size."""
    image = np.full((400, 128, 64, 3), 255, np.uint8)
    never = dataclasses.replace(irra.AUGMENTATION.erasing, probability=0.0)
    how = dataclasses.replace(
        irra.AUGMENTATION, mean=(0, 0, 0), std=(1, 1, 1), erasing=never, scale_pad=scale_pad
    )
    out = np.asarray(AUGMENT(image, KEY, how))
    assert (out[:, :, 32, 0] == 0).sum(axis=1).max() == pad
