"""The audit log: a JSON line for every search, look, addition and removal, never changed."""

import asyncio
import concurrent.futures
import datetime
import json
import os
import threading
from pathlib import Path
from typing import Any


class AuditLog:
    """A file beside the gallery that only its owner can read.

    A line is on the disk before its action is done or answered. Lines that come while the disk is
    busy are written together, so that many visitors wait for few of its turns. The file may be
    moved away while the service runs (logrotate); the next line begins another.

    Raises:
      OSError: the file cannot be opened.
    """

    def __init__(self, path: str | Path):
        self._path = path
        self._file, self._broken = self._open()
        self._lines: list[tuple[bytes, concurrent.futures.Future[None]]] = []
        self._lock = threading.Lock()  # of `_lines`
        self._disk = concurrent.futures.ThreadPoolExecutor(1, "audit")

    async def write(self, who: str, action: str, **facts: Any) -> None:
        """Appends a line: time, who, action and the facts.

        Raises:
          OSError: it could not be written, so the action must not be done or answered.
        """
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        entry = {"time": now, "who": who, "action": action, **facts}
        line = f"{json.dumps(entry, ensure_ascii=False)}\n".encode()
        written: concurrent.futures.Future[None] = concurrent.futures.Future()
        with self._lock:
            self._lines.append((line, written))
        self._disk.submit(self._commit)
        await asyncio.wrap_future(written)

    def close(self) -> None:
        """Writes what waits."""
        self._disk.shutdown()
        os.close(self._file)

    def _commit(self) -> None:
        """Writes the lines that wait, none if an earlier call took them along."""
        with self._lock:
            lines, self._lines = self._lines, []
        if not lines:
            return
        problem = None
        try:
            self._append(b"".join(line for line, _ in lines))
        except OSError as error:
            reason = error.strerror or str(error)
            problem = OSError(f"{self._path}: the audit log cannot be written: {reason}")
        for _, written in lines:
            if not written.set_running_or_notify_cancel():  # who asked has gone
                continue
            if problem:
                written.set_exception(problem)
            else:
                written.set_result(None)

    def _append(self, data: bytes) -> None:
        if self._was_moved():
            before, (self._file, self._broken) = self._file, self._open()
            os.close(before)
        if self._broken:
            data = b"\n" + data
        done = 0
        try:
            while done < len(data):
                done += os.write(self._file, data[done:])
        finally:
            if done:
                self._broken = not data[:done].endswith(b"\n")
        os.fsync(self._file)

    def _was_moved(self) -> bool:
        try:
            return not os.path.samestat(os.stat(self._path), os.fstat(self._file))
        except FileNotFoundError:
            return True

    def _open(self) -> tuple[int, bool]:
        """The file, and whether its last line is incomplete: the disk was full, or a kill."""
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600)
        size = os.fstat(file).st_size
        return file, size > 0 and os.pread(file, 1, size - 1) != b"\n"
