"""The SQLite file of a gallery: its tables, how it is opened, and its errors in words."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from tipr_jax.gallery.interface import check_format
from tipr_jax.paths import no_such_path

APPLICATION_ID = 0x54495052  # "TIPR": how a gallery is told from another SQLite file
FORMAT = 1
IN_MEMORY = ":memory:"
WAIT_S = 10  # for another process's transaction

# 16 KiB pages hold 15 vectors of 512 numbers; in 4 KiB pages a quarter of the file is empty.
SCHEMA = """
PRAGMA page_size = 16384;
CREATE TABLE setting (name TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE model (
  id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, directory TEXT NOT NULL,
  vector_size INTEGER NOT NULL, facts TEXT NOT NULL
);
CREATE TABLE file (
  path PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,
  content BLOB NOT NULL, detector TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX file_content ON file (content);
CREATE TABLE item (
  id INTEGER PRIMARY KEY AUTOINCREMENT, content BLOB NOT NULL, region TEXT NOT NULL,
  path NOT NULL, camera TEXT, time TEXT, frame_time REAL, track INTEGER,
  tags TEXT NOT NULL, meta TEXT NOT NULL, added TEXT NOT NULL,
  UNIQUE (content, region)
);
CREATE TABLE vector (
  id INTEGER PRIMARY KEY, model INTEGER NOT NULL REFERENCES model (id),
  item INTEGER NOT NULL REFERENCES item (id) ON DELETE CASCADE, value BLOB NOT NULL
);
CREATE UNIQUE INDEX vector_item ON vector (item, model);
"""


def create(path: str) -> sqlite3.Connection:
    """A new, empty gallery. Raises ValueError if there is a file, OSError if it cannot be made."""
    if path == IN_MEMORY:
        return _tuned(_with_tables(_connect(path)))
    if os.path.exists(path):
        raise ValueError(f"{path} exists already; open it, or choose another name")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with named(path):
        # Under another name until it is whole: a file of this name always is a gallery.
        draft = f"{path}.{os.getpid()}.new"
        _with_tables(_connect(draft)).close()
        os.rename(draft, path)
    return open_existing(path)[0]


def _with_tables(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.executescript(SCHEMA)
    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {FORMAT}")
    return connection


def open_existing(path: str) -> tuple[sqlite3.Connection, bool]:
    """A gallery and whether it can be written. Errors as `Store.open`."""
    if not os.path.exists(path):
        raise FileNotFoundError(no_such_path(path, "gallery"))
    if os.path.isdir(path):
        raise ValueError(f"{path} is a folder; a gallery is one file, as in my.gallery")
    folder = os.path.dirname(os.path.abspath(path))
    writable = os.access(path, os.W_OK) and os.access(folder, os.W_OK)
    with named(path):
        connection = _connect(path, writable=writable)
        _check_file(connection, path)
        return (_tuned(connection) if writable else connection), writable


def _check_file(connection: sqlite3.Connection, path: str) -> None:
    try:
        kind = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
    except sqlite3.DatabaseError as error:
        if "locked" in str(error) or "open" in str(error):
            raise
        kind = version = 0
    if kind != APPLICATION_ID:
        raise ValueError(f"{path} is not a gallery; make one: python -m tipr_jax.gallery add")
    check_format(path, version, FORMAT)


def _connect(path: str, *, writable: bool = True) -> sqlite3.Connection:
    if path == IN_MEMORY or writable:
        connection = sqlite3.connect(path, timeout=WAIT_S, isolation_level=None)
    else:
        # Without a log beside it, a file on a read-only disk cannot change while it is read.
        quoted = Path(os.path.abspath(path)).as_uri()
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
        connection = sqlite3.connect(
            f"{quoted}?{mode}", timeout=WAIT_S, uri=True, isolation_level=None
        )
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _tuned(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    return connection


@contextlib.contextmanager
def named(path: str | Path) -> Iterator[None]:
    """Turns SQLite's errors into an OSError that names the gallery and says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        text = str(error)
        if "locked" in text or "busy" in text:
            text = (
                f"another process has been writing to it for {WAIT_S} s; try again when it is done"
            )
        elif "full" in text:
            text = "the disk is full; what was acknowledged before is kept, make room and try again"
        elif "readonly" in text:
            text = "no permission to write; search works, changes do not"
        elif "unable to open" in text:
            text = "cannot be opened; does its folder exist, and may you write there?"
        raise OSError(f"{path}: {text}") from error
    except sqlite3.DatabaseError as error:
        raise ValueError(f"{path} is not a gallery, or damaged: {error}") from error
