"""Patch grids and resizing of learned positional embeddings (spec irra §1.2, §1.6)."""

import math

import jax
import jax.numpy as jnp


def patch_grid(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches; pixels that do not fill a last patch are dropped."""
    rows, cols = ((size - patch) // stride + 1 for size in image_size)
    if rows < 1 or cols < 1:
        raise ValueError(f"image_size {image_size} is smaller than the patch size {patch}")
    return rows, cols


def resize_pos_embed(pos_embed: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """[1+G*G, D] of a square grid -> [1+rows*cols, D]; row 0 (class token) is kept.

    Bilinear, half-pixel centres, no antialias, as the released code resizes CLIP's table.
    Quirk kept: an equal token count means no resize, even if the grid differs.

    Raises:
      ValueError: if the number of patch rows is not a square.
    """
    rows, cols = grid
    count, width = pos_embed.shape
    if count == 1 + rows * cols:
        return pos_embed
    side = math.isqrt(count - 1)
    if side * side != count - 1:
        raise ValueError(
            f"positional embedding has {count - 1} patch rows, not a square grid, "
            f"and cannot be resized to {rows}x{cols}; convert with the stride it was trained with"
        )
    square = pos_embed[1:].reshape(side, side, width)
    # The default antialias=True would blur when scaling down (14 -> 8 columns).
    resized = jax.image.resize(square, (rows, cols, width), "bilinear", antialias=False)
    return jnp.concatenate([pos_embed[:1], resized.reshape(rows * cols, width)])
