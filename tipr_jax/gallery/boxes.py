"""Geometry of boxes: overlap, double boxes, and the shape that a model expects.

Arrays of boxes are float [N,4] with left, top, right and bottom in pixels; the people that come out
of them are `store.Box`, whole pixels within the picture.
"""

import numpy as np

from tipr_jax.gallery.store import Box


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


def within(box: np.ndarray, picture_size: tuple[int, int]) -> Box | None:
    """The whole pixels of a box [4] that lie in a picture of (height, width); None if none do."""
    height, width = picture_size
    limit = np.array([width, height, width, height])
    left, top, right, bottom = np.clip(np.rint(box), 0, limit).astype(int).tolist()
    if right <= left or bottom <= top:
        return None
    return Box(left, top, right - left, bottom - top)


def fit_aspect(box: Box, aspect: float, picture_size: tuple[int, int]) -> Box:
    """The box with what is around it, until it has the shape that a model expects.

    Nothing of the box is lost. It grows to both sides alike, but not beyond the picture: there it
    is moved, and where the picture is too small the shape stays another one.

    Args:
      box: within the picture.
      aspect: height / width to reach.
      picture_size: (height, width).
    """
    height = min(max(box.height, round(box.width * aspect)), picture_size[0])
    width = min(max(box.width, round(box.height / aspect)), picture_size[1])
    x = box.x - (width - box.width) // 2
    y = box.y - (height - box.height) // 2
    x = min(max(x, 0), picture_size[1] - width)
    y = min(max(y, 0), picture_size[0] - height)
    return Box(x, y, width, height)


def touches_border(box: Box, picture_size: tuple[int, int], margin: int = 2) -> bool:
    """Whether the person in a box may go on beyond the picture; margin in pixels."""
    height, width = picture_size
    right, bottom = width - box.x - box.width, height - box.y - box.height
    return min(box.x, box.y, right, bottom) < margin
