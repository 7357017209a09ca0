"""Image normalisation and augmentation, uint8 in, float32 out (spec irra §4.5).

Order of the released recipe: flip, pad and crop, normalise, erase.
"""

import jax
import jax.numpy as jnp

from tipr_jax.preprocess.image import CLIP_MEAN, CLIP_STD

PAD = 10  # pixels, at 384x128
ERASE_AREA = (0.02, 0.4)
ERASE_RATIO = (0.3, 3.3)
ERASE_TRIES = 10


def normalise(image: jax.Array) -> jax.Array:
    """uint8 [...,3] -> float32 with CLIP's mean and standard deviation."""
    mean, std = jnp.asarray(CLIP_MEAN, jnp.float32), jnp.asarray(CLIP_STD, jnp.float32)
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


def random_erase(image: jax.Array, key: jax.Array) -> jax.Array:
    """Erases one rectangle per normalised image [B,H,W,3] with probability 0.5.

    Up to ten draws of area and aspect, the first that fits is used, none fitting leaves the image
    (torchvision's law). The value is the CLIP mean triple, written into the NORMALISED image:
    a released quirk, kept.
    """
    b, h, w, _ = image.shape
    k_do, k_area, k_ratio, k_at = jax.random.split(key, 4)
    area = (
        h
        * w
        * jax.random.uniform(k_area, (b, ERASE_TRIES), minval=ERASE_AREA[0], maxval=ERASE_AREA[1])
    )
    log_low, log_high = jnp.log(jnp.asarray(ERASE_RATIO))
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
    do = jnp.any(fits, axis=1) & jax.random.bernoulli(k_do, 0.5, (b,))
    erase = inside_y[:, :, None] & inside_x[:, None, :] & do[:, None, None]
    return jnp.where(erase[..., None], jnp.asarray(CLIP_MEAN, image.dtype), image)


def augment_images(image: jax.Array, key: jax.Array) -> jax.Array:
    """The training transform: uint8 [B,H,W,3] -> normalised float32 [B,H,W,3].

    The padding is 10 pixels at the paper's height of 384 and scales with the image.
    """
    k_flip, k_crop, k_erase = jax.random.split(key, 3)
    pad = max(1, round(PAD * image.shape[1] / 384))
    image = random_crop(random_flip(image, k_flip), k_crop, pad)
    return random_erase(normalise(image), k_erase)
