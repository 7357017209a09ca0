"""A scorer in a process of its own, COMET in a venv of its own for example.

The command is started once and gets JSON lines, {"src": ..., "mt": ...}, on its standard input. It
answers each with a line, a number in 0..1, on its standard output, in the same order. An empty line
ends a batch, and is answered with an empty line; so a command may wait for the whole batch, and too
many or too few answers are noticed. It should end when its input does. The smallest one:

  import json, sys
  for line in sys.stdin:
      print(score(**json.loads(line)) if line.strip() else "", flush=True)

`scripts/examples/comet_scores.py` is the one for COMET.
"""

import contextlib
import json
import os
import signal
import subprocess
import tempfile
import threading
import weakref
from collections.abc import Mapping, Sequence
from typing import IO, Any

from data_pipelines.ldat.interfaces import Failure, Translation
from data_pipelines.ldat.patience import Patience

_OPTION = "--config.command.run"
_LONGEST_LINE = 1 << 16  # bytes


class CommandScorer:
    """A `QualityScorer`. The command line itself is its settings: change it when the scores change.

    Args:
      command: the program and its arguments.
      timeout: seconds for a batch; the first one includes the start.

    A command that dies is started again once for the same batch. One that takes too long, or gives
    another number of lines, is ended, and started again for the next batch; in this one everything
    failed.

    Raises:
      ValueError: no command, or one that cannot be started; or the last 100 answers were failures.
    """

    def __init__(self, command: Sequence[str], timeout: float):
        if not command:
            raise ValueError(f"{_OPTION} is empty; give a command, as 'python score.py'")
        self._command, self._timeout = list(command), timeout
        self._patience = Patience(f"{_OPTION}={' '.join(command)}")
        self._running: _Running | None = None
        self.settings: Mapping[str, Any] = {"command": self._command}

    def score(self, translations: Sequence[Translation]) -> list[float | Failure]:
        """Numbers as the command says them; a `Failure` for a line that is none."""
        self._patience.check()
        texts = [json.dumps({"src": t.caption.text, "mt": t.text}) + "\n" for t in translations]
        answers = self._answers(texts)
        self._patience.count(answers)
        return answers

    def _answers(self, texts: list[str]) -> list[float | Failure]:
        died = ""
        for _ in range(2):
            if self._running is None:
                self._running = _Running(self._command)
            try:
                return [_number(line) for line in self._running.ask(texts, self._timeout)]
            except EOFError:
                died = self._running.end()
                self._running = None
            except _OutOfStep as error:
                self._running.end()
                self._running = None
                return [Failure(str(error))] * len(texts)
            except BaseException:  # Ctrl-C: what it was asked, it would answer later
                self._running.end()
                self._running = None
                raise
        return [Failure(f"the command ended twice: {died}")] * len(texts)


class _OutOfStep(Exception):
    """The command did not answer as agreed, and what it says next would answer nothing."""


class _Running:
    """A started command. It is ended with this object, or with this process, at the latest."""

    def __init__(self, command: list[str]):
        self._said = tempfile.TemporaryFile()  # noqa: SIM115  # closed with the object
        try:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._said,
                start_new_session=True,  # a shell is ended together with what it started
            )
        except OSError as error:
            self._said.close()
            raise ValueError(
                f"{_OPTION}={' '.join(command)}: cannot be started ({error}); give a program "
                "that exists, with its arguments"
            ) from None
        self._end = weakref.finalize(self, _end, self._process, self._said)

    def ask(self, texts: list[str], timeout: float) -> list[str]:
        """A line per text.

        Raises:
          EOFError: the command ended.
          _OutOfStep: too many lines, too few, or none in time.
        """
        late = threading.Event()

        def stop() -> None:
            late.set()
            _kill(self._process)  # which ends reading and writing

        clock = threading.Timer(timeout, stop)
        # Beside reading, for a pipe holds 64 kB and a command may answer as it reads.
        writer = threading.Thread(target=_write, args=(self._process.stdin, texts), daemon=True)
        clock.daemon = True
        clock.start()
        writer.start()
        try:
            lines = self._read(len(texts))
            writer.join()
        except EOFError:
            self._process.wait()  # for its exit status
            if late.is_set():
                raise _OutOfStep(f"the command did not answer in {timeout:g} s") from None
            raise
        finally:
            clock.cancel()
        if len(lines) != len(texts):
            raise _OutOfStep(f"the command gave {len(lines)} lines for {len(texts)} pairs")
        return lines

    def _read(self, number: int) -> list[str]:
        """The lines up to the empty one."""
        assert self._process.stdout is not None
        lines: list[str] = []
        while line := self._process.stdout.readline(_LONGEST_LINE):
            if len(line) == _LONGEST_LINE:
                raise _OutOfStep("the command gave a line without an end")
            if not line.strip():
                return lines
            if len(lines) == number:
                raise _OutOfStep(f"the command gave more than {number} lines for {number} pairs")
            lines.append(line.decode("utf-8", "replace").strip())
        raise EOFError

    def end(self) -> str:
        """Ends the command; how it ended, with the last line of its standard error."""
        self._said.seek(max(0, self._said.seek(0, os.SEEK_END) - 2000))
        said = self._said.read().decode("utf-8", "replace").strip().splitlines()
        self._end()
        status = f"exit status {self._process.returncode}"
        return f"{status}, {said[-1].strip()[:200]}" if said else status


def _write(pipe: IO[bytes], texts: list[str]) -> None:
    with contextlib.suppress(OSError, ValueError):  # it ended, which reading notices
        pipe.write("".join([*texts, "\n"]).encode())
        pipe.flush()


def _kill(process: subprocess.Popen) -> None:
    """Ends a command and all that it started in its session."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _end(process: subprocess.Popen, said: IO[bytes]) -> None:
    _kill(process)
    process.wait()
    for pipe in (process.stdin, process.stdout, said):
        with contextlib.suppress(OSError):  # what was not sent cannot be sent
            assert pipe is not None
            pipe.close()


def _number(line: str) -> float | Failure:
    try:
        return float(line)
    except ValueError:
        return Failure(f"the command answered {line[:80]!r}, which is no number")
