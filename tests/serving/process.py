"""The service as a process of its own, as a user starts it."""

import contextlib
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import machine

ROOT = Path(__file__).resolve().parents[2]
READY = re.compile(r"(http://\S+) is ready")


class Process:
    """A started service; `address` once it is ready."""

    def __init__(self, *options: str):
        environment = machine.environment() | {"TIPR_TOKEN": "", "PYTHONUNBUFFERED": "1"}
        environment["JAX_COMPILATION_CACHE_DIR"] = os.environ["JAX_COMPILATION_CACHE_DIR"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tipr_jax.serving", "--port=0", *options],
            cwd=ROOT,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        self.lines: list[str] = []
        self._ready = threading.Event()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            self.lines.append(line)
            if READY.match(line):
                self._ready.set()
        self._ready.set()

    @property
    def address(self) -> str:
        assert self._ready.wait(machine.HANGS), self.lines
        found = [match for line in self.lines if (match := READY.match(line))]
        assert found, self.lines
        return found[0][1]

    def end(self) -> tuple[int, str]:
        """Exit code and output, after the process ended."""
        code = self.process.wait(machine.HANGS)
        self._reader.join(machine.HANGS)
        return code, "".join(self.lines)


@contextlib.contextmanager
def served(*options: str) -> Iterator[Process]:
    """A service that is killed at the end, if it still runs."""
    service = Process(*options)
    try:
        yield service
    finally:
        service.process.kill()
        service.process.wait()
