"""Patch grids and resizing of learned positional embeddings (spec irra §1.2, §1.6)."""

import math

import jax
import jax.numpy as jnp
import numpy as np


def patch_grid(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches; pixels that do not fill a last patch are dropped."""
    rows, cols = ((size - patch) // stride + 1 for size in image_size)
    if rows < 1 or cols < 1:
        raise ValueError(f"image_size {image_size} is smaller than the patch size {patch}")
    return rows, cols


def resize_pos_embed(
    pos_embed: jax.Array, grid: tuple[int, int], source: tuple[int, int] | None = None
) -> jax.Array:
    """[1+G, D] -> [1+rows*cols, D]; row 0 (class token) is kept.

    Bilinear, half-pixel centres, no antialias, as the released code resizes CLIP's table.
    `source` is the grid of the table; None: a square one. Quirk kept, without `source`: an equal
    token count means no resize, even if the grid differs.

    Raises:
      ValueError: if the table is not of `source`, or has no square grid.
    """
    if source is not None:
        return _resize(pos_embed, grid, source)
    rows, cols = grid
    count = pos_embed.shape[0]
    if count == 1 + rows * cols:
        return pos_embed
    side = math.isqrt(count - 1)
    if side * side != count - 1:
        raise ValueError(
            f"positional embedding has {count - 1} patch rows, not a square grid, "
            f"and cannot be resized to {rows}x{cols}; convert with the stride it was trained with"
        )
    return _resize(pos_embed, grid, (side, side))


def _resize(pos_embed: jax.Array, grid: tuple[int, int], source: tuple[int, int]) -> jax.Array:
    (rows, cols), (count, width) = grid, pos_embed.shape
    if count != 1 + source[0] * source[1]:
        raise ValueError(
            f"positional embedding has {count} rows, expected 1 + {source[0]} x {source[1]}; "
            "state the image size and stride that it was trained with"
        )
    table = pos_embed[1:].reshape(*source, width)
    # The default antialias=True would blur when scaling down (14 -> 8 columns).
    resized = jax.image.resize(table, (rows, cols, width), "bilinear", antialias=False)
    return jnp.concatenate([pos_embed[:1], resized.reshape(rows * cols, width)])


def first_positions(table: np.ndarray, length: int) -> np.ndarray:
    """The first `length` rows of a table of text positions [L, D].

    Raises:
      ValueError: the table is shorter.
    """
    if length > len(table):
        raise ValueError(
            f"text_length is {length}, but the source has {len(table)} text positions; "
            f"use --config.data.text_length={len(table)} or less"
        )
    return table[:length]
