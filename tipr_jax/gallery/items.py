"""What a gallery holds: items, the files that they come from, and the models of their vectors."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.preprocess.box import Box

Ids = Sequence[int] | np.ndarray


@dataclasses.dataclass(frozen=True)
class Item:
    """One person of a gallery.

    Attributes:
      content: SHA-256 of the file's bytes, 64 hexadecimal digits.
      path: where the file lies, absolute; "" for a picture that came without a file.
      box: the person within the picture; None: the picture shows one person.
      frame_time: seconds from the start of a video.
      track: number of the person's track within the video.
      camera, time (ISO 8601), tags, meta (any JSON object): what searches filter by.
      id: given by the gallery, never used twice.
      added: when, ISO 8601 in UTC; given by the gallery.
    """

    content: str
    path: str
    box: Box | None = None
    frame_time: float | None = None
    track: int | None = None
    camera: str | None = None
    time: str | None = None
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    id: int = 0
    added: str = ""

    @property
    def region(self) -> str:
        """Which part of the content this is: "" for all of it."""
        frame = "" if self.frame_time is None else f"{self.frame_time:.3f}s"
        return frame + ("" if self.box is None else ":{},{},{},{}".format(*self.box))


class FileState(NamedTuple):
    """What a rescan compares: a file that has not changed is not opened."""

    size: int
    mtime_ns: int
    content: str
    detector: str = ""


class Model(NamedTuple):
    """A model whose vectors a gallery holds; fingerprint: of its weights and preprocessing."""

    id: int
    fingerprint: str
    directory: str
    vector_size: int
    facts: Mapping[str, Any]


BOX = "__box__"  # where the box lies in the JSON of an item
COLUMNS = "item.id, content, path, camera, item.time, frame_time, track, tags, meta, added"


def from_row(row: tuple) -> Item:
    meta = json.loads(row[8])
    box = meta.pop(BOX, None)
    return Item(
        content=row[1].hex(),
        path=loaded(row[2]),
        box=None if box is None else Box(*box),
        frame_time=row[5],
        track=row[6],
        camera=row[3],
        time=row[4],
        tags=tuple(json.loads(row[7])),
        meta=meta,
        id=row[0],
        added=row[9],
    )


def to_row(item: Item) -> tuple[Any, ...]:
    """The values of `COLUMNS`, as SQLite takes them; `from_row` reads them."""
    box = {} if item.box is None else {BOX: list(item.box)}
    return (
        item.id,
        bytes.fromhex(item.content),
        stored(item.path),
        item.camera,
        item.time,
        item.frame_time,
        item.track,
        json.dumps(item.tags, ensure_ascii=False),
        json.dumps(dict(item.meta) | box, ensure_ascii=False),
        item.added,
    )


def stored(path: str) -> str | bytes:
    """A path as SQLite takes it: file names are bytes on Linux, and not all of them are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def loaded(path: str | bytes) -> str:
    return os.fsdecode(path)
