"""When to stop asking somebody who does not answer."""

from collections.abc import Sequence
from typing import Any

from data_pipelines.ldat.interfaces import Failure

_STOP_AFTER = 100  # failures in a row: whoever is asked is out of order, and goes on later


class Patience:
    """Counts failures in a row. who: a server or a command, as the message names it."""

    def __init__(self, who: str):
        self._who = who
        self._in_a_row, self._last_reason = 0, ""

    def check(self) -> None:
        """Raises ValueError if the last 100 answers, or more, were failures."""
        if self._in_a_row >= _STOP_AFTER:
            raise ValueError(
                f"{self._who}: the last {self._in_a_row} captions failed, the last one because "
                f"{self._last_reason}; what is done is kept: look after it, and call again"
            )

    def count(self, answers: Sequence[Any]) -> None:
        """Takes note of answers, in their order."""
        for answer in answers:
            if isinstance(answer, Failure):
                self._in_a_row, self._last_reason = self._in_a_row + 1, answer.reason
            else:
                self._in_a_row = 0
