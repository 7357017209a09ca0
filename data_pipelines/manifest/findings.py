"""What was found in a manifest: problems, which stop training and check alike, and notes."""

import collections
import dataclasses
import logging

log = logging.getLogger("tipr_jax")

SHOWN_ROWS = 5


def _lists() -> dict[str, list]:
    return collections.defaultdict(list)


@dataclasses.dataclass
class Findings:
    """What was found.

    problems, notes: kind -> a line each, in the order of the file. rows: kind -> numbers of rows
    that a note is about; a million of them are one line.
    """

    problems: dict[str, list[str]] = dataclasses.field(default_factory=_lists)
    notes: dict[str, list[str]] = dataclasses.field(default_factory=_lists)
    rows: dict[str, list[int]] = dataclasses.field(default_factory=_lists)

    def settle(self, where: str) -> None:
        """Turns `rows` into notes; where: what a row is called, as in "FILE line"."""
        for kind, rows in self.rows.items():
            more = f" and {len(rows) - SHOWN_ROWS} more" if len(rows) > SHOWN_ROWS else ""
            self.notes[kind].append(f"{where} {', '.join(map(str, rows[:SHOWN_ROWS]))}{more}")
        self.rows.clear()

    def check(self, path: str) -> None:
        """Logs the notes, a line for each kind.

        Raises:
          ValueError: there is a problem; it names the first one.
        """
        for kind, lines in self.notes.items():
            more = f", and {len(lines) - 1} more" if len(lines) > 1 else ""
            log.warning("%s: %s%s", kind, lines[0], more)
        if not self.problems:
            return
        total = sum(map(len, self.problems.values()))
        first = next(iter(self.problems.values()))[0]
        if total > 1:
            first += (
                f" (and {total - 1} more problems; list them with python -m data_pipelines.check "
                f"--name=manifest --root={path})"
            )
        raise ValueError(first)
