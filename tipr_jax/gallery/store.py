"""The durable part of a gallery: one SQLite file with people, their vectors and their origin.

An item is one person to be found: a photo, or a box in a photo or in a frame of a video. It is
known by its content, not by its name: the hash of the file's bytes and the region within. Vectors
of several models may lie side by side, so that a gallery can be searched while another model
embeds it again. Every call that changes something is one transaction, and what it changed is on
the disk when it returns (write-ahead log, synchronous=FULL), so a killed process loses nothing
that was acknowledged and leaves nothing half-made. One process writes at a time, any number read.
"""

import contextlib
import dataclasses
import datetime
import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.gallery import filters
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


Ids = Sequence[int] | np.ndarray


class Box(NamedTuple):
    """A region of a picture in pixels as people see it, after EXIF rotation: left, top, size."""

    x: int
    y: int
    width: int
    height: int


@dataclasses.dataclass(frozen=True)
class Item:
    """One person of a gallery.

    Attributes:
      content: SHA-256 of the file's bytes, 64 hexadecimal digits.
      path: where the file lies, absolute; "" for a picture that came without a file.
      box: the person within the picture; None: the picture shows one person.
      frame_time: seconds from the start of a video.
      track: number of the person's track within the video.
      camera, time (ISO 8601), tags, meta (any JSON object): what searches filter by.
      id: given by the gallery, never used twice.
      added: when, ISO 8601 in UTC; given by the gallery.
    """

    content: str
    path: str
    box: Box | None = None
    frame_time: float | None = None
    track: int | None = None
    camera: str | None = None
    time: str | None = None
    tags: tuple[str, ...] = ()
    meta: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    id: int = 0
    added: str = ""

    @property
    def region(self) -> str:
        """Which part of the content this is: "" for all of it."""
        frame = "" if self.frame_time is None else f"{self.frame_time:.3f}s"
        return frame + ("" if self.box is None else ":{},{},{},{}".format(*self.box))


class FileState(NamedTuple):
    """What a rescan compares: a file that has not changed is not opened."""

    size: int
    mtime_ns: int
    content: str
    detector: str = ""


class Model(NamedTuple):
    """A model whose vectors a gallery holds; fingerprint: of its weights and preprocessing."""

    id: int
    fingerprint: str
    directory: str
    vector_size: int
    facts: Mapping[str, Any]


class Store:
    """A gallery file. Not for several threads at once; every process and thread opens its own."""

    def __init__(self, connection: sqlite3.Connection, path: str, *, writable: bool):
        self._db, self.path, self.writable = connection, path, writable

    @classmethod
    def create(cls, path: str | Path) -> "Store":
        """A new, empty gallery; ":memory:" for one without a file.

        Raises:
          ValueError: there is a file already.
          OSError: the file cannot be written.
        """
        if str(path) != IN_MEMORY:
            if os.path.exists(path):
                raise ValueError(f"{path} exists already; open it, or choose another name")
            Path(path).parent.mkdir(parents=True, exist_ok=True)
        with _named(path):
            # Under another name until it is whole: a file of this name always is a gallery.
            draft = str(path) if str(path) == IN_MEMORY else f"{path}.{os.getpid()}.new"
            connection = _connect(draft)
            connection.executescript(SCHEMA)
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {FORMAT}")
            if draft == str(path):
                return cls(_tuned(connection), IN_MEMORY, writable=True)
            connection.close()
            os.rename(draft, path)
        return cls.open(path)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """An existing gallery, for reading alone where the file cannot be written.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is no gallery, or of a newer format.
        """
        if not os.path.exists(path):
            raise FileNotFoundError(no_such_path(path, "gallery"))
        if os.path.isdir(path):
            raise ValueError(f"{path} is a folder; a gallery is one file, as in my.gallery")
        folder = os.path.dirname(os.path.abspath(path))
        writable = os.access(path, os.W_OK) and os.access(folder, os.W_OK)
        with _named(path):
            store = cls(_connect(str(path), writable=writable), str(path), writable=writable)
            store._check_format()
            if writable:
                _tuned(store._db)
        return store

    def _check_format(self) -> None:
        try:
            kind = self._db.execute("PRAGMA application_id").fetchone()[0]
            version = self._db.execute("PRAGMA user_version").fetchone()[0]
        except sqlite3.DatabaseError as error:
            if "locked" in str(error) or "open" in str(error):
                raise
            kind = version = 0
        if kind != APPLICATION_ID:
            raise ValueError(
                f"{self.path} is not a gallery; make one: python -m tipr_jax.gallery add"
            )
        if version > FORMAT:
            raise ValueError(
                f"{self.path} has format {version}, this version of tipr_jax reads up to {FORMAT}; "
                "update tipr_jax"
            )

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "Store":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Settings and models.

    def setting(self, name: str, default: Any = None) -> Any:
        row = self._db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
        return default if row is None else json.loads(row[0])

    def remember(self, name: str, value: Any) -> None:
        with self._change() as db:
            db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, json.dumps(value)))

    def models(self) -> list[Model]:
        rows = self._db.execute("SELECT id, fingerprint, directory, vector_size, facts FROM model")
        return [Model(*row[:4], facts=json.loads(row[4])) for row in rows]

    @property
    def current_model(self) -> Model | None:
        """The model that searches use; None in a gallery that never had one."""
        number = self.setting("model")
        return next((model for model in self.models() if model.id == number), None)

    def register_model(
        self, fingerprint: str, directory: str, vector_size: int, facts: Mapping[str, Any]
    ) -> Model:
        """The model of this fingerprint, recorded if it is new; its directory may have changed."""
        with self._change() as db:
            db.execute(
                "INSERT INTO model (fingerprint, directory, vector_size, facts) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (fingerprint) DO UPDATE SET directory = excluded.directory",
                (fingerprint, directory, vector_size, json.dumps(dict(facts))),
            )
        return next(model for model in self.models() if model.fingerprint == fingerprint)

    def remove_model(self, model: Model) -> None:
        """Forgets a model and its vectors; the items stay."""
        with self._change() as db:
            db.execute("DELETE FROM vector WHERE model = ?", (model.id,))
            db.execute("DELETE FROM model WHERE id = ?", (model.id,))

    # Items.

    def add(
        self,
        items: Sequence[Item],
        vectors: np.ndarray,
        model: Model,
        files: Mapping[str, FileState] | None = None,
    ) -> list[int]:
        """Items with their vectors, in one transaction; returns their ids.

        An item whose content and region are there already keeps its id and gets the vector.

        Args:
          items: their `id` and `added` are not read.
          vectors: float [N,C], stored as float16.
          model: of this gallery, whose vectors they are.
          files: the files that are read now, by path; items of a file's former content go, unless
            another file has the same content.

        Raises:
          ValueError: vectors of another shape.
          OSError: the disk is full, the file cannot be written, or another process writes to it.
        """
        if vectors.shape != (len(items), model.vector_size):
            raise ValueError(
                f"vectors have shape {vectors.shape}, expected {(len(items), model.vector_size)}"
            )
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._change() as db:
            ids = [self._add_item(db, item, now) for item in items]
            blobs = [row.tobytes() for row in np.asarray(vectors, np.float16)]
            db.executemany(
                "INSERT OR REPLACE INTO vector (model, item, value) VALUES (?, ?, ?)",
                [(model.id, item, blob) for item, blob in zip(ids, blobs, strict=True)],
            )
            for path, state in (files or {}).items():
                self._record_file(db, path, state)
        return ids

    @staticmethod
    def _add_item(db: sqlite3.Connection, item: Item, now: str) -> int:
        content = bytes.fromhex(item.content)
        values = (
            content,
            item.region,
            _stored(item.path),
            item.camera,
            item.time,
            item.frame_time,
            item.track,
            json.dumps(item.tags, ensure_ascii=False),
            json.dumps(dict(item.meta) | _box_field(item.box), ensure_ascii=False),
            now,
        )
        cursor = db.execute(
            "INSERT INTO item (content, region, path, camera, time, frame_time, track, tags, meta, "
            "added) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            values,
        )
        if cursor.rowcount:
            return int(cursor.lastrowid or 0)
        where = "SELECT id FROM item WHERE content = ? AND region = ?"
        return db.execute(where, (content, item.region)).fetchone()[0]

    def _record_file(self, db: sqlite3.Connection, path: str, state: FileState) -> None:
        before = db.execute("SELECT content FROM file WHERE path = ?", (_stored(path),)).fetchone()
        content = bytes.fromhex(state.content)
        values = (_stored(path), state.size, state.mtime_ns, content, state.detector)
        db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", values)
        if before and before[0] != content:
            self._drop_unless_elsewhere(db, before[0], _stored(path))

    @staticmethod
    def _drop_unless_elsewhere(db: sqlite3.Connection, content: bytes, gone: Any) -> int:
        """The items of a content that a path has no longer go, or take another file's path.

        Returns how many items went.
        """
        other = db.execute("SELECT path FROM file WHERE content = ?", (content,)).fetchone()
        if other is None:
            return db.execute("DELETE FROM item WHERE content = ?", (content,)).rowcount
        change = "UPDATE item SET path = ? WHERE content = ? AND path = ?"
        db.execute(change, (other[0], content, gone))
        return 0

    def record_files(self, files: Mapping[str, FileState]) -> None:
        """Files that were read and whose content is known, or shows nobody."""
        with self._change() as db:
            for path, state in files.items():
                self._record_file(db, path, state)

    def forget_files(self, paths: Sequence[str]) -> int:
        """Files that are no longer there: their items go, unless another file has the content.

        Returns how many items went.
        """
        count = 0
        with self._change() as db:
            for path in map(_stored, paths):
                row = db.execute("SELECT content FROM file WHERE path = ?", (path,)).fetchone()
                if row:
                    db.execute("DELETE FROM file WHERE path = ?", (path,))
                    count += self._drop_unless_elsewhere(db, row[0], path)
        return count

    def delete(self, ids: Ids) -> int:
        """Removes items with all their vectors; returns how many there were.

        A file of which no item is left is forgotten, so a later rescan takes it anew.
        """
        with self._change() as db:
            count = 0
            for number in ids:
                row = db.execute("SELECT content FROM item WHERE id = ?", (number,)).fetchone()
                if row is None:
                    continue
                db.execute("DELETE FROM item WHERE id = ?", (number,))
                count += 1
                left = db.execute("SELECT 1 FROM item WHERE content = ?", row).fetchone()
                if left is None:
                    db.execute("DELETE FROM file WHERE content = ?", row)
        return count

    def items(self, ids: Ids) -> list[Item]:
        """The items of these ids, in this order; those that are gone are left out."""
        found: dict[int, Item] = {}
        for start in range(0, len(ids), 500):
            part = [int(i) for i in ids[start : start + 500]]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT {_COLUMNS} FROM item WHERE id IN ({marks})", part)
            found |= {item.id: item for item in map(_item, rows)}
        return [found[int(i)] for i in ids if int(i) in found]

    def known(self, content: str, model: Model) -> list[Item]:
        """The items of a content that have a vector of the model."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM item JOIN vector ON vector.item = item.id "
            "WHERE content = ? AND vector.model = ?",
            (bytes.fromhex(content), model.id),
        )
        return [_item(row) for row in rows]

    def select(self, where: Mapping[str, Any] | None = None) -> np.ndarray:
        """The ids that pass a filter, ascending, int64 [N]; see `filters` for what it may say.

        Raises:
          ValueError: an unknown field or a value of the wrong kind.
        """
        clause, values = filters.to_sql(where or {}, self._meta_fields)
        rows = self._db.execute(f"SELECT id FROM item WHERE {clause} ORDER BY id", values)
        return np.fromiter((row[0] for row in rows), np.int64)

    def _meta_fields(self) -> set[str]:
        rows = self._db.execute("SELECT DISTINCT key FROM item, json_each(item.meta)")
        return {row[0] for row in rows} - {_BOX}

    def files(self) -> dict[str, FileState]:
        """What is recorded of every file, by absolute path."""
        rows = self._db.execute("SELECT path, size, mtime_ns, content, detector FROM file")
        return {_loaded(r[0]): FileState(r[1], r[2], r[3].hex(), r[4]) for r in rows}

    # Vectors.

    def vectors(self, model: Model, after: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids int64 [n], vectors float16 [n,C]) of items with a larger id, in item order."""
        cursor = self._db.execute(
            "SELECT item, value FROM vector WHERE model = ? AND item > ? ORDER BY item",
            (model.id, int(after)),  # SQLite would take a NumPy integer for bytes
        )
        while rows := cursor.fetchmany(4096):
            ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            flat = np.frombuffer(b"".join(row[1] for row in rows), np.float16)
            yield ids, flat.reshape(len(rows), model.vector_size)

    def vectors_of(self, ids: Ids, model: Model) -> np.ndarray:
        """The vectors of these items, in this order: float16 [N,C].

        Raises:
          KeyError: an item is gone, or has no vector of the model.
        """
        query = "SELECT value FROM vector WHERE model = ? AND item = ?"
        out = np.empty((len(ids), model.vector_size), np.float16)
        for row, number in zip(out, ids, strict=True):
            found = self._db.execute(query, (model.id, int(number))).fetchone()
            if found is None:
                raise KeyError(int(number))
            row[:] = np.frombuffer(found[0], np.float16)
        return out

    def embedded(self, model: Model) -> np.ndarray:
        """The ids of the items that have a vector of the model, ascending, int64 [N]."""
        query = "SELECT item FROM vector WHERE model = ? ORDER BY item"
        rows = self._db.execute(query, (model.id,))
        return np.fromiter((row[0] for row in rows), np.int64)

    def without_vector(self, model: Model, limit: int, after: int = 0) -> list[Item]:
        """Items with a larger id that the model has not embedded yet, at most `limit`."""
        rows = self._db.execute(
            f"SELECT {_COLUMNS} FROM item WHERE id > ? AND NOT EXISTS "
            "(SELECT 1 FROM vector WHERE vector.item = item.id AND vector.model = ?) "
            "ORDER BY id LIMIT ?",
            (int(after), model.id, limit),
        )
        return [_item(row) for row in rows]

    def add_vectors(self, ids: Ids, vectors: np.ndarray, model: Model) -> None:
        """Vectors of items that are there, in one transaction; an item that is gone is left out."""
        blobs = [row.tobytes() for row in np.asarray(vectors, np.float16)]
        with self._change() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vector (model, item, value) "
                "SELECT ?, id, ? FROM item WHERE id = ?",
                [(model.id, blob, int(i)) for i, blob in zip(ids, blobs, strict=True)],
            )

    # The state of the file.

    def changes(self) -> tuple[int, int]:
        """Another pair of numbers after this process or another one changed the gallery."""
        return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    def stats(self) -> dict[str, Any]:
        """Figures of the gallery: items, files, models with their vectors, bytes on the disk."""
        one = lambda query: self._db.execute(query).fetchone()[0]  # noqa: E731
        per_model = dict(self._db.execute("SELECT model, count(*) FROM vector GROUP BY model"))
        current = self.setting("model")
        size = 0 if self.path == IN_MEMORY else os.path.getsize(self.path)
        return {
            "gallery": self.path,
            "items": one("SELECT count(*) FROM item"),
            "files": one("SELECT count(*) FROM file"),
            "bytes": size,
            "models": [
                {
                    "directory": model.directory,
                    "fingerprint": model.fingerprint,
                    "vector_size": model.vector_size,
                    "vectors": per_model.get(model.id, 0),
                    "searched": model.id == current,
                }
                for model in self.models()
            ],
        }

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or after any error nothing."""
        if not self.writable:
            raise PermissionError(
                f"{self.path}: no permission to write; search works, changes do not"
            )
        with _named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise


_BOX = "__box__"  # where the box lies in the JSON of an item
_COLUMNS = "item.id, content, path, camera, item.time, frame_time, track, tags, meta, added"


def _item(row: tuple) -> Item:
    meta = json.loads(row[8])
    box = meta.pop(_BOX, None)
    return Item(
        content=row[1].hex(),
        path=_loaded(row[2]),
        box=None if box is None else Box(*box),
        frame_time=row[5],
        track=row[6],
        camera=row[3],
        time=row[4],
        tags=tuple(json.loads(row[7])),
        meta=meta,
        id=row[0],
        added=row[9],
    )


def _box_field(box: Box | None) -> dict[str, Any]:
    return {} if box is None else {_BOX: list(box)}


def _stored(path: str) -> str | bytes:
    """A path as SQLite takes it: file names are bytes on Linux, and not all of them are UTF-8."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return os.fsencode(path)
    return path


def _loaded(path: str | bytes) -> str:
    return os.fsdecode(path)


def _connect(path: str, *, writable: bool = True) -> sqlite3.Connection:
    if path == IN_MEMORY or writable:
        connection = sqlite3.connect(path, WAIT_S, isolation_level=None)
    else:
        # Without a log beside it, a file on a read-only disk cannot change while it is read.
        quoted = Path(os.path.abspath(path)).as_uri()
        mode = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
        connection = sqlite3.connect(f"{quoted}?{mode}", WAIT_S, uri=True, isolation_level=None)
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


def _tuned(connection: sqlite3.Connection) -> sqlite3.Connection:
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA journal_size_limit = {64 << 20}")
    return connection


@contextlib.contextmanager
def _named(path: str | Path) -> Iterator[None]:
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
