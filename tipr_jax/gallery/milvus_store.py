"""A gallery on a Milvus server, for more people than one machine should keep.

Milvus keeps items, files and vectors, a collection per model; whoever searches fetches the vectors
and ranks them by its own exact index, so an answer equals that of a gallery file in every digit.
That holds while the vectors fit the memory of the devices that search: 2 GiB for a million of 512
numbers, which are fetched once, and then what is new. Filters are decided by SQLite on a copy of
the items' facts, about 1 kB each, so they mean the same as in a file, too.

Milvus has no transactions. Writers take turns (`milvus_turn`), and within a turn the order is such
that a process may be killed between any two writes: an item comes after its vectors and goes before
them, so nobody sees one without the other; a file's record comes after its items, so that a rerun
of `add` takes the file again; a deletion forgets the file first, so that a later rescan finds it.
A rerun of what was interrupted completes it. Vectors whose item is gone are seen by nobody.

Vectors are float32 on the server, for milvus-lite has no float16; the values are those of float16.
"""

import contextlib
import dataclasses
import datetime
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import filters, milvus_turn
from tipr_jax.gallery.interface import GalleryStore, check_format, check_shape, figures
from tipr_jax.gallery.items import FileState, Ids, Item, Model
from tipr_jax.gallery.milvus_copy import ItemCopy
from tipr_jax.gallery.milvus_rows import (
    file_row,
    file_state,
    item_of,
    item_row,
    key_of,
    quoted,
    setting_of,
    setting_rows,
    unquoted,
    vector_table,
)
from tipr_jax.gallery.milvus_tables import FILE, ITEM, MOST, SETTING, Tables, parts
from tipr_jax.gallery.milvus_turn import Turn

FORMAT = 1
NUMBERS = 1 << 23  # of vectors, that one call brings: 32 MiB


class MilvusStore(GalleryStore):
    """A gallery by its address, see `milvus_tables`. Every process and thread opens its own."""

    def __init__(self, tables: Tables):
        self._tables, self.path = tables, tables.address
        self._outdated = 0  # how often a writer was at work when we looked
        self._turn: Turn | None = None  # while a call writes
        self._copy = ItemCopy(tables)

    @classmethod
    def create(cls, address: str) -> "MilvusStore":
        """A new, empty gallery.

        Raises:
          ValueError: there is a gallery already; what is no address; pymilvus is missing.
          OSError: the server cannot be reached, or refuses.
        """
        tables = Tables(address, create=True)
        if tables.exists(SETTING):
            raise ValueError(f"{address} exists already; open it, or choose another name")
        for table in (ITEM, FILE, SETTING):
            tables.create(table)
        store = cls(tables)
        store.remember("format", FORMAT)
        return store

    @classmethod
    def open(cls, address: str) -> "MilvusStore":
        """An existing gallery.

        Raises:
          FileNotFoundError: there is none of this name on the server.
          ValueError: what is no address; a newer format; pymilvus is missing.
          OSError: the server cannot be reached, or refuses.
        """
        tables = Tables(address)
        if not tables.exists(SETTING):
            near = tables.others()
            hint = f"; did you mean {', '.join(near)}?" if near else ""
            raise FileNotFoundError(f"{address}: no such gallery{hint}")
        tables.load(SETTING)
        store = cls(tables)
        check_format(address, store.setting("format", FORMAT), FORMAT)
        for table in (ITEM, FILE, *map(vector_table, store.models())):
            if tables.exists(table):  # a killed `remove_model` may have come so far
                tables.load(table)
        return store

    def close(self) -> None:
        self._tables.close()

    @contextlib.contextmanager
    def _change(self) -> Iterator[Turn]:
        """The turn of a call, in which the calls that it makes write, too."""
        if self._turn:
            yield self._turn
            return
        with milvus_turn.take(self._tables) as self._turn:
            try:
                yield self._turn
            finally:
                self._turn = None

    # Settings and models.

    def setting(self, name: str, default: Any = None) -> Any:
        rows = self._tables.rows(SETTING, "name", [quoted(name)])
        return setting_of(rows) if rows else default

    def remember(self, name: str, value: Any) -> None:
        with self._change() as turn:
            turn.put(SETTING, setting_rows(name, value))

    def models(self) -> list[Model]:
        return [Model(*fields) for fields in self.setting("models", [])]

    def register_model(
        self, fingerprint: str, directory: str, vector_size: int, facts: Mapping[str, Any]
    ) -> Model:
        new = Model(0, fingerprint, directory, vector_size, dict(facts))
        self._tables.create(vector_table(new), vector_size)
        with self._change() as turn:
            models = {model.fingerprint: model for model in self.models()}
            number = 1 + max((model.id for model in models.values()), default=0)
            model = models.get(fingerprint, new._replace(id=number))._replace(directory=directory)
            turn.put(SETTING, setting_rows("models", [*(models | {fingerprint: model}).values()]))
        return model

    def remove_model(self, model: Model) -> None:
        with self._change() as turn:
            self._tables.destroy(vector_table(model))
            left = [other for other in self.models() if other.id != model.id]
            turn.put(SETTING, setting_rows("models", left))

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
        ids: list[int] = []
        with self._change() as turn:
            for part in parts(items):
                known = self._ids_of(part)
                first = {key_of(item): item for item in reversed(part)}
                new = [first[key] for key in dict.fromkeys(map(key_of, part)) if key not in known]
                numbers = turn.new_ids(len(new))
                known |= dict(zip(map(key_of, new), numbers, strict=True))
                here = [known[key_of(item)] for item in part]
                rows = [
                    item_row(dataclasses.replace(item, id=number, added=now), turn.revision)
                    for item, number in zip(new, numbers, strict=True)
                ]
                self._put_vectors(turn, here, vectors[len(ids) : len(ids) + len(part)], model)
                turn.put(ITEM, rows)
                ids += here
            self.record_files(files or {})
        return ids

    def _ids_of(self, items: Sequence[Item]) -> dict[tuple[str, str], int]:
        """The ids of those that are here already."""
        contents = {item.content for item in items}
        rows = self._tables.rows(ITEM, "content", contents, ("id", "content", "region"))
        return {(row["content"], row["region"]): row["id"] for row in rows}

    def record_files(self, files: Mapping[str, FileState]) -> None:
        with self._change() as turn:
            for part in parts(list(files)):
                states = {path: files[path] for path in part}
                before = self._contents_of(part)
                left = {p: c for p, c in before.items() if c != states[p].content}
                gone = self._leave(turn, left, states)
                turn.put(FILE, [file_row(path, state) for path, state in states.items()])
                self._drop_vectors(turn, gone)

    def forget_files(self, paths: Sequence[str]) -> int:
        count = 0
        with self._change() as turn:
            for part in parts(paths):
                left = self._contents_of(part)
                gone = self._leave(turn, left, {})
                turn.drop(FILE, [quoted(path) for path in left])
                self._drop_vectors(turn, gone)
                count += len(gone)
        return count

    def _contents_of(self, paths: Collection[str]) -> dict[str, str]:
        """What the recorded ones of these files had in them."""
        rows = self._tables.rows(FILE, "path", [*map(quoted, paths)], ("path", "content"))
        return {unquoted(row["path"]): row["content"] for row in rows}

    def _leave(
        self, turn: Turn, left: Mapping[str, str], states: Mapping[str, FileState]
    ) -> list[int]:
        """The items of contents that files have no longer go, or take another file's path.

        left: the former contents by path. states: what files have from now on. Returns the ids of
        items that went; their vectors are still there.
        """
        contents = set(left.values())
        holders = {state.content: path for path, state in states.items()}
        for row in self._tables.rows(FILE, "content", contents, ("path", "content")):
            if (path := unquoted(row["path"])) not in left:
                holders.setdefault(row["content"], path)
        gone, moved = [], []
        for row in self._tables.rows(ITEM, "content", contents):
            path = holders.get(row["content"])
            if path is None:
                gone.append(row["id"])
            elif left.get(unquoted(row["path"])) == row["content"]:
                moved.append(row | {"path": quoted(path), "revision": turn.revision})
        turn.put(ITEM, moved)
        turn.drop(ITEM, gone)
        return gone

    def delete(self, ids: Ids) -> int:
        count = 0
        with self._change() as turn:
            for part in parts([int(number) for number in ids]):
                rows = self._tables.rows(ITEM, "id", part, ("id", "content"))
                gone, contents = [row["id"] for row in rows], {row["content"] for row in rows}
                others = self._tables.rows(ITEM, "content", contents, ("id", "content"))
                contents -= {row["content"] for row in others if row["id"] not in set(gone)}
                files = self._tables.rows(FILE, "content", contents, ("path",))
                turn.drop(FILE, [row["path"] for row in files])
                turn.drop(ITEM, gone)
                self._drop_vectors(turn, gone)
                count += len(gone)
        return count

    def _drop_vectors(self, turn: Turn, ids: Sequence[int]) -> None:
        for model in self.models() if ids else ():
            if self._tables.exists(vector_table(model)):
                turn.drop(vector_table(model), ids)

    def items(self, ids: Ids) -> list[Item]:
        rows = self._tables.rows(ITEM, "id", [int(number) for number in ids])
        found = {row["id"]: item_of(row) for row in rows}
        return [found[int(number)] for number in ids if int(number) in found]

    def known(self, content: str, model: Model) -> list[Item]:
        rows = self._tables.rows(ITEM, "content", [content])
        have = self._tables.present(vector_table(model), [row["id"] for row in rows])
        return [item_of(row) for row in rows if row["id"] in have]

    def select(self, where: Mapping[str, Any] | None = None) -> np.ndarray:
        if not where:
            return self._tables.ids(ITEM)
        return filters.select(self._copy.current(self.changes()), where)

    def cameras_and_tags(self, limit: int = 200) -> tuple[list[str], list[str]]:
        return filters.cameras_and_tags(self._copy.current(self.changes()), limit)

    def files(self) -> dict[str, FileState]:
        return {
            unquoted(row["path"]): file_state(row)
            for rows in self._tables.walk(FILE)
            for row in rows
        }

    # Vectors. Those of an item that is gone may still lie there, and do not count.

    def vectors(self, model: Model, after: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        if not self._tables.exists(vector_table(model)):
            return
        live, page = self._tables.ids(ITEM, after), min(MOST, NUMBERS // model.vector_size)
        table, where = vector_table(model), f"id > {int(after)}"
        bar = tqdm(total=len(live), desc="fetch", unit="item", leave=False, disable=None, delay=2)
        with bar:
            for rows in self._tables.walk(table, ("id", "vector"), where, page):
                ids = np.array([row["id"] for row in rows], np.int64)
                vectors = np.array([row["vector"] for row in rows], np.float16)
                kept = np.isin(ids, live)
                bar.update(int(kept.sum()))
                if kept.any():
                    yield ids[kept], vectors[kept]

    def vectors_of(self, ids: Ids, model: Model) -> np.ndarray:
        numbers = [int(number) for number in ids]
        there = self._tables.present(ITEM, numbers)
        rows = self._tables.rows(vector_table(model), "id", there, ("id", "vector"))
        found = {row["id"]: row["vector"] for row in rows}
        out = np.empty((len(ids), model.vector_size), np.float16)
        for row, number in zip(out, numbers, strict=True):
            row[:] = found[number]
        return out

    def embedded(self, model: Model) -> np.ndarray:
        if not self._tables.exists(vector_table(model)):
            return np.zeros(0, np.int64)
        return np.intersect1d(self._tables.ids(ITEM), self._tables.ids(vector_table(model)))

    def without_vector(self, model: Model, limit: int, after: int = 0) -> list[Item]:
        found: list[Item] = []
        for rows in self._tables.walk(ITEM, condition=f"id > {int(after)}", page=max(limit, 64)):
            have = self._tables.present(vector_table(model), [row["id"] for row in rows])
            found += [item_of(row) for row in rows if row["id"] not in have]
            if len(found) >= limit:
                break
        return found[:limit]

    def add_vectors(self, ids: Ids, vectors: np.ndarray, model: Model) -> None:
        done = 0
        with self._change() as turn:
            for part in parts([int(number) for number in ids]):
                there = self._tables.present(ITEM, part)
                chosen = [row for row, number in enumerate(part) if number in there]
                here = vectors[done : done + len(part)][chosen]
                self._put_vectors(turn, [part[row] for row in chosen], here, model)
                done += len(part)

    @staticmethod
    def _put_vectors(turn: Turn, ids: Sequence[int], vectors: np.ndarray, model: Model) -> None:
        values = np.asarray(vectors, np.float16).astype(np.float32)
        rows = {number: vector for number, vector in zip(ids, values, strict=True)}
        turn.put(vector_table(model), [{"id": n, "vector": v} for n, v in rows.items()])

    # The whole of it.

    def changes(self) -> tuple[int, int]:
        state = milvus_turn.look(self._tables)
        if state.flags:  # a writer is at work, or was killed: nothing that was read stands
            self._outdated += 1
        return state.changes, self._outdated

    def stats(self) -> dict[str, Any]:
        """Figures; "bytes" are those of the vectors, for a server does not tell its files."""
        models = self.models()
        vectors = {model.id: len(self.embedded(model)) for model in models}
        return figures(
            self,
            vectors,
            items=self._tables.count(ITEM),
            files=self._tables.count(FILE),
            bytes=sum(4 * model.vector_size * vectors[model.id] for model in models),
        )
