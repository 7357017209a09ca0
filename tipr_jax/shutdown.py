"""How a run ends before its last step: a request to stop, and the failure of one of its processes.

With several processes all of them stop at one step, or fail together. They tell each other through
the coordination service of `jax.distributed`, as in `distributed`.
"""

import atexit
import contextlib
import itertools
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import jax
from jax.experimental import multihost_utils

from tipr_jax import distributed, interrupt

FAILURE = "tipr_jax/failure"
PARTING_SECONDS = 3.0  # that a failing coordinator lives on, so that every other process hears why

_polls = itertools.count(1)
_ending = threading.Lock()
_finished = threading.Event()


class StopSignal:
    """SIGTERM and SIGINT as a request that all processes honour at the same point.

    With several processes the request is spread by the preemption service of `jax.distributed`,
    which takes SIGTERM itself and picks a poll that no process has passed yet.

    exit_code: what the process ends with after it saved: 0, or 130 after Ctrl-C.
    """

    def __init__(self) -> None:
        self.requested = False
        self.exit_code = 0
        self._several = distributed.several()

    def __enter__(self) -> "StopSignal":
        handled = [signal.SIGINT] if self._several else [signal.SIGINT, signal.SIGTERM]
        self._old = {number: signal.signal(number, self._stop) for number in handled}
        return self

    def __exit__(self, *exc: object) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def poll(self) -> bool:
        """True from the point on at which all processes stop. Collective, and cheap."""
        if self._several and not self.requested:
            self.requested = multihost_utils.reached_preemption_sync_point(next(_polls))
        if self.requested:
            interrupt.noticed()
        return self.requested

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self._several:
            os.kill(os.getpid(), signal.SIGTERM)
            return
        if number == signal.SIGINT:
            if self.requested:
                interrupt.end()  # a second Ctrl-C stops at once
            self.exit_code = interrupt.EXIT_CODE
        self.requested = True


@contextlib.contextmanager
def shared_fate() -> Iterator[None]:
    """An error in the body ends every process, with its reason, and leaves none of them waiting.

    Every process must be inside this context, and have called `watch_for_failure`. With one
    process, and for an exit with code 0, nothing is changed.
    """
    try:
        yield
    except BaseException as error:
        success = isinstance(error, SystemExit) and not error.code
        if success or not jax.distributed.is_initialized():
            raise
        if isinstance(error, SystemExit):
            message = str(error.code)
        elif isinstance(error, jax.errors.JaxRuntimeError):
            message = f"error: {first_line(error)}"
        else:
            traceback.print_exc()
            message = f"error: {type(error).__name__}: {first_line(error)}"
        if "Gloo" in message:  # the transport broke, for another process ended: has it said why?
            time.sleep(PARTING_SECONDS / 2)
            message = (
                "error: lost contact with another process, see its output; nothing saved is lost, "
                f"start all of them again to continue ({message.removeprefix('error: ')[:150]})"
            )
        _end(message, tell=True)


def first_line(error: BaseException) -> str:
    """The first line of an error's text, or the name of its type if it has none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _end(message: str, *, tell: bool = False) -> NoReturn:
    """Prints one line and ends the process at once; `sys.exit` would wait for its peers at exit.

    tell: every other process, which `watch_for_failure` then ends, too.
    """
    if not _ending.acquire(blocking=False):
        threading.Event().wait()  # another thread ends this process already
    print(message, file=sys.stderr, flush=True)
    sys.stdout.flush()
    if tell:
        _tell_others(message)
        if distributed.this_process() == 0:
            time.sleep(PARTING_SECONDS)
    os._exit(1)


def _tell_others(message: str) -> None:
    with contextlib.suppress(Exception):  # another process told first, or the service is gone
        distributed.service().key_value_set(
            FAILURE, f"process {distributed.this_process()} stopped: {message}"
        )


def watch_for_failure() -> None:
    """From now on, this process ends soon after another one told that it failed.

    To be called once, after `distributed.initialize` joined several processes.
    """
    interrupt.before_end(lambda: (_tell_others("by Ctrl-C"), time.sleep(1))[0])
    watch = threading.Thread(target=_end_after_failure, daemon=True)
    watch.start()
    # The thread must not be inside of C++ when Python ends.
    atexit.register(lambda: (_finished.set(), watch.join()))


def _end_after_failure() -> None:
    while not _finished.wait(0.5):
        try:
            message = distributed.service().key_value_try_get(FAILURE)
        except Exception:  # no failure yet
            continue
        if not message.startswith(f"process {distributed.this_process()} "):
            _end("error: " + message.replace("stopped: error:", "stopped:"))
        return
