"""What Ray's workers do for `ray_adding`: ids of files in, a row of each file out.

A row is whole: what a gallery stores of the file, or why it cannot be searched.
"""

import dataclasses
import functools
import json
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.gallery.adding import Embedded, FileEmbedder
from tipr_jax.gallery.detect import make_detector
from tipr_jax.gallery.models import open_model
from tipr_jax.gallery.photos import Skipped
from tipr_jax.gallery.store import Box, FileState, Item

People = list[tuple[Item, np.ndarray]]  # of a file, with their unit vectors [C]


class Worker:
    """A process of Ray's: loads the model once, and embeds one block of files after another."""

    def __init__(
        self, directory: str, language: str, fingerprint: str, detect: str, facts: dict[str, Any]
    ):
        self.directory, self.language, self.fingerprint = directory, language, fingerprint
        self.detect, self.facts = detect, facts

    @functools.cached_property
    def _parts(self) -> tuple[Any, Any]:
        """(model, detector). Loaded here, where errors come back as they are."""
        model = open_model(self.directory, self.language)
        if model.fingerprint != self.fingerprint:
            raise ValueError(
                f"{self.directory} holds another model on the worker than here; let both see the "
                "same directory"
            )
        return model, make_detector(self.detect)

    def __call__(self, block: Mapping[str, Sequence[bytes]]) -> dict[str, list]:
        """Ids of files [n] -> their rows as columns."""
        paths = {path_of(key): key for key in block["id"]}
        embed = FileEmbedder(*self._parts, self.facts)
        people: dict[str, People] = {path: [] for path in paths}
        files: dict[str, FileState] = {}
        for part in embed([*paths]):
            for item, vector in zip(part.items, part.vectors, strict=True):
                people[item.path].append((item, vector))
            files |= part.files
        skipped = {item.path: item for item in embed.skipped}
        rows = [
            to_row(key, people[path], files.get(path), skipped.get(path))
            for path, key in paths.items()
        ]
        return {name: [row[name] for row in rows] for name in ("id", "found", "vectors")}


def work_id(path: str) -> bytes:
    """What a row is known by: the file as it is now. Names are bytes and may be no UTF-8."""
    try:
        status = os.stat(path)
        state = f"{status.st_size},{status.st_mtime_ns}"
    except OSError:  # it has vanished; the worker says so
        state = "-"
    return f"{state}:".encode() + os.fsencode(path)


def path_of(key: bytes) -> str:
    return os.fsdecode(key.partition(b":")[2])


def to_row(
    key: bytes, people: People, state: FileState | None, skipped: Skipped | None
) -> dict[str, bytes | str]:
    """A file's row: id; JSON of all but the vectors; the vectors, float16 [N,C] as a gallery has.

    The JSON is ASCII, for Arrow's strings cannot hold file names that are no UTF-8.
    """
    items = [dataclasses.asdict(item) for item, _ in people]
    vectors = b"".join(np.asarray(vector, np.float16).tobytes() for _, vector in people)
    found = {"items": items, "state": state, "skipped": skipped}
    return {"id": key, "found": json.dumps(found), "vectors": vectors}


def from_row(row: Mapping[str, Any]) -> tuple[Embedded, Skipped | None]:
    """What a gallery stores of a file, and why the file is searched no further."""
    found = json.loads(row["found"])
    items = [_item(fields) for fields in found["items"]]
    flat = np.frombuffer(row["vectors"], np.float16)
    vectors = flat.reshape(len(items), -1) if items else flat.reshape(0, 0)
    state, skipped = found["state"], found["skipped"]
    files = {path_of(row["id"]): FileState(*state)} if state else {}
    return Embedded(items, vectors, files), skipped and Skipped(*skipped)


def _item(fields: dict[str, Any]) -> Item:
    box = fields["box"] and Box(*fields["box"])
    return Item(**fields | {"box": box, "tags": tuple(fields["tags"])})
