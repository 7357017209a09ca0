"""The picture of an item: the photo, or the person's box within it, as the model sees it."""

import numpy as np
from PIL import Image, ImageDraw

from tipr_jax.gallery import video
from tipr_jax.gallery.store import Item
from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import Box, crop

LINE = (255, 196, 0)  # of the box: amber is seen on light and on dark clothes


def picture_of(item: Item) -> np.ndarray:
    """The item's person: uint8 [H,W,3].

    Raises:
      FileNotFoundError, ValueError: the file is gone, damaged, or not an image.
    """
    return crop(whole_picture(item), item.box)


def whole_picture(item: Item) -> np.ndarray:
    """All of the photo or frame that the item is in: uint8 [H,W,3]. Errors as `picture_of`."""
    if item.frame_time is not None:
        return video.frame_at(item.path, item.frame_time)
    return preprocess.decode(item.path)


def in_its_frame(item: Item) -> np.ndarray:
    """The person with what is around them, and the box drawn: uint8 [H,W,3].

    An item without a box is all of its picture. Errors as `picture_of`.
    """
    picture = whole_picture(item)
    if item.box is None:
        return picture
    x, y, width, height = item.box
    drawn = Image.fromarray(picture)
    thickness = max(1, height // 60)
    ImageDraw.Draw(drawn).rectangle((x, y, x + width, y + height), outline=LINE, width=thickness)
    around = Box(x - width // 2, y - height // 4, 2 * width, height + height // 2)
    return crop(np.asarray(drawn), around)
