"""Bi-IRRA's image transform: two operations, drawn from six for every image (spec bi_irra §4.2).

An operation maps (image float32 [H,W,3] in [0, 1], key) to an image of the same shape. Drawn
twice, it is applied twice.
"""

import jax
import jax.numpy as jnp

from tipr_jax.augment import image as whole_batch

RECIPE = whole_batch.Recipe(
    mean=(0.485, 0.456, 0.406),
    std=(0.229, 0.224, 0.225),
    pad=0,  # its crop is another one
    erase_probability=0.5,
    erase_area=(0.1, 0.2),
    erase_ratio=(0.3, 3.3),
    erase_fill="zero",  # black: it comes before the normalisation
    flip_first=True,
)
GREY = (0.2989, 0.587, 0.114)
JITTER = 0.1  # factors of brightness, contrast and saturation: 1 -+ this
MAX_ANGLE = 15.0  # degrees
CROP_AREA = (0.9, 1.0)
CROP_RATIO = (3 / 4, 4 / 3)
CROP_TRIES = 10
GREY_PROBABILITY = 0.1


def normalise(image: jax.Array) -> jax.Array:
    """uint8 [...,3] -> float32 with ImageNet's mean and standard deviation."""
    return whole_batch.normalise(image, RECIPE)


def augment(image: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 [B,H,W,3] -> normalised float32 [B,H,W,3]; a pure function of (image, key).

    Under `vmap` the switch computes all six operations and selects, which costs accelerators
    little and keeps every shape static.
    """

    def two(image: jax.Array, key: jax.Array) -> jax.Array:
        k_choice, *keys = jax.random.split(key, 3)
        for chosen, k in zip(
            jax.random.randint(k_choice, (2,), 0, len(OPERATIONS)), keys, strict=True
        ):
            image = jax.lax.switch(chosen, OPERATIONS, image, k)
        return image

    image = jax.vmap(two)(image.astype(jnp.float32) / 255.0, jax.random.split(key, len(image)))
    return (image - jnp.asarray(RECIPE.mean)) / jnp.asarray(RECIPE.std)


def colour_jitter(image: jax.Array, key: jax.Array) -> jax.Array:
    """Brightness, contrast and saturation by factors in [0.9, 1.1], in random order."""
    k_factor, k_order = jax.random.split(key)
    factors = jax.random.uniform(k_factor, (3,), minval=1 - JITTER, maxval=1 + JITTER)
    return jitter(image, factors, jax.random.permutation(k_order, 3))


def jitter(image: jax.Array, factors: jax.Array, order: jax.Array) -> jax.Array:
    """Blends with black (0: brightness), the mean grey (1: contrast), grey (2: saturation).

    factors float [3] of the three; order int [3], which comes first. Every result is clipped.
    """
    for kind in order:
        other = grey(image)
        other = jnp.where(kind == 0, 0.0, jnp.where(kind == 1, jnp.mean(other), other))
        image = jnp.clip(factors[kind] * image + (1 - factors[kind]) * other, 0.0, 1.0)
    return image


def grey(image: jax.Array) -> jax.Array:
    """[H,W,3] -> [H,W,1]."""
    return sum(weight * image[..., i : i + 1] for i, weight in enumerate(GREY))


def random_rotation(image: jax.Array, key: jax.Array) -> jax.Array:
    return rotate(image, jax.random.uniform(key, minval=-MAX_ANGLE, maxval=MAX_ANGLE))


def rotate(image: jax.Array, degrees: jax.Array) -> jax.Array:
    """Turns the image about its centre, counter-clockwise: nearest pixels, black around them."""
    h, w, _ = image.shape
    cos, sin = jnp.cos(jnp.deg2rad(degrees)), jnp.sin(jnp.deg2rad(degrees))
    y, x = jnp.arange(h)[:, None] - (h - 1) / 2, jnp.arange(w) - (w - 1) / 2
    row = jnp.round(sin * x + cos * y + (h - 1) / 2).astype(jnp.int32)
    column = jnp.round(cos * x - sin * y + (w - 1) / 2).astype(jnp.int32)
    inside = (row >= 0) & (row < h) & (column >= 0) & (column < w)
    source = jnp.clip(row, 0, h - 1) * w + jnp.clip(column, 0, w - 1)
    return jnp.where(inside[..., None], image.reshape(h * w, 3)[source], 0.0)


def random_resized_crop(image: jax.Array, key: jax.Array) -> jax.Array:
    """Cuts a box of 0.9 to 1 of the area and brings it back to the size of the image.

    Ten draws of area and aspect, the first that fits is used, else the whole image. Deviation: the
    aspect is relative to the image's, the same thing where that is square, as published; elsewhere
    torchvision's 3/4..4/3 fits no upright image.
    """
    h, w, _ = image.shape
    k_area, k_ratio, k_at = jax.random.split(key, 3)
    low, high = CROP_AREA
    area = h * w * jax.random.uniform(k_area, (CROP_TRIES,), minval=low, maxval=high)
    log_low, log_high = jnp.log(jnp.asarray(CROP_RATIO) * (w / h))
    ratio = jnp.exp(jax.random.uniform(k_ratio, (CROP_TRIES,), minval=log_low, maxval=log_high))
    height, width = jnp.round(jnp.sqrt(area / ratio)), jnp.round(jnp.sqrt(area * ratio))
    fits = (height <= h) & (width <= w)
    first = jnp.argmax(fits)
    height = jnp.where(fits.any(), height[first], h)
    width = jnp.where(fits.any(), width[first], w)
    at = jax.random.uniform(k_at, (2,))
    top, left = jnp.floor(at[0] * (h - height + 1)), jnp.floor(at[1] * (w - width + 1))
    return resized_crop(image, (top, left), (height, width))


def resized_crop(image: jax.Array, corner: tuple, size: tuple) -> jax.Array:
    """The box of `size` (height, width) at `corner` (top, left), bilinear at the image's own size.

    The box is never larger than the result, so that antialiasing has nothing to smooth.
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


def random_grey(image: jax.Array, key: jax.Array) -> jax.Array:
    return jnp.where(jax.random.bernoulli(key, GREY_PROBABILITY), grey(image), image)


def random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    return whole_batch.random_flip(image[None], key)[0]


def random_erase(image: jax.Array, key: jax.Array) -> jax.Array:
    """Blackens a box of 0.1 to 0.2 of the area with probability 0.5."""
    return whole_batch.random_erase(image[None], key, RECIPE)[0]


OPERATIONS = (
    colour_jitter,
    random_rotation,
    random_resized_crop,
    random_grey,
    random_flip,
    random_erase,
)
