"""The rows of a gallery on Milvus, and what they stand for.

Paths and names are quoted as in addresses: they are what Milvus is asked for, and ASCII without
quotation marks means the same to everybody. File names are bytes on Linux, not all of them UTF-8.
"""

import json
import os
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from tipr_jax.gallery.items import Box, FileState, Item, Model
from tipr_jax.gallery.milvus_tables import TEXT, Row

PIECE = 60_000  # characters of a long setting in one row
_FACTS = ("camera", "time", "frame_time", "track", "tags", "meta", "added", "box")


def quoted(path: str) -> str:
    return quote(os.fsencode(path))


def unquoted(path: str) -> str:
    return os.fsdecode(unquote_to_bytes(path))


def file_row(path: str, state: FileState) -> Row:
    facts = json.dumps([state.size, state.mtime_ns, state.detector])
    return {"path": quoted(path), "content": state.content, "facts": facts}


def file_state(row: Row) -> FileState:
    size, mtime_ns, detector = json.loads(row["facts"])
    return FileState(size, mtime_ns, row["content"], detector)


def setting_rows(name: str, value: Any) -> list[Row]:
    """A setting as JSON text in pieces; each says how many count, for older ones may lie behind."""
    text, name = json.dumps(value), quoted(name)
    pieces = [text[start : start + PIECE] for start in range(0, len(text), PIECE)]
    return [
        {"key": f"{name}/{number:06}", "name": name, "value": f"{len(pieces)} {piece}"}
        for number, piece in enumerate(pieces)
    ]


def setting_of(rows: Sequence[Row]) -> Any:
    """The value of a setting; rows: all that have its name, in any order."""
    values = [row["value"].split(" ", 1) for row in sorted(rows, key=lambda row: row["key"])]
    return json.loads("".join(piece for _, piece in values[: int(values[0][0])]))


def key_of(item: Item) -> tuple[str, str]:
    """What an item is known by."""
    return item.content, item.region


def vector_table(model: Model) -> str:
    """The name of the collection; two models never share one, whatever their numbers."""
    return f"vector_{model.fingerprint[:16]}"


def item_row(item: Item, revision: int) -> Row:
    """Raises ValueError for an item of which more is known than Milvus takes."""
    facts = json.dumps({name: getattr(item, name) for name in _FACTS}, default=dict)
    if len(facts) > TEXT:
        raise ValueError(
            f"{item.path}: camera, time, tags and meta have {len(facts)} bytes as JSON, Milvus "
            f"takes {TEXT}; give it less of them"
        )
    return {
        "id": item.id,
        "content": item.content,
        "region": item.region,
        "path": quoted(item.path),
        "facts": facts,
        "revision": revision,
    }


def item_of(row: Row) -> Item:
    facts = json.loads(row["facts"])
    box = facts.pop("box")
    facts |= {"tags": tuple(facts["tags"]), "box": None if box is None else Box(*box)}
    return Item(row["content"], unquoted(row["path"]), id=row["id"], **facts)
