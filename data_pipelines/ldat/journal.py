"""What a stage has finished: an append-only file with a JSON object per line, found by its key.

Keys are SHA-256 in hexadecimal. In memory are 16 bytes per line: the beginning of the key and
where the line starts. A line counts once it ends with a line feed; what a killed process left
behind the last one is cut off when the file is opened for writing.
"""

import bisect
import hashlib
import json
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

KeyOf = Callable[[Any], str]
_SETTLE = 1 << 16  # keys that wait in a set before they are sorted in


def content_key(*parts: Any) -> str:
    """SHA-256 of values that JSON can write."""
    text = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class KeySet:
    """A set of keys at 8 bytes each. Two keys that begin alike, 1 in 10^19 pairs, are taken as one.

    A million captions meet such a pair with a chance of 1 in 10^7.
    """

    def __init__(self, keys: Iterable[str] = ()):
        self._sorted = array("Q")
        self._recent: set[int] = set()
        for key in keys:
            self.add(key)

    def add(self, key: str) -> None:
        self._recent.add(_short(key))
        if len(self._recent) >= _SETTLE:
            recent = np.fromiter(self._recent, np.uint64)
            self._sorted = array("Q", np.union1d(_view(self._sorted), recent).tobytes())
            self._recent.clear()

    def __contains__(self, key: str) -> bool:
        short = _short(key)
        at = bisect.bisect_left(self._sorted, short)
        return short in self._recent or self._sorted[at : at + 1] == array("Q", [short])


def _own_key(record: Any) -> str:
    return record["key"]


class Lines:
    """The finished lines of a file as they are now, to be looked up; the last of a key counts.

    key_of: makes a record's key; a TypeError or KeyError of it says that the record has another
      form.

    Raises:
      ValueError: as `scan`.
    """

    def __init__(self, path: Path, key_of: KeyOf = _own_key):
        self._key_of = key_of
        keys, offsets = array("Q"), array("Q")
        for offset, record in scan(path, key_of):
            keys.append(_short(key_of(record)))
            offsets.append(offset)
        order = np.argsort(_view(keys), kind="stable")
        self._keys = array("Q", _view(keys)[order].tobytes())
        self._offsets = array("Q", _view(offsets)[order].tobytes())
        self._file = open(path, "rb") if path.exists() else None  # noqa: SIM115  # closed below

    def __enter__(self) -> "Lines":
        return self

    def __exit__(self, *error: object) -> None:
        if self._file:
            self._file.close()

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> dict[str, Any] | None:
        """The record of a key; None if there is none."""
        short = _short(key)
        at = bisect.bisect_right(self._keys, short) - 1
        while at >= 0 and self._keys[at] == short:
            assert self._file is not None
            self._file.seek(self._offsets[at])
            record = json.loads(self._file.readline())
            if self._key_of(record) == key:
                return record
            at -= 1
        return None


class Journal:
    """A journal opened for writing, by one process at a time.

    Raises:
      ValueError: another process writes it, or a line in the middle is damaged.
    """

    def __init__(self, path: Path):
        import fcntl  # Unix only

        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = open(path, "ab")  # noqa: SIM115  # closed in __exit__
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.close()
            raise ValueError(
                f"{path} is being written by another process; wait for it, or stop it"
            ) from None
        self._file.truncate(_end_of_last_line(path))
        self.keys = KeySet(record["key"] for _, record in scan(path))

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, records: Iterable[Mapping[str, Any]]) -> None:
        """Writes records, each with its `key`, and returns when they are on the disk."""
        records = list(records)
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        self._file.write(text.encode("utf-8", "surrogatepass"))
        self._file.flush()
        os.fsync(self._file.fileno())
        for record in records:
            self.keys.add(record["key"])


def scan(path: Path, key_of: KeyOf = _own_key) -> Iterator[tuple[int, Any]]:
    """(offset, record) of every finished line; nothing where there is no file.

    Raises:
      ValueError: a line before the last is no JSON object with a key.
    """
    if not path.exists():
        return
    offset = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                _short(key_of(record))
            except (ValueError, TypeError, KeyError, AttributeError):
                if not line.endswith(b"\n"):
                    return  # a process was killed while it wrote
                raise ValueError(
                    f"{path}: line {number} is no JSON object of the expected form: correct it, "
                    "or delete the line"
                ) from None
            yield offset, record
            offset += len(line)


def _end_of_last_line(path: Path) -> int:
    """The number of bytes up to the last line feed, sought from the end."""
    with open(path, "rb") as file:
        end = file.seek(0, os.SEEK_END)
        while end:
            start = max(0, end - (1 << 16))
            file.seek(start)
            found = file.read(end - start).rfind(b"\n")
            if found >= 0:
                return start + found + 1
            end = start
    return 0


def _short(key: str) -> int:
    return int(key[:16], 16)


def _view(values: array) -> np.ndarray:
    return np.frombuffer(values, np.uint64) if values else np.empty(0, np.uint64)
