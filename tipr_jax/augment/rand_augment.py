"""RandAugment: a few operations per image, drawn with replacement from a list of operations.

Source: RandAugment (Cubuk et al., NeurIPS 2020), as `RandAugment` of torchvision and
`rand_augment_transform` of timm, with other operations and random magnitudes. The ranges of the
magnitudes are a `RandAugment`, which a paper's file defines.

An operation maps (image float32 [H,W,3] in [0, 1], key) to an image of the same shape. If it is
drawn twice, it is applied twice.
"""

import dataclasses
import functools
from collections.abc import Callable

import chex
import jax
import jax.numpy as jnp

from tipr_jax.augment import image as batches

GREY = (0.2989, 0.587, 0.114)  # weights of RGB, as ITU-R BT.601 and torchvision have them
CROP_TRIES = 10

Operation = Callable[[jax.Array, jax.Array], jax.Array]


@dataclasses.dataclass(frozen=True)
class RandAugment:
    """Parameters of `rand_augment`; evaluation uses `mean` and `std` alone.

    mean, std: of RGB in [0, 1]. num_ops: operations per image. jitter: brightness, contrast and
    saturation change by factors in 1 -+ this. max_angle: of the rotation, degrees. crop_area,
    crop_ratio: ranges of the crop's share of the image, and of its width / height over the image's.
    grey_probability: that the grey-scale operation does anything. erasing: before normalisation.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    num_ops: int
    jitter: float
    max_angle: float
    crop_area: tuple[float, float]
    crop_ratio: tuple[float, float]
    grey_probability: float
    erasing: batches.RandomErasing


def operations(augmentation: RandAugment) -> tuple[Operation, ...]:
    """Colour jitter, rotation, resized crop, grey scale, flip, erasing."""
    a = augmentation
    return (
        functools.partial(colour_jitter, strength=a.jitter),
        functools.partial(random_rotation, max_angle=a.max_angle),
        functools.partial(random_resized_crop, area=a.crop_area, ratio=a.crop_ratio),
        functools.partial(random_grey, probability=a.grey_probability),
        random_flip,
        functools.partial(random_erase, erasing=a.erasing),
    )


def rand_augment(image: jax.Array, key: jax.Array, augmentation: RandAugment) -> jax.Array:
    """The training transform: uint8 [B,H,W,3] -> normalised float32 [B,H,W,3].

    A pure function of (image, key). Under `vmap` the switch computes all operations and selects,
    which costs accelerators little and keeps every shape static.
    """
    choices, count = operations(augmentation), augmentation.num_ops

    def augment(image: jax.Array, key: jax.Array) -> jax.Array:
        k_choice, *keys = jax.random.split(key, 1 + count)
        chosen = jax.random.randint(k_choice, (count,), 0, len(choices))
        for number, operation_key in zip(chosen, keys, strict=True):
            image = jax.lax.switch(number, choices, image, operation_key)
        return image

    chex.assert_shape(image, (None, None, None, 3))
    image = image.astype(jnp.float32) / 255.0
    image = jax.vmap(augment)(image, jax.random.split(key, len(image)))
    return (image - jnp.asarray(augmentation.mean)) / jnp.asarray(augmentation.std)


def colour_jitter(image: jax.Array, key: jax.Array, *, strength: float) -> jax.Array:
    """Brightness, contrast and saturation by factors in 1 -+ strength, in random order.

    As torchvision's `ColorJitter`, without hue.
    """
    k_factor, k_order = jax.random.split(key)
    factors = jax.random.uniform(k_factor, (3,), minval=1 - strength, maxval=1 + strength)
    return jitter(image, factors, jax.random.permutation(k_order, 3))


def jitter(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Blends with black (0: brightness), the mean grey (1: contrast), grey (2: saturation).

    image: float32 [H,W,3] in [0, 1]. factors: float [3], of brightness, contrast, saturation.
    order: int [3], which of them comes first. Every result is clipped to [0, 1].
    """
    for kind in order:
        other = grey(image)
        other = jnp.where(kind == 0, 0.0, jnp.where(kind == 1, jnp.mean(other), other))
        image = jnp.clip(factors[kind] * image + (1 - factors[kind]) * other, 0.0, 1.0)
    return image


def grey(image: jax.Array) -> jax.Array:
    """Luminance: [H,W,3] -> [H,W,1]."""
    red, green, blue = (weight * image[..., i : i + 1] for i, weight in enumerate(GREY))
    return red + green + blue


def random_rotation(image: jax.Array, key: jax.Array, *, max_angle: float) -> jax.Array:
    """`rotate` by an angle in -+ max_angle degrees, uniform."""
    return rotate(image, jax.random.uniform(key, minval=-max_angle, maxval=max_angle))


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
    """Turns an image [H,W,3] about its centre, counter-clockwise, by nearest neighbours.

    Pixels that come from outside the image are black.
    """
    h, w, _ = image.shape
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    y, x = jnp.arange(h)[:, None] - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    row = jnp.round(sin * x + cos * y + (h - 1) / 2).astype(jnp.int32)
    column = jnp.round(cos * x - sin * y + (w - 1) / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    source = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
    return jnp.where(inside[..., None], image.reshape(h * w, 3)[source], 0.0)


def random_resized_crop(
    image: jax.Array, key: jax.Array, *, area: tuple[float, float], ratio: tuple[float, float]
) -> jax.Array:
    """Cuts a box with a random share of the area and brings it back to the size of the image.

    Ten draws of area (uniform) and aspect (log-uniform); the first one that fits is used, else the
    whole image. Deviation from torchvision's `RandomResizedCrop`: the aspect is relative to the
    aspect of the image. For square images both are the same; elsewhere torchvision's 3/4 to 4/3
    fits no upright image.
    """
    h, w, _ = image.shape
    k_area, k_ratio, k_at = jax.random.split(key, 3)
    low, high = area
    areas = h * w * jax.random.uniform(k_area, (CROP_TRIES,), minval=low, maxval=high)
    log_low, log_high = jnp.log(jnp.asarray(ratio) * (w / h))
    ratios = jnp.exp(jax.random.uniform(k_ratio, (CROP_TRIES,), minval=log_low, maxval=log_high))
    height, width = jnp.round(jnp.sqrt(areas / ratios)), jnp.round(jnp.sqrt(areas * ratios))
    fits = (height <= h) & (width <= w)
    first = jnp.argmax(fits)
    height = jnp.where(fits.any(), height[first], h)
    width = jnp.where(fits.any(), width[first], w)
    at = jax.random.uniform(k_at, (2,))
    top, left = jnp.floor(at[0] * (h - height + 1)), jnp.floor(at[1] * (w - width + 1))
    return resized_crop(image, (top, left), (height, width))


def resized_crop(
    image: jax.Array, corner: tuple[jax.Array, jax.Array], size: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """The box of `size` (height, width) at `corner` (top, left) of an image, at the image's size.

    Bilinear, image float [H,W,3], box in pixels. The box is never larger than the result, so that
    antialiasing has nothing to smooth.
    """
    for axis, (start, length) in enumerate(zip(corner, size, strict=True)):
        n = image.shape[axis]
        at = jnp.clip((jnp.arange(n) + 0.5) * (length / n) - 0.5, 0, length - 1)
        lower = jnp.floor(at)
        share = (at - lower).reshape((n, 1, 1) if axis == 0 else (n, 1))
        first = (start + lower).astype(jnp.int32)
        last = (start + jnp.minimum(lower + 1, length - 1)).astype(jnp.int32)
        take = lambda index: jnp.take(image, index, axis=axis, mode="clip")  # noqa: B023, E731
        image = (1 - share) * take(first) + share * take(last)
    return image


def random_grey(image: jax.Array, key: jax.Array, *, probability: float) -> jax.Array:
    """Three equal channels of luminance with `probability`; image [H,W,3]."""
    return jnp.where(jax.random.bernoulli(key, probability), grey(image), image)


def random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """`augment.image.random_flip` of one image [H,W,3]."""
    return batches.random_flip(image[None], key)[0]


def random_erase(image: jax.Array, key: jax.Array, *, erasing: batches.RandomErasing) -> jax.Array:
    """`augment.image.random_erase` of one image [H,W,3]."""
    return batches.random_erase(image[None], key, erasing)[0]
