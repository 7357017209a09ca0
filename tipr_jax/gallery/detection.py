"""What detectors take and give: frames, the people in them, and the protocol of a detector."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import numpy as np

from tipr_jax.gallery.boxes import without_doubles
from tipr_jax.preprocess.box import Box, within

LEAST_HEIGHT = 40  # pixels; below, no clothes are to be told apart


class Frame(NamedTuple):
    """A photo, or a frame of a video.

    Attributes:
      pixels: uint8 [H,W,3], RGB.
      path: the file, absolute.
      number: of a video's frame, from 0 in the order in which they are shown; None: a photo.
      seconds: from the start of the video; None: a photo.
    """

    pixels: np.ndarray
    path: str = ""
    number: int | None = None
    seconds: float | None = None

    @property
    def size(self) -> tuple[int, int]:
        """(height, width)."""
        return self.pixels.shape[0], self.pixels.shape[1]


class Detection(NamedTuple):
    """A person in a frame: box within the frame, score 0 to 1, and a track where one is known."""

    box: Box
    score: float
    track: int | None = None


class Detector(Protocol):
    """Finds people.

    Attributes:
      name: which detector with which weights. Recorded with every file: what another detector has
        read is read again.
      every: seconds between the frames of a video that are worth its time; 0: all frames.
    """

    name: str
    every: float

    def detect(self, frames: Sequence[Frame]) -> list[list[Detection]]:
        """The people of each frame, best first.

        Raises:
          ValueError: what is known of a frame cannot be.
        """
        ...


def is_a_person(box: Box) -> bool:
    """Whether a network's box can be somebody who is upright and large enough to describe."""
    return box.height >= LEAST_HEIGHT and box.height >= box.width


def people_of(
    boxes: np.ndarray, scores: np.ndarray, least_score: float, frame: Frame
) -> list[Detection]:
    """What a network found in a frame, without double boxes and what can be no person, best first.

    boxes: float [N,4], corners as fractions of the frame. scores: [N], 0 to 1.
    """
    sure = np.flatnonzero(scores >= least_score)
    height, width = frame.size
    boxes = boxes[sure].astype(np.float64) * (width, height, width, height)
    scores = scores[sure]
    found = []
    for i in without_doubles(boxes, scores):
        box = within(boxes[i], frame.size)
        if box is not None and is_a_person(box):
            found.append(Detection(box, float(scores[i])))
    return found
