"""Geometry of boxes: overlap, double boxes, and whether they touch the border.

Arrays of boxes are float [N,4] with left, top, right and bottom in pixels; the people that come out
of them are `preprocess.box.Box`, whole pixels within the picture.
"""

import numpy as np

from tipr_jax.preprocess.box import Box


def corners(boxes: list[Box]) -> np.ndarray:
    """float64 [N,4] of boxes."""
    rows = [(b.x, b.y, b.x + b.width, b.y + b.height) for b in boxes]
    return np.array(rows, np.float64).reshape(-1, 4)


def overlaps(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair: [N,4] and [M,4] -> float64 [N,M], 0 to 1."""
    top_left = np.maximum(a[:, None, :2], b[None, :, :2])
    bottom_right = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(bottom_right - top_left, 0, None), axis=-1)
    areas = [np.prod(np.clip(c[:, 2:] - c[:, :2], 0, None), axis=-1) for c in (a, b)]
    union = areas[0][:, None] + areas[1][None] - shared
    return np.where(union > 0, shared / np.where(union > 0, union, 1), 0.0)


def without_doubles(boxes: np.ndarray, scores: np.ndarray, most: float = 0.5) -> np.ndarray:
    """Non-maximum suppression: which boxes to keep, best first, int64 [K].

    A box goes when it overlaps one that is kept by more than `most`. boxes [N,4], scores [N]; equal
    scores in the order given.
    """
    left, kept = np.argsort(-scores, kind="stable"), []
    while len(left):
        best, rest = left[0], left[1:]
        kept.append(best)
        left = rest[overlaps(boxes[best][None], boxes[rest])[0] <= most]
    return np.array(kept, np.int64)


def touches_border(box: Box, picture_size: tuple[int, int], margin: int = 2) -> bool:
    """Whether the person in a box may go on beyond the picture; margin in pixels."""
    height, width = picture_size
    right, bottom = width - box.x - box.width, height - box.y - box.height
    return min(box.x, box.y, right, bottom) < margin
