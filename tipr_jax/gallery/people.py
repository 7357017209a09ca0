"""A person cut out of a picture, in the shape that a model expects."""

from typing import NamedTuple

import numpy as np

from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.preprocess.box import Box, crop, fit_aspect


class PersonCrop(NamedTuple):
    """What a gallery stores and embeds of a person.

    Attributes:
      pixels: uint8 [H,W,3], the picture within the box.
      box: the person and what is around them; None: all of the picture.
      score: of the detector, 0 to 1.
      seconds, track: of a video's frame; None of a photo.
    """

    pixels: np.ndarray
    box: Box | None
    score: float
    seconds: float | None = None
    track: int | None = None


def cut_out(
    frame: Frame, detection: Detection, aspect: float, track: int | None = None
) -> PersonCrop:
    """A person of a frame, the box widened to height / width = aspect."""
    box = fit_aspect(detection.box, aspect, frame.size)
    # A copy, for a view would keep all of the frame in memory.
    pixels = crop(frame.pixels, box).copy()
    return PersonCrop(pixels, box, detection.score, frame.seconds, track)
