"""The picture of an item: the photo, or the person's box within it, as the model sees it."""

import numpy as np

from tipr_jax.gallery.store import Box, Item
from tipr_jax.preprocess import image as preprocess


def picture_of(item: Item) -> np.ndarray:
    """The item's person: uint8 [H,W,3].

    Raises:
      FileNotFoundError, ValueError: the file is gone, damaged, or not an image.
    """
    return crop(whole_picture(item), item.box)


def whole_picture(item: Item) -> np.ndarray:
    """All of the photo that the item is in: uint8 [H,W,3]. Errors as `picture_of`."""
    return preprocess.decode(item.path)


def crop(picture: np.ndarray, box: Box | None) -> np.ndarray:
    """The part of a picture within a box, what lies outside the picture left out."""
    if box is None:
        return picture
    rows = slice(max(0, box.y), max(0, box.y + box.height))
    columns = slice(max(0, box.x), max(0, box.x + box.width))
    return picture[rows, columns]
