"""A person's box in a whole picture: within its borders, in a model's shape, and cut out."""

from typing import NamedTuple

import numpy as np


class Box(NamedTuple):
    """A region of a picture in pixels as people see it, after EXIF rotation: left, top, size."""

    x: int
    y: int
    width: int
    height: int

    @property
    def corners(self) -> np.ndarray:
        """int64 [4]: left, top, right, bottom."""
        return np.array((self.x, self.y, self.x + self.width, self.y + self.height))


def within(box: np.ndarray, picture_size: tuple[int, int]) -> Box | None:
    """The whole pixels of a box [4] that lie in a picture of (height, width); None if none do.

    box: left, top, right, bottom.
    """
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


def crop(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of a picture within a box, what lies outside the picture left out."""
    if box is None:
        return picture
    rows = slice(max(0, box.y), max(0, box.y + box.height))
    columns = slice(max(0, box.x), max(0, box.x + box.width))
    return picture[rows, columns]


def box_at(image_box: np.ndarray | None, image_id: int) -> Box | None:
    """The box of an image of a split, from int [G,4] or None; None: the image is all of it."""
    if image_box is None or not image_box[image_id, 2]:
        return None
    return Box(*image_box[image_id].tolist())


def cut_out(picture: np.ndarray, box: Box, aspect: float) -> np.ndarray:
    """A person of a whole picture, uint8 [H,W,3], in the shape that a model expects.

    What a gallery embeds of a box, so training and search see the same. aspect: height / width.

    Raises:
      ValueError: the box lies outside the picture.
    """
    height, width = size = (picture.shape[0], picture.shape[1])
    if (inside := within(box.corners, size)) is None:
        raise ValueError(
            f"the box {box.x},{box.y},{box.width},{box.height} lies outside the picture, which has "
            f"{width} x {height} pixels; expected x,y,width,height"
        )
    return crop(picture, fit_aspect(inside, aspect, size))
