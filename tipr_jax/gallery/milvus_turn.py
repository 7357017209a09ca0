"""One writer at a time on a server that has neither locks nor transactions.

Who wants to write raises a flag, a row in the settings, and then looks: alone, it has its turn;
otherwise it lowers the flag and tries again after a random moment. Reads are strongly consistent,
so of two who raise theirs at once at least one sees the other's. A holder renews its flag as it
writes; a flag that stands unchanged for `LEASE_S`, by the clock of who waits, is of a process that
was killed, and is taken down. A holder that could not renew its flag in time writes no more. At the
end of a turn the counter of changes moves, then the flag goes: while there is a flag, readers take
whatever they know for outdated.
"""

import contextlib
import itertools
import json
import random
import time
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from tqdm import tqdm

from tipr_jax.gallery.milvus_tables import SETTING, TIMEOUT_S, Row, Tables, parts

LEASE_S = 2 * TIMEOUT_S
WAIT_S = 45.0  # for another process's turn
CHANGES, WRITER = "#changes", "#writer"  # rows in the settings, whose own names have no #


class State(NamedTuple):
    """changes: how many turns ended; next_id: of the next item; flags: writers' keys and beats."""

    changes: int
    next_id: int
    flags: dict[str, str]


def look(tables: Tables) -> State:
    """The state of a gallery, as of now."""
    state, flags = (0, 1), {}
    for row in tables.rows(SETTING, "name", [CHANGES, WRITER]):
        if row["name"] == CHANGES:
            state = json.loads(row["value"])
        else:
            flags[row["key"]] = row["value"]
    return State(state[0], state[1], flags)


@contextlib.contextmanager
def take(tables: Tables) -> Iterator["Turn"]:
    """A turn to write.

    Raises:
      OSError: another process has been writing for `WAIT_S`; the server does not answer.
    """
    turn = Turn(tables)
    try:
        turn.wait()
        yield turn
    except BaseException:
        with contextlib.suppress(OSError):
            turn.end()
        raise
    turn.end()


class Turn:
    """What is written in one turn; `revision` is the number that the turn's changes have."""

    def __init__(self, tables: Tables):
        self._tables, self._key = tables, f"{WRITER}/{uuid.uuid4().hex}"
        self._beats = itertools.count()
        self._state: State | None = None
        self._renewed = 0.0

    @property
    def revision(self) -> int:
        assert self._state, "it is our turn"
        return self._state.changes + 1

    def wait(self) -> None:
        """Returns when it is our turn."""
        form = "waiting for another writer, {elapsed}"
        start, seen = time.monotonic(), {}
        with tqdm(bar_format=form, leave=False, disable=None, delay=2) as bar:
            while not self._is_ours(seen):
                if time.monotonic() - start > WAIT_S:
                    raise OSError(
                        f"{self._tables.address}: another process has been writing to it for "
                        f"{WAIT_S:g} s; try again when it is done"
                    )
                time.sleep(random.uniform(0.02, 0.2))
                bar.update()

    def _is_ours(self, seen: dict[tuple[str, str], float]) -> bool:
        """Tries once, and takes the flags of the dead down. seen: when a flag was seen first."""
        self._raise_flag()
        state = look(self._tables)
        others = {key: beat for key, beat in state.flags.items() if key != self._key}
        if not others:
            self._state = state
            return True
        self._tables.drop(SETTING, [self._key])
        now = time.monotonic()
        for flag in others.items():
            if now - seen.setdefault(flag, now) > LEASE_S:
                self._tables.drop(SETTING, [flag[0]])
        return False

    def new_ids(self, count: int) -> range:
        """Ids for items, ascending. They are used up, whatever becomes of the turn."""
        assert self._state, "it is our turn"
        first = self._state.next_id
        self._state = self._state._replace(next_id=first + count)
        if count:
            self._record(self._state.changes)
        return range(first, first + count)

    def put(self, table: str, rows: Sequence[Row]) -> None:
        """Rows of new keys, or in place of those that have the keys."""
        self._renew()  # also where there is no row, for reading takes time, too
        for part in parts(rows):
            self._renew()
            self._tables.put(table, part)

    def drop(self, table: str, keys: Sequence[Any]) -> None:
        self._renew()
        for part in parts(keys):
            self._renew()
            self._tables.drop(table, part)

    def end(self) -> None:
        try:
            if self._state:
                self._record(self.revision)
        finally:
            self._tables.drop(SETTING, [self._key])

    def _record(self, changes: int) -> None:
        assert self._state, "it is our turn"
        self._renew()
        value = json.dumps([changes, self._state.next_id])
        self._tables.put(SETTING, [{"key": CHANGES, "name": CHANGES, "value": value}])

    def _raise_flag(self) -> None:
        self._renewed, value = time.monotonic(), str(next(self._beats))
        self._tables.put(SETTING, [{"key": self._key, "name": WRITER, "value": value}])

    def _renew(self) -> None:
        idle = time.monotonic() - self._renewed
        if idle > LEASE_S - TIMEOUT_S:  # what is sent now may take so long to arrive
            raise OSError(
                f"{self._tables.address}: this process stood still for {idle:.0f} s while it was "
                "writing, and another may have begun to; run the command again"
            )
        if idle > LEASE_S / 4:
            self._raise_flag()
