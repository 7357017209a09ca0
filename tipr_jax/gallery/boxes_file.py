"""Boxes that something else has found: a CSV file with a header line, or JSON lines.

  file,frame,x,y,w,h,track,score
  hall.jpg,,212,80,64,170,,0.91
  street.mp4,0,30,41,38,96,1,0.88
  street.mp4,1,33,41,38,96,1,0.90

| column | meaning |
|---|---|
| file | the photo or video; relative paths start at the folder of the boxes file |
| frame | of a video: the number of the frame, from 0; empty for a photo |
| seconds | of a video, instead of `frame`: the time of the frame, to a thousandth |
| x, y, w, h | left, top, width and height in pixels of the upright picture |
| track | optional: a whole number, the same for the same person within a video |
| score | optional: 0 to 1, how sure the detector was; 1 if absent |

A file without a line shows nobody. JSON lines have the same names as fields of one object a line.
"""

import csv
import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.paths import no_such_path
from tipr_jax.preprocess.box import within

NEEDED = ("file", "x", "y", "w", "h")
OPTIONAL = ("frame", "seconds", "track", "score")


class Row(NamedTuple):
    """A line of the file; box: left, top, right, bottom."""

    line: int
    path: str
    frame: int | None
    seconds: float | None
    box: tuple[float, float, float, float]
    track: int | None
    score: float


class BoxesFile:
    """The detector `file:BOXES.csv`."""

    every = 0.0

    def __init__(self, path: str, name: str, rows: Sequence[Row]):
        self.path, self.name = path, name
        self._rows: dict[str, list[Row]] = {}
        for row in rows:
            self._rows.setdefault(row.path, []).append(row)

    @classmethod
    def load(cls, path: str | Path) -> "BoxesFile":
        """Reads all of it.

        Raises:
          ValueError: a line that cannot be, by its number.
          FileNotFoundError: none of the photos and videos is there.
        """
        data = Path(path).read_bytes()
        rows = list(_rows(str(path), data))
        _check_tracks(str(path), rows)
        if rows and not any(os.path.exists(row.path) for row in rows):
            first = f"{path} line {rows[0].line}: "
            raise FileNotFoundError(first + no_such_path(rows[0].path, "photo or video"))
        return cls(str(path), f"boxes:{hashlib.sha256(data).hexdigest()[:12]}", rows)

    def detect(self, frames: Sequence[Frame]) -> list[list[Detection]]:
        """As `Detector.detect`; a box that lies outside its picture is an error by its line."""
        return [self._of(frame) for frame in frames]

    def _of(self, frame: Frame) -> list[Detection]:
        rows = [r for r in self._rows.get(_same(frame.path), ()) if self._shows(r, frame)]
        found = []
        for row in sorted(rows, key=lambda row: -row.score):
            box = within(np.array(row.box), frame.size)
            if box is None:
                height, width = frame.size
                raise ValueError(
                    f"{self.path} line {row.line}: the box lies outside {frame.path}, which has "
                    f"{width} x {height} pixels"
                )
            found.append(Detection(box, row.score, row.track))
        return found

    def _shows(self, row: Row, frame: Frame) -> bool:
        """Whether a line of the frame's file is about the frame."""
        timed = row.frame is not None or row.seconds is not None
        if timed != (frame.number is not None):
            kind = "a photo, so frame and seconds stay empty"
            if not timed:
                kind = "a video, so say which frame, or its time in seconds"
            raise ValueError(f"{self.path} line {row.line}: {frame.path} is {kind}")
        if row.seconds is not None and frame.seconds is not None:
            return round(row.seconds, 3) == round(frame.seconds, 3)
        return row.frame == frame.number


def _rows(name: str, data: bytes) -> Iterator[Row]:
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name}: not a text file in UTF-8 ({error.reason})") from None
    folder = os.path.dirname(os.path.abspath(name))
    read = _json_lines if name.endswith((".jsonl", ".json")) else _csv_lines
    for line, fields in read(name, text):
        try:
            yield _row(line, fields, folder)
        except ValueError as error:
            raise ValueError(f"{name} line {line}: {error}") from None


def _csv_lines(name: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    reader = csv.DictReader(text.splitlines())
    _check_names(f"{name} line 1", [(c or "").strip() for c in reader.fieldnames or []])
    for fields in reader:
        if None in fields or None in fields.values():
            count = len(reader.fieldnames or [])
            raise ValueError(f"{name} line {reader.line_num}: expected {count} values")
        yield reader.line_num, {c.strip(): value.strip() for c, value in fields.items()}


def _json_lines(name: str, text: str) -> Iterator[tuple[int, Mapping[str, Any]]]:
    for line, part in enumerate(text.splitlines(), 1):
        if not part.strip():
            continue
        try:
            fields = json.loads(part)
        except ValueError as error:
            raise ValueError(f"{name} line {line}: not JSON ({error})") from None
        if not isinstance(fields, dict):
            raise ValueError(f'{name} line {line}: expected an object, as in {{"file": ...}}')
        _check_names(f"{name} line {line}", [*fields])
        yield line, fields


def _check_names(where: str, names: Sequence[str]) -> None:
    missing = [name for name in NEEDED if name not in names]
    unknown = [name for name in names if name not in NEEDED + OPTIONAL]
    if missing or unknown or len(set(names)) < len(names):
        found = ", ".join(names) or "nothing"
        raise ValueError(
            f"{where}: found the columns {found}; expected {', '.join(NEEDED)} and perhaps "
            f"{', '.join(OPTIONAL)}"
        )


def _row(line: int, fields: Mapping[str, Any], folder: str) -> Row:
    file = fields["file"]
    if not isinstance(file, str) or not file or "\0" in file:
        raise ValueError(f"file is {file!r}, expected a path")
    x, y, w, h = (_number(fields, name) for name in ("x", "y", "w", "h"))
    if w <= 0 or h <= 0:
        raise ValueError(f"the box is {w:g} wide and {h:g} high, expected more than 0")
    frame, track = _whole(fields, "frame"), _whole(fields, "track")
    seconds = None if _is_empty(fields, "seconds") else _number(fields, "seconds")
    if frame is not None and seconds is not None:
        raise ValueError("frame and seconds are both given, expected one of them")
    if min(frame or 0, seconds or 0, track or 0) < 0:
        raise ValueError("frame, seconds or track is negative")
    score = 1.0 if _is_empty(fields, "score") else _number(fields, "score")
    if not 0 <= score <= 1:
        raise ValueError(f"score is {score:g}, expected 0 to 1")
    path = _same(os.path.join(folder, file))
    return Row(line, path, frame, seconds, (x, y, x + w, y + h), track, score)


def _same(path: str) -> str:
    """One spelling for one file, whatever links and dots lead to it."""
    return os.path.realpath(path)


def _is_empty(fields: Mapping[str, Any], name: str) -> bool:
    return fields.get(name) in (None, "")


def _number(fields: Mapping[str, Any], name: str) -> float:
    value = fields[name]
    try:
        number = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(f"{name} is {value!r}, expected a number")
    return number


def _whole(fields: Mapping[str, Any], name: str) -> int | None:
    if _is_empty(fields, name):
        return None
    number = _number(fields, name)
    if number != int(number):
        raise ValueError(f"{name} is {number:g}, expected a whole number")
    return int(number)


def _check_tracks(name: str, rows: Sequence[Row]) -> None:
    """Raises ValueError for a track twice in a frame, or in some lines of a file alone."""
    first: dict[str, Row] = {}
    seen: dict[tuple, Row] = {}
    for row in rows:
        known = first.setdefault(row.path, row)
        if (known.track is None) != (row.track is None):
            raise ValueError(
                f"{name} line {row.line}: lines {known.line} and {row.line} are of one file, but "
                "only one of them has a track; give it in all lines or in none"
            )
        key = (row.path, row.frame, row.seconds, row.track)
        before = seen.setdefault(key, row)
        if row.track is not None and before is not row:
            raise ValueError(
                f"{name} line {row.line}: track {row.track} is in line {before.line} already, in "
                "the same frame"
            )
