"""The people of a video: boxes of consecutive frames become tracks, which keep their best crops.

A track is expected where its last box would be if the person had walked on. A box belongs to the
track whose expected box it overlaps most (intersection over union), the best pairs first; a box
that overlaps none begins a track. A gallery holds one crop of every `SPAN_S` seconds of a track
instead of one of every frame: the largest and surest of a person whom the picture's border does
not cut off.
"""

import dataclasses
import functools
import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import video
from tipr_jax.gallery.boxes import corners, overlaps, touches_border
from tipr_jax.gallery.detection import Detection, Detector, Frame
from tipr_jax.gallery.people import PersonCrop, cut_out

LEAST_OVERLAP = 0.2  # boxes breathe with the steps of those who walk
PATIENCE_S = 2.0  # how long somebody may be hidden and still be the same track
SPAN_S = 10.0  # people turn around: a long track is worth more than one crop
BATCH = 8  # frames that a detector sees at once


def people_in_video(
    detector: Detector, path: str | Path, aspect: float, every: float | None = None
) -> Iterator[PersonCrop]:
    """The best crops of every track of a video, in the order in which they become certain.

    With a progress bar on a terminal.

    Args:
      detector: finds people in frames.
      path: the video.
      aspect: height / width of the crops, as the model expects.
      every: seconds between the frames that are looked at; default: what the detector is worth.

    Raises:
      ValueError, OSError, ModuleNotFoundError: as `video.frames` and `Detector.detect`.
    """
    tracker = Tracker(aspect)
    frames = video.frames(path, detector.every if every is None else every)
    name, total = os.path.basename(path), video.duration(path)
    with tqdm(desc=name, total=total, unit="s", leave=False, disable=None) as bar:
        while batch := list(itertools.islice(frames, BATCH)):
            for frame, found in zip(batch, detector.detect(batch), strict=True):
                yield from tracker.update(frame, found)
            bar.update(int(batch[-1].seconds or 0) - bar.n)
    yield from tracker.finish()


@dataclasses.dataclass
class _Track:
    """Somebody who may still be there; worth: of `best`, the best crop since `span_start`."""

    corners: np.ndarray  # [4], of the last box
    speed: np.ndarray  # [2], pixels a second to the right and down
    last_seen: float
    span_start: float
    worth: tuple[bool, float]
    best: PersonCrop

    def expected(self, now: float) -> np.ndarray:
        """Where the box is now, if the person goes on as before: [4]."""
        return self.corners + np.tile(self.speed, 2) * (now - self.last_seen)

    def move(self, corners: np.ndarray, now: float) -> None:
        """Takes over the box of a later frame."""
        seconds = now - self.last_seen
        if seconds > 0:  # damaged videos have two frames at one time
            step = (corners - self.corners).reshape(2, 2).mean(axis=0) / seconds
            self.speed = (self.speed + step) / 2  # one frame's boxes alone are too unsteady
        self.corners, self.last_seen = corners, now


class Tracker:
    """Feed it the frames of one video in order; it gives back the crops worth keeping.

    aspect: height / width of the crops.
    """

    def __init__(self, aspect: float):
        self._aspect = aspect
        self._live: dict[int, _Track] = {}
        self._count = 0

    def update(self, frame: Frame, detections: Sequence[Detection]) -> list[PersonCrop]:
        """Takes the people of the next frame; returns the best crops that are now certain."""
        now, found = frame.seconds or 0.0, corners([d.box for d in detections])
        ended = [n for n, track in self._live.items() if now - track.last_seen > PATIENCE_S]
        done = [self._live.pop(number).best for number in ended]
        for i, number in enumerate(self._numbers(detections, found, now)):
            track, worth = self._live.get(number), _worth(frame, detections[i])
            crop = functools.partial(cut_out, frame, detections[i], self._aspect, number)
            if track is None:
                self._live[number] = _Track(found[i], np.zeros(2), now, now, worth, crop())
                continue
            track.move(found[i], now)
            if now - track.span_start >= SPAN_S:
                done.append(track.best)
                track.span_start, track.worth, track.best = now, worth, crop()
            elif worth > track.worth:
                track.worth, track.best = worth, crop()
        return done

    def finish(self) -> list[PersonCrop]:
        """The best crops of the tracks that last until the end of the video."""
        done = [track.best for track in self._live.values()]
        self._live.clear()
        return done

    def _numbers(self, detections: Sequence[Detection], found: np.ndarray, now: float) -> list[int]:
        """The track of each detection: its own, or the one that it continues, or a new one."""
        numbers = [d.track for d in detections]
        live = list(self._live)
        expected = [self._live[number].expected(now) for number in live]
        shared = overlaps(np.array(expected).reshape(-1, 4), found)
        for flat in np.argsort(-shared, axis=None, kind="stable"):
            row, column = divmod(int(flat), len(detections))
            if shared[row, column] < LEAST_OVERLAP:
                break
            if numbers[column] is None and live[row] not in numbers:
                numbers[column] = live[row]
        return [self._new() if number is None else number for number in numbers]

    def _new(self) -> int:
        self._count += 1
        return self._count


def _worth(frame: Frame, detection: Detection) -> tuple[bool, float]:
    """What the best crop has most of: not cut off by the border, then score x height."""
    whole = not touches_border(detection.box, frame.size)
    return whole, detection.score * detection.box.height
