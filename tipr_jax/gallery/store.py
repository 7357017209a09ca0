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
from typing import Any

import numpy as np

from tipr_jax.gallery import database, filters
from tipr_jax.gallery.database import IN_MEMORY
from tipr_jax.gallery.interface import GalleryStore, check_shape, figures
from tipr_jax.gallery.items import (
    COLUMNS,
    Box,
    FileState,
    Ids,
    Item,
    Model,
    from_row,
    loaded,
    stored,
    to_row,
)

__all__ = ["IN_MEMORY", "Box", "FileState", "Ids", "Item", "Model", "Store"]


class Store(GalleryStore):
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
        return cls(database.create(str(path)), str(path), writable=True)

    @classmethod
    def open(cls, path: str | Path) -> "Store":
        """An existing gallery, for reading alone where the file cannot be written.

        Raises:
          FileNotFoundError: there is no such file.
          ValueError: the file is no gallery, or of a newer format.
        """
        connection, writable = database.open_existing(str(path))
        return cls(connection, str(path), writable=writable)

    def close(self) -> None:
        self._db.close()

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

    def register_model(
        self, fingerprint: str, directory: str, vector_size: int, facts: Mapping[str, Any]
    ) -> Model:
        with self._change() as db:
            db.execute(
                "INSERT INTO model (fingerprint, directory, vector_size, facts) "
                "VALUES (?, ?, ?, ?) ON CONFLICT (fingerprint) "
                "DO UPDATE SET directory = excluded.directory",
                (fingerprint, directory, vector_size, json.dumps(dict(facts))),
            )
        return next(model for model in self.models() if model.fingerprint == fingerprint)

    def remove_model(self, model: Model) -> None:
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
        check_shape(items, vectors, model)
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
        with self._change() as db:
            ids = [self._add_item(db, item, now) for item in items]
            blobs = [row.tobytes() for row in np.asarray(vectors, np.float16)]
            db.executemany(
                "INSERT OR REPLACE INTO vector (model, item, value) VALUES (?, ?, ?)",
                [(model.id, item, blob) for item, blob in zip(ids, blobs, strict=True)],
            )
            self._record_files(db, files or {})
        return ids

    @staticmethod
    def _add_item(db: sqlite3.Connection, item: Item, now: str) -> int:
        _, content, *facts = to_row(dataclasses.replace(item, added=now))
        cursor = db.execute(
            "INSERT INTO item (content, region, path, camera, time, frame_time, track, tags, meta, "
            "added) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            (content, item.region, *facts),
        )
        if cursor.rowcount:
            return int(cursor.lastrowid or 0)
        where = "SELECT id FROM item WHERE content = ? AND region = ?"
        return db.execute(where, (content, item.region)).fetchone()[0]

    def _record_files(self, db: sqlite3.Connection, files: Mapping[str, FileState]) -> None:
        """All of them first: two files may have swapped their contents."""
        left: list[tuple[bytes, str | bytes]] = []
        for path, state in files.items():
            name, content = stored(path), bytes.fromhex(state.content)
            before = db.execute("SELECT content FROM file WHERE path = ?", (name,)).fetchone()
            values = (name, state.size, state.mtime_ns, content, state.detector)
            db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?, ?)", values)
            if before and before[0] != content:
                left.append((before[0], name))
        for content, name in left:
            self._drop_unless_elsewhere(db, content, name)

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
        with self._change() as db:
            self._record_files(db, files)

    def forget_files(self, paths: Sequence[str]) -> int:
        count = 0
        with self._change() as db:
            for path in map(stored, paths):
                row = db.execute("SELECT content FROM file WHERE path = ?", (path,)).fetchone()
                if row:
                    db.execute("DELETE FROM file WHERE path = ?", (path,))
                    count += self._drop_unless_elsewhere(db, row[0], path)
        return count

    def delete(self, ids: Ids) -> int:
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
        found: dict[int, Item] = {}
        for start in range(0, len(ids), 500):
            part = [int(i) for i in ids[start : start + 500]]
            marks = ",".join("?" * len(part))
            rows = self._db.execute(f"SELECT {COLUMNS} FROM item WHERE id IN ({marks})", part)
            found |= {item.id: item for item in map(from_row, rows)}
        return [found[int(i)] for i in ids if int(i) in found]

    def known(self, content: str, model: Model) -> list[Item]:
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM item JOIN vector ON vector.item = item.id "
            "WHERE content = ? AND vector.model = ?",
            (bytes.fromhex(content), model.id),
        )
        return [from_row(row) for row in rows]

    def select(self, where: Mapping[str, Any] | None = None) -> np.ndarray:
        return filters.select(self._db, where or {})

    def cameras_and_tags(self, limit: int = 200) -> tuple[list[str], list[str]]:
        return filters.cameras_and_tags(self._db, limit)

    def files(self) -> dict[str, FileState]:
        rows = self._db.execute("SELECT path, size, mtime_ns, content, detector FROM file")
        return {loaded(r[0]): FileState(r[1], r[2], r[3].hex(), r[4]) for r in rows}

    # Vectors.

    def vectors(self, model: Model, after: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        cursor = self._db.execute(
            "SELECT item, value FROM vector WHERE model = ? AND item > ? ORDER BY item",
            (model.id, int(after)),  # SQLite would take a NumPy integer for bytes
        )
        while rows := cursor.fetchmany(4096):
            ids = np.fromiter((row[0] for row in rows), np.int64, len(rows))
            flat = np.frombuffer(b"".join(row[1] for row in rows), np.float16)
            yield ids, flat.reshape(len(rows), model.vector_size)

    def vectors_of(self, ids: Ids, model: Model) -> np.ndarray:
        query = "SELECT value FROM vector WHERE model = ? AND item = ?"
        out = np.empty((len(ids), model.vector_size), np.float16)
        for row, number in zip(out, ids, strict=True):
            found = self._db.execute(query, (model.id, int(number))).fetchone()
            if found is None:
                raise KeyError(int(number))
            row[:] = np.frombuffer(found[0], np.float16)
        return out

    def embedded(self, model: Model) -> np.ndarray:
        query = "SELECT item FROM vector WHERE model = ? ORDER BY item"
        rows = self._db.execute(query, (model.id,))
        return np.fromiter((row[0] for row in rows), np.int64)

    def without_vector(self, model: Model, limit: int, after: int = 0) -> list[Item]:
        rows = self._db.execute(
            f"SELECT {COLUMNS} FROM item WHERE id > ? AND NOT EXISTS "
            "(SELECT 1 FROM vector WHERE vector.item = item.id AND vector.model = ?) "
            "ORDER BY id LIMIT ?",
            (int(after), model.id, limit),
        )
        return [from_row(row) for row in rows]

    def add_vectors(self, ids: Ids, vectors: np.ndarray, model: Model) -> None:
        blobs = [row.tobytes() for row in np.asarray(vectors, np.float16)]
        with self._change() as db:
            db.executemany(
                "INSERT OR REPLACE INTO vector (model, item, value) "
                "SELECT ?, id, ? FROM item WHERE id = ?",
                [(model.id, blob, int(i)) for i, blob in zip(ids, blobs, strict=True)],
            )

    # The state of the file.

    def changes(self) -> tuple[int, int]:
        return self._db.execute("PRAGMA data_version").fetchone()[0], self._db.total_changes

    def stats(self) -> dict[str, Any]:
        one = lambda query: self._db.execute(query).fetchone()[0]  # noqa: E731
        per_model = dict(self._db.execute("SELECT model, count(*) FROM vector GROUP BY model"))
        return figures(
            self,
            per_model,
            items=one("SELECT count(*) FROM item"),
            files=one("SELECT count(*) FROM file"),
            bytes=0 if self.path == IN_MEMORY else os.path.getsize(self.path),
        )

    @contextlib.contextmanager
    def _change(self) -> Iterator[sqlite3.Connection]:
        """One transaction: all of it, or after any error nothing."""
        if not self.writable:
            raise PermissionError(
                f"{self.path}: no permission to write; search works, changes do not"
            )
        with database.named(self.path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):  # a full disk has rolled back already
                    self._db.execute("ROLLBACK")
                raise
