"""A copy of a Milvus gallery's items in SQLite, so that filters mean what they mean in a file."""

import sqlite3

import numpy as np

from tipr_jax.gallery import database, filters
from tipr_jax.gallery.items import COLUMNS, to_row
from tipr_jax.gallery.milvus_rows import item_of
from tipr_jax.gallery.milvus_tables import ITEM, Tables

_INSERT = (
    f"INSERT OR REPLACE INTO item ({COLUMNS.replace('item.', '')}, region) "
    f"VALUES ({', '.join('?' * (COLUMNS.count(',') + 2))})"
)


class ItemCopy:
    """The items of a gallery, without vectors, as they were when it was asked for last."""

    def __init__(self, tables: Tables):
        self._tables, self._db = tables, database.create(database.IN_MEMORY)
        self._as_of: tuple[int, int] | None = None

    def current(self, changes: tuple[int, int]) -> sqlite3.Connection:
        """A database whose table `item` is current; fetches what was written since the last call.

        changes: of the gallery, see `GalleryStore.changes`.
        """
        if changes == self._as_of:
            return self._db
        since = f"revision > {self._as_of[0]}" if self._as_of else ""
        for rows in self._tables.walk(ITEM, condition=since):
            items = map(item_of, rows)
            self._db.executemany(_INSERT, [(*to_row(item), item.region) for item in items])
        gone = np.setdiff1d(filters.select(self._db, {}), self._tables.ids(ITEM)).tolist()
        self._db.executemany("DELETE FROM item WHERE id = ?", [(number,) for number in gone])
        self._as_of = changes
        return self._db
