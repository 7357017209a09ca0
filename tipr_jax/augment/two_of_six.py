"""Bi-IRRA's image transform (spec bi_irra §4.2). UNFINISHED: none of its six operations is here."""

import jax
import jax.numpy as jnp

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)


def normalise(image: jax.Array) -> jax.Array:
    """uint8 [...,3] -> float32 with ImageNet's mean and standard deviation."""
    mean, std = jnp.asarray(MEAN, jnp.float32), jnp.asarray(STD, jnp.float32)
    return (image.astype(jnp.float32) / 255.0 - mean) / std


def augment(image: jax.Array, key: jax.Array) -> jax.Array:
    """uint8 [B,H,W,3] -> normalised float32 [B,H,W,3]; UNFINISHED: nothing is drawn yet."""
    del key
    return normalise(image)
