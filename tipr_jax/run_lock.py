"""One training at a time in a run directory."""

import contextlib
import datetime
import errno
import logging
import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from tipr_jax.bucket import is_address

log = logging.getLogger("tipr_jax")

LOCK = "run.lock"


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[None]:
    """Holds the run directory for this process while the body runs; makes it if missing.

    The operating system drops the lock of a process that ends, however it ends, so there are no
    stale locks: the file that stays behind says who was the last. Where the file system has no
    locks (some network mounts), the body runs without one. In a bucket there are none: the file
    says who came last, and a line asks the user to take care.

    Raises:
      ValueError: another process trains there; the message says which.
    """
    if is_address(workdir):
        log.info("%s: a bucket has no locks; let one training at a time write there", workdir)
        (workdir / LOCK).write_text(_this_process() + "\n")
        with _removed_if_unused(workdir):
            yield
        return
    import fcntl  # Unix only; `command_line.check_platform` says so at the start

    workdir.mkdir(parents=True, exist_ok=True)
    with open(workdir / LOCK, "a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                file.seek(0)
                raise ValueError(
                    f"another process trains in {workdir}: {file.read().strip() or 'it just began'}"
                    "; wait for it, stop it, or use another --workdir"
                ) from None
        file.seek(0)
        file.truncate()
        file.write(_this_process() + "\n")
        file.flush()
        with _removed_if_unused(workdir):
            yield


@contextlib.contextmanager
def _removed_if_unused(workdir: Path) -> Iterator[None]:
    """A directory in which nothing was written, because the run was refused, does not stay."""
    try:
        yield
    finally:
        if [path.name for path in workdir.iterdir()] == [LOCK]:
            (workdir / LOCK).unlink()
            if not is_address(workdir):  # there, a directory without files is none
                workdir.rmdir()


def _this_process() -> str:
    now = datetime.datetime.now().astimezone().isoformat(" ", "seconds")
    command = " ".join(map(ascii, sys.argv[1:])).replace("'", "")
    return f"process {os.getpid()} on {socket.gethostname()}, since {now}, {command}"
