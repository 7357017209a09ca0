"""The audit log: a JSON line for every search, look, addition and removal, never changed."""

import datetime
import json
import os
from pathlib import Path
from typing import Any


class AuditLog:
    """A file beside the gallery that only its owner can read.

    Raises:
      OSError: the file cannot be opened; of `write`: the line could not be written, so the action
        must not go unrecorded and its answer is not given.
    """

    def __init__(self, path: str | Path):
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT
        self._path, self._file = path, os.open(path, flags, 0o600)
        self._broken = False  # the last line is incomplete, for the disk was full

    def write(self, who: str, action: str, **facts: Any) -> None:
        """Appends a line: time, who, action and the facts, in one write."""
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "who": who, "action": action, **facts}
        line = f"{json.dumps(entry, ensure_ascii=False)}\n".encode()
        if self._broken:
            line = b"\n" + line
        written = os.write(self._file, line)
        self._broken = written < len(line)
        if self._broken:
            raise OSError(f"{self._path}: the audit log could not be written; is the disk full?")

    def close(self) -> None:
        os.close(self._file)
