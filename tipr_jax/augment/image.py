"""Image normalisation and augmentation, uint8 in, float32 out, by the recipe of a paper.

Flip, pad and crop, normalise, erase (spec irra §4.5, spec ivt §6).
"""

import dataclasses
from typing import Literal

import jax
import jax.numpy as jnp

from tipr_jax.preprocess.image import CLIP_MEAN, CLIP_STD

ERASE_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The training transform of one paper; evaluation uses `mean` and `std` alone."""

    mean: tuple[float, float, float]  # of RGB in [0, 1]
    std: tuple[float, float, float]
    pad: int  # pixels at the papers' height of 384; scales with the image
    erase_probability: float
    erase_area: tuple[float, float]  # share of the image, uniform
    erase_ratio: tuple[float, float]  # height / width, log-uniform
    # What an erased box holds in the image that is given: the mean triple, N(0, 1) per value, or 0.
    erase_fill: Literal["mean", "noise", "zero"]
    flip_first: bool  # before the crop, else after it


IRRA = Recipe(
    mean=tuple(CLIP_MEAN.tolist()),
    std=tuple(CLIP_STD.tolist()),
    pad=10,
    erase_probability=0.5,
    erase_area=(0.02, 0.4),
    erase_ratio=(0.3, 3.3),
    erase_fill="mean",  # a released quirk, kept: it is the mean before normalisation
    flip_first=True,
)
IVT = Recipe(
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    pad=10,
    erase_probability=0.5,
    erase_area=(0.02, 1 / 3),
    erase_ratio=(0.3, 1 / 0.3),
    erase_fill="noise",
    flip_first=False,
)


def normalise(image: jax.Array, recipe: Recipe = IRRA) -> jax.Array:
    """uint8 [...,3] -> float32: x / 255, minus the recipe's mean, over its standard deviation."""
    mean, std = jnp.asarray(recipe.mean, jnp.float32), jnp.asarray(recipe.std, jnp.float32)
    return (image.astype(jnp.float32) / 255.0 - mean) / std


def random_flip(image: jax.Array, key: jax.Array) -> jax.Array:
    """Mirrors each image [B,H,W,3] with probability 0.5."""
    flip = jax.random.bernoulli(key, 0.5, (image.shape[0], 1, 1, 1))
    return jnp.where(flip, image[:, :, ::-1], image)


def random_crop(image: jax.Array, key: jax.Array, pad: int) -> jax.Array:
    """Pads each image [B,H,W,3] with `pad` black pixels and cuts H x W back at a random place."""
    b, h, w, c = image.shape
    padded = jnp.pad(image, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    offset = jax.random.randint(key, (b, 2), 0, 2 * pad + 1)
    cut = lambda x, at: jax.lax.dynamic_slice(x, (at[0], at[1], 0), (h, w, c))  # noqa: E731
    return jax.vmap(cut)(padded, offset)


def random_erase(image: jax.Array, key: jax.Array, recipe: Recipe = IRRA) -> jax.Array:
    """Erases at most one rectangle per image [B,H,W,3].

    Up to ten draws of area and aspect, the first that fits is used, none fitting leaves the image
    (torchvision's and timm's law).
    """
    b, h, w, _ = image.shape
    k_do, k_area, k_ratio, k_at = jax.random.split(key, 4)
    low, high = recipe.erase_area
    area = h * w * jax.random.uniform(k_area, (b, ERASE_TRIES), minval=low, maxval=high)
    log_low, log_high = jnp.log(jnp.asarray(recipe.erase_ratio))
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
    do = jnp.any(fits, axis=1) & jax.random.bernoulli(k_do, recipe.erase_probability, (b,))
    erase = inside_y[:, :, None] & inside_x[:, None, :] & do[:, None, None]
    if recipe.erase_fill == "noise":
        fill = jax.random.normal(jax.random.fold_in(key, 4), image.shape, image.dtype)
    elif recipe.erase_fill == "zero":
        fill = jnp.zeros((), image.dtype)
    else:
        fill = jnp.asarray(recipe.mean, image.dtype)
    return jnp.where(erase[..., None], fill, image)


def augment_images(image: jax.Array, key: jax.Array, recipe: Recipe = IRRA) -> jax.Array:
    """The training transform: uint8 [B,H,W,3] -> normalised float32 [B,H,W,3].

    A function of (image, key): other keys give independent views of the same images.
    """
    k_flip, k_crop, k_erase = jax.random.split(key, 3)
    pad = max(1, round(recipe.pad * image.shape[1] / 384))
    if recipe.flip_first:
        image = random_crop(random_flip(image, k_flip), k_crop, pad)
    else:
        image = random_flip(random_crop(image, k_crop, pad), k_flip)
    return random_erase(normalise(image, recipe), k_erase, recipe)
