"""Patch grids, and resizing of tables of learned positions to another grid.

Absolute positions as CLIP and the original ViT have them: one row per token, resized by bilinear
interpolation (IRRA: `resize_pos_embed` of model/clip_model.py in its release; IVT:
model/backbones/vit_vl.py). Relative positions as BEiT has them: one row per offset between two
patches, resized by cubic interpolation over geometrically spaced offsets (BEiT v2:
beit2/run_class_finetuning.py in microsoft/unilm; X2-VLM: models/beit2.py).
"""

import math

import jax
import jax.numpy as jnp
import numpy as np

# Rows of a table of relative positions for the class token, behind the rows for the offsets:
# class token to patch, patch to class token, class token to itself.
CLASS_ROWS = 3


def patch_grid(image_size: tuple[int, int], patch: int, stride: int) -> tuple[int, int]:
    """Rows and columns of patches; pixels that do not fill a last patch are dropped.

    Args:
      image_size: height and width in pixels.
      patch: side of a patch in pixels.
      stride: distance between the starts of two neighbouring patches in pixels.

    Raises:
      ValueError: the image is smaller than a patch.
    """
    rows, cols = ((size - patch) // stride + 1 for size in image_size)
    if rows < 1 or cols < 1:
        raise ValueError(f"image_size {image_size} is smaller than the patch size {patch}")
    return rows, cols


def resize_pos_embed(
    pos_embed: jax.Array, grid: tuple[int, int], source: tuple[int, int] | None = None
) -> jax.Array:
    """Resizes a table of absolute positions; row 0 (the class token) is kept.

    Bilinear with half-pixel centres and without antialiasing, as the released code of IRRA and IVT
    resizes the tables of CLIP and ViT. A released quirk is kept when `source` is None: an equal
    number of tokens means no resize, even if the grid differs.

    Args:
      pos_embed: float [1+G,D], row-major over the grid of the table.
      grid: rows and columns of the result.
      source: rows and columns of the table; None for a square grid.

    Returns:
      float [1+rows*cols,D].

    Raises:
      ValueError: the table does not have the size of `source`, or no square grid.
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


def num_relative_distance(grid: tuple[int, int]) -> int:
    """R, the rows of a table of relative positions: every offset, then the class token's rows."""
    rows, cols = grid
    return (2 * rows - 1) * (2 * cols - 1) + CLASS_ROWS


def resize_relative_bias(
    table: np.ndarray, target_grid: tuple[int, int], source_grid: tuple[int, int]
) -> np.ndarray:
    """Resizes a table of relative position biases; the class token's three rows are kept.

    Each axis is resized by itself: `geometric_offsets` spreads the offsets of the source over the
    range of the target, and a cubic spline through them (end condition not-a-knot, as of FITPACK)
    is read at the target's offsets; beyond the last source offset the last value holds. BEiT and
    X2-VLM do the same for square grids and leave a table alone whose size does not change. For
    other grids, which they refuse, that rule is applied to each axis.

    Args:
      table: float [...,R,heads] with R = num_relative_distance(source_grid); any leading axes,
        for example one per layer. Rows are row-major over (vertical, horizontal) offsets, the most
        negative first.
      target_grid: rows and columns of patches of the result.
      source_grid: rows and columns of patches of the table.

    Returns:
      [...,num_relative_distance(target_grid),heads], of the dtype of `table`.

    Raises:
      ValueError: the table does not have the size of `source_grid`.
    """
    table = np.asarray(table)
    if table.ndim < 2 or table.shape[-2] != num_relative_distance(source_grid):
        raise ValueError(
            f"relative position bias has shape {list(table.shape)}, expected "
            f"[..., {num_relative_distance(source_grid)}, heads] for a grid of "
            f"{source_grid[0]} x {source_grid[1]}; state the image size that it was trained with"
        )
    *lead, rows, heads = table.shape
    sides = [2 * size - 1 for size in source_grid]
    offsets = table[..., : rows - CLASS_ROWS, :].reshape(*lead, *sides, heads).astype(np.float64)
    for axis, (target, source) in enumerate(zip(target_grid, source_grid, strict=True), len(lead)):
        offsets = _resample(offsets, axis, source, target)
    resized = offsets.reshape(*lead, -1, heads).astype(table.dtype)
    return np.concatenate([resized, table[..., rows - CLASS_ROWS :, :]], axis=-2)


def geometric_offsets(source: int, target: int) -> np.ndarray:
    """Where the offsets of a source axis stand on the target's axis: float64 [2*source-1].

    In units of the target's patches: 0, +-1, +-(1+q), +-(1+q+q^2), ..., the ratio q in (1.01, 1.5)
    being such that the last of them meets the target's last offset, if it can.

    Args:
      source, target: patches along the axis.
    """
    steps = np.arange(source - 1)
    low, high = 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if np.sum(ratio**steps) > target - 1:
            high = ratio
        else:
            low = ratio
    positive = np.cumsum(ratio**steps)
    return np.concatenate([-positive[::-1], [0.0], positive])


def _resample(offsets: np.ndarray, axis: int, source: int, target: int) -> np.ndarray:
    """`offsets` with 2*target-1 instead of 2*source-1 entries along `axis`."""
    if source == target:
        return offsets
    if source == 1:  # nothing to interpolate between: offset 0 is the only one
        return np.repeat(offsets, 2 * target - 1, axis=axis)
    # Imported here, because half a second is a lot for commands that resize nothing.
    from scipy.interpolate import make_interp_spline

    at = geometric_offsets(source, target)
    wanted = np.clip(np.arange(1 - target, target, dtype=np.float64), at[0], at[-1])
    spline = make_interp_spline(at, offsets, k=min(3, len(at) - 1), axis=axis)
    return spline(wanted)
