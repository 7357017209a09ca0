"""What to read of a folder: the files that a gallery does not know, or that have changed."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from tipr_jax.gallery.store import FileState
from tipr_jax.preprocess.image import MAX_BYTES, ImageTooLargeError


class Changes(NamedTuple):
    """Absolute paths, sorted: `new` and `changed` are to be read, `vanished` are not there."""

    new: list[str]
    changed: list[str]
    same: list[str]
    vanished: list[str]


def compare(
    found: Iterable[str], known: Mapping[str, FileState], detector: str, root: str = ""
) -> Changes:
    """Sorts files by what is recorded of them, by size and time of change, without opening them.

    found: absolute paths. known: what the gallery recorded. detector: which one is used now; a
    file that another one read is read again. root: the folder that was looked through; recorded
    files below it that were not found have vanished.
    """
    changes, seen = Changes([], [], [], []), set()
    for path in sorted(found):
        seen.add(path)
        before = known.get(path)
        if before is None:
            changes.new.append(path)
            continue
        status = os.stat(path)
        now = (status.st_size, status.st_mtime_ns, detector)
        same = now == (before.size, before.mtime_ns, before.detector)
        (changes.same if same else changes.changed).append(path)
    if root:
        below = os.path.join(root, "")
        gone = (path for path in known if path.startswith(below) and path not in seen)
        changes.vanished.extend(sorted(path for path in gone if not os.path.lexists(path)))
    return changes


def read(path: str, detector: str) -> tuple[bytes, FileState]:
    """A file's bytes, and what is to be recorded of it.

    The time of change is taken before the bytes, so a file that is written meanwhile is read again
    by the next scan.

    Raises:
      OSError: the file cannot be read.
      ImageTooLargeError: it is larger than any photo.
    """
    status = os.stat(path)
    if status.st_size > MAX_BYTES:
        raise ImageTooLargeError(f"{path}: {status.st_size} bytes, expected at most {MAX_BYTES}")
    with open(path, "rb") as file:
        data = file.read()
    content = hashlib.sha256(data).hexdigest()
    return data, FileState(status.st_size, status.st_mtime_ns, content, detector)


def hashed(path: str, detector: str) -> FileState:
    """What is to be recorded of a file too large for the memory. Raises OSError as `open`."""
    status = os.stat(path)
    with open(path, "rb") as file:
        content = hashlib.file_digest(file, "sha256").hexdigest()
    return FileState(status.st_size, status.st_mtime_ns, content, detector)
