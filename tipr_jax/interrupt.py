"""Ctrl-C ends a command within seconds, with exit code 130 and one line instead of a traceback.

The process ends at once and unwinds nothing, since an exception at an arbitrary place may be lost
in a callback, and every file here is written so that a killed process leaves no half of it.
Training has its own way: it saves first (`shutdown.StopSignal`).

Python handles a signal between two of its own instructions, so a long compilation or a long program
on the device would hold it up. A thread watches beside it. Standard library only, because a command
calls `watch` before it imports anything else.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType

EXIT_CODE = 130  # 128 + SIGINT, as shells have it
GRACE_SECONDS = 2.5  # for the main thread to end by itself

_noticed = threading.Event()
_last_acts: list[Callable[[], None]] = []


def watch() -> None:
    """From now on Ctrl-C ends this process. To be called once, in the main thread."""
    signal.signal(signal.SIGINT, _end_now)
    read, write = os.pipe()
    os.set_blocking(write, False)  # Python asks for it
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)  # C code writes each signal there
    threading.Thread(target=_end_in_time, args=(read,), daemon=True).start()


def noticed() -> None:
    """The main thread knows of the first Ctrl-C and takes as long as it needs, for saving.

    A second Ctrl-C has its effect all the same.
    """
    _noticed.set()


def before_end(act: Callable[[], None]) -> None:
    """Registers what a process does before Ctrl-C ends it, in a second or less."""
    _last_acts.append(act)


def end(line: str = "stopped by Ctrl-C") -> None:
    """Ends this process."""
    os.write(sys.stderr.fileno(), f"\n{line}\n".encode())
    for act in _last_acts:
        with contextlib.suppress(Exception):
            act()
    with contextlib.suppress(Exception):
        sys.stdout.flush()
    os._exit(EXIT_CODE)


def _end_now(number: int, frame: FrameType | None) -> None:
    multiprocessing = sys.modules.get("multiprocessing")
    if multiprocessing and multiprocessing.active_children():
        sys.exit(EXIT_CODE)  # unwinding ends the other processes and frees their semaphores
    end()


def _end_in_time(read: int) -> None:
    presses = 0
    while numbers := os.read(read, 64):
        presses += numbers.count(signal.SIGINT)
        if presses == 1 and not _noticed.wait(GRACE_SECONDS):
            end("stopped by Ctrl-C, in the middle of a computation")
        if presses > 1:  # the handler ends the process; if it cannot, this does
            threading.Event().wait(GRACE_SECONDS)
            end("stopped by a second Ctrl-C")
