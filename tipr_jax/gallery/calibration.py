"""How far a score can be trusted: false alarms and misses of every line, on labelled photos.

A line at a score is for people's eyes: an answer never hides what lies below it. Two mistakes are
counted on sentences about known people. A miss: the best photo of the person lies below the line.
A false alarm: with the person's photos left out, another photo lies above it. The more photos there
are, the better the best wrong one is, so a line from 400 photos gives more false alarms in 10,000.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

RELIABLE_AUC = 0.8
POINTS = 200  # of a stored curve


class Curve(NamedTuple):
    """Mistakes at every line, scores ascending; shares of the queries, in 0 to 1.

    auc: the chance that a person's best photo has a larger score than the best photo of the others
    for another sentence: 1 is perfect, 0.5 is guessing.
    """

    score: np.ndarray
    false_alarms: np.ndarray
    misses: np.ndarray
    auc: float

    @property
    def reliable(self) -> bool:
        return self.auc >= RELIABLE_AUC

    def at(self, false_alarms: float) -> tuple[float, float, float]:
        """(score, false alarms, misses) of the lowest line with at most so many false alarms.

        Raises:
          ValueError: a share outside 0 to 1.
        """
        if not 0 <= false_alarms <= 1:
            raise ValueError(f"the false-alarm rate is {false_alarms}, expected 0 to 1, as in 0.05")
        i = int(np.argmax(self.false_alarms <= false_alarms))
        return float(self.score[i]), float(self.false_alarms[i]), float(self.misses[i])

    def as_stored(self) -> dict[str, Any]:
        """As JSON has it; `from_stored` reads it."""
        return {name: np.asarray(value).tolist() for name, value in self._asdict().items()}


def from_stored(stored: Mapping[str, Any]) -> Curve:
    """The curve that `Curve.as_stored` wrote."""
    arrays = (np.array(stored[name]) for name in ("score", "false_alarms", "misses"))
    return Curve(*arrays, auc=float(stored["auc"]))


def curve(scores: np.ndarray, right: np.ndarray) -> Curve:
    """From the scores of every query with every photo.

    Args:
      scores: float [Q,G]; -inf for a photo that was not scored.
      right: bool [Q,G], whether the photo shows the query's person.

    Raises:
      ValueError: no query whose person is in the photos, or none with a photo of somebody else.
    """
    usable = right.any(1) & (~right).any(1)
    if not usable.any():
        raise ValueError("calibration needs sentences about people in the photos, and other people")
    scores, right = scores[usable], right[usable]
    present = np.sort(np.where(right, scores, -np.inf).max(1))
    absent = np.sort(np.where(right, -np.inf, scores).max(1))
    finite = np.concatenate([present, absent])
    finite = finite[np.isfinite(finite)]
    line = np.quantile(finite, np.linspace(0, 1, POINTS))
    line = np.append(line, np.nextafter(line[-1], np.inf))  # above everything: no false alarm
    misses = np.searchsorted(present, line) / len(present)
    false_alarms = 1 - np.searchsorted(absent, line) / len(absent)
    return Curve(line, false_alarms, misses, auc(present, absent))


def auc(present: np.ndarray, absent: np.ndarray) -> float:
    """The chance that one of `present` [N] is larger than one of `absent` [M]; equal ones: half."""
    absent = np.sort(absent)
    below = np.searchsorted(absent, present) + np.searchsorted(absent, present, side="right")
    return float(below.sum() / 2 / len(present) / len(absent))


def table(curve: Curve, rates: tuple[float, ...] = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)) -> list[str]:
    """Lines for a terminal: the score, false alarms and misses at some rates."""
    rows = [curve.at(rate) for rate in rates]
    head = f"{'line at score':>14}{'false alarms':>14}{'misses':>9}"
    return [head, *(f"{s:14.3f}{100 * f:13.1f}%{100 * m:8.1f}%" for s, f, m in rows)]
