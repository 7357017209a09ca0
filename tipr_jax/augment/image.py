"""Normalisation and augmentation of images, uint8 in, float32 out: flip, pad and crop, erase.

The functions have the laws of torchvision's `RandomHorizontalFlip`, `RandomCrop` with padding and
`RandomErasing`. Each paper's file holds its values, an `ImageAugmentation`.
"""

import dataclasses
from typing import Literal

import chex
import jax
import jax.numpy as jnp

ERASE_TRIES = 10
PAD_HEIGHT = 384  # pixels: the image height that `ImageAugmentation.pad` refers to


@dataclasses.dataclass(frozen=True)
class RandomErasing:
    """Erases one rectangle (Zhong et al., AAAI 2020), as torchvision's transform of that name.

    probability: that an image loses a rectangle. area: range of its share of the image, uniform.
    ratio: range of height / width, log-uniform. value: RGB of the erased pixels, or "random" for a
    draw from N(0, 1) per value.
    """

    probability: float
    area: tuple[float, float]
    ratio: tuple[float, float]
    value: tuple[float, float, float] | Literal["random"]


@dataclasses.dataclass(frozen=True)
class ImageAugmentation:
    """Parameters of `augment_images`; evaluation uses `mean` and `std` alone.

    mean, std: of RGB in [0, 1]. pad: black pixels on each side before the random crop, for images
    that are 384 high. scale_pad: smaller images have fewer, in proportion (ours); else `pad` pixels
    at any size, as released. erasing: of the normalised image. flip_first: the flip comes before
    the crop, else after it.
    """

    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    pad: int
    erasing: RandomErasing
    flip_first: bool
    scale_pad: bool = True


def normalise(
    image: jax.Array, mean: tuple[float, float, float], std: tuple[float, float, float]
) -> jax.Array:
    """uint8 [...,3] -> float32: (x / 255 - mean) / std."""
    chex.assert_shape(image, (..., 3))
    scaled = image.astype(jnp.float32) / 255.0
    return (scaled - jnp.asarray(mean, jnp.float32)) / jnp.asarray(std, jnp.float32)


def random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each image [B,H,W,3] left to right with probability 0.5."""
    chex.assert_rank(image, 4)
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)


def random_crop(image: jax.Array, key: jax.Array, pad: int) -> jax.Array:
    """Pads each image [B,H,W,3] with `pad` black pixels and cuts H x W back at a random place."""
    b, h, w, c = image.shape
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offset = jax.random.randint(key, (b, 2), 0, 2 * pad + 1)
    cut = lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (h, w, c))  # noqa: E731
    return jax.vmap(cut)(padded, offset)


def random_erase(image: jax.Array, key: jax.Array, erasing: RandomErasing) -> jax.Array:
    """Erases at most one rectangle per image, float [B,H,W,3].

    Up to ten draws of area and aspect; the first one that fits is used, and if none fits the image
    stays (the law of torchvision and timm).
    """
    b, h, w, _ = image.shape
    k_do, k_area, k_ratio, k_at = jax.random.split(key, 4)
    low, high = erasing.area
    area = h * w * jax.random.uniform(k_area, (b, ERASE_TRIES), minval=low, maxval=high)
    log_low, log_high = jnp.log(jnp.asarray(erasing.ratio))
    ratio = jnp.exp(jax.random.uniform(k_ratio, (b, ERASE_TRIES), minval=log_low, maxval=log_high))
    height = jnp.round(jnp.sqrt(area * ratio))
    width = jnp.round(jnp.sqrt(area / ratio))
    fits = (height < h) & (width < w)
    first = jnp.argmax(fits, axis=1)[:, None]
    height = jnp.take_along_axis(height, first, axis=1)
    width = jnp.take_along_axis(width, first, axis=1)
    at = jax.random.uniform(k_at, (2, b, 1))
    top = jnp.floor(at[0] * (h - height + 1))
    left = jnp.floor(at[1] * (w - width + 1))
    y, x = jnp.arange(h)[None], jnp.arange(w)[None]
    inside_y = (y >= top) & (y < top + height)
    inside_x = (x >= left) & (x < left + width)
    do = jnp.any(fits, axis=1) & jax.random.bernoulli(k_do, erasing.probability, (b,))
    erase = inside_y[:, :, None] & inside_x[:, None, :] & do[:, None, None]
    if erasing.value == "random":
        value = jax.random.normal(jax.random.fold_in(key, 4), image.shape, image.dtype)
    else:
        value = jnp.asarray(erasing.value, image.dtype)
    return jnp.where(erase[..., None], value, image)


def augment_images(image: jax.Array, key: jax.Array, augmentation: ImageAugmentation) -> jax.Array:
    """The training transform: uint8 [B,H,W,3] -> normalised float32 [B,H,W,3].

    A function of (image, key): other keys give independent views of the same images.
    """
    k_flip, k_crop, k_erase = jax.random.split(key, 3)
    pad = augmentation.pad
    if augmentation.scale_pad:
        pad = max(1, round(pad * image.shape[1] / PAD_HEIGHT))
    if augmentation.flip_first:
        image = random_crop(random_flip(image, k_flip), k_crop, pad)
    else:
        image = random_flip(random_crop(image, k_crop, pad), k_flip)
    image = normalise(image, augmentation.mean, augmentation.std)
    return random_erase(image, k_erase, augmentation.erasing)
