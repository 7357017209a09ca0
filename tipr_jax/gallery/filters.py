"""What a search may ask of an item besides its looks: camera, time, tags, and its own fields.

A filter is a mapping from field to value; all entries must hold. A list means one of its values. A
field may end in a comparison, >, >=, < or <=, as in {"time>=": "2026-11-01", "camera": ["a", "b"]}.
`path` takes a pattern with * and ?. A field that is none of `FIELDS` is looked up in the item's
`meta`. On a command line the same is written camera=a,b or time>=2026-11-01.
"""

import re
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from tipr_jax.gallery.items import BOX

FIELDS = {
    "id": "item.id",
    "path": "item.path",
    "camera": "item.camera",
    "time": "item.time",
    "frame_time": "item.frame_time",
    "track": "item.track",
    "added": "item.added",
    "tag": "",
}
_NUMBERS = ("id", "frame_time", "track")
_TERM = re.compile(r"(?P<field>[^<>=]+?)\s*(?P<comparison>[<>]=?)?")


def select(db: sqlite3.Connection, where: Mapping[str, Any]) -> np.ndarray:
    """The ids of the table `item` that pass a filter, ascending, int64 [N].

    Raises:
      ValueError: an unknown field, or a value of the wrong kind.
    """

    def meta_fields() -> set[str]:
        rows = db.execute("SELECT DISTINCT key FROM item, json_each(item.meta)")
        return {row[0] for row in rows} - {BOX}

    clause, values = to_sql(where, meta_fields)
    rows = db.execute(f"SELECT id FROM item WHERE {clause} ORDER BY id", values)
    return np.fromiter((row[0] for row in rows), np.int64)


def cameras_and_tags(db: sqlite3.Connection, limit: int) -> tuple[list[str], list[str]]:
    """The cameras and tags of the table `item`, sorted, at most `limit` of each."""
    queries = (
        "SELECT DISTINCT camera AS name FROM item WHERE camera IS NOT NULL",
        "SELECT DISTINCT value AS name FROM item, json_each(item.tags)",
    )
    cameras, tags = (
        [row[0] for row in db.execute(f"{query} ORDER BY name LIMIT ?", (limit,))]
        for query in queries
    )
    return cameras, tags


def to_sql(where: Mapping[str, Any], meta_fields: Callable[[], set[str]]) -> tuple[str, list[Any]]:
    """An SQL condition on the table `item`, and the values of its question marks.

    meta_fields: gives the fields that the items' `meta` have.

    Raises:
      ValueError: an unknown field, or a value of the wrong kind.
    """
    parts, values = ["1"], []
    for term, value in where.items():
        part, more = _condition(term, value, meta_fields)
        parts.append(part)
        values += more
    return " AND ".join(f"({part})" for part in parts), values


def parse(terms: Sequence[str]) -> dict[str, Any]:
    """A filter from a command line's terms: ["camera=a,b", "time>=2026-11-01"].

    Raises:
      ValueError: a term without a comparison.
    """
    where: dict[str, Any] = {}
    for term in terms:
        match = re.match(r"\s*([^<>=]+?)\s*(>=|<=|=|>|<)(.*)", term, re.DOTALL)
        if not match:
            raise ValueError(
                f"filter {term!r}: expected FIELD=VALUE, as in camera=gate or time>=2026-11-01"
            )
        field, comparison, text = match[1], match[2], match[3].strip()
        alternatives = [part.strip() for part in text.split(",")]
        value = alternatives if comparison == "=" and len(alternatives) > 1 else text
        where[field if comparison == "=" else field + comparison] = value
    return where


def _condition(term: str, value: Any, meta_fields: Callable[[], set[str]]) -> tuple[str, list[Any]]:
    match = _TERM.fullmatch(term.strip())
    field, comparison = (match["field"], match["comparison"]) if match else (term, None)
    options = list(value) if isinstance(value, list | tuple | set) else [value]
    if comparison and len(options) != 1:
        raise ValueError(f"filter {term}: expected one value, got {options}")
    if field in _NUMBERS:
        options = [_number(term, option) for option in options]
    if field == "tag":
        return _tag(term, options, comparison)
    if field == "path" and not comparison:
        return " OR ".join(["item.path GLOB ?"] * len(options)) or "0", options
    if field in FIELDS:
        column, given = FIELDS[field], []
    else:
        _check_known(field, meta_fields())
        column, given = "json_extract(item.meta, ?)", [f'$."{field}"']
        options = [plain(option) for option in options]
    if comparison:
        return f"{column} {comparison} ?", [*given, *options]
    marks = ",".join("?" * len(options))
    return f"{column} IN ({marks})", [*given, *options]


def _tag(term: str, options: list[Any], comparison: str | None) -> tuple[str, list[Any]]:
    if comparison:
        raise ValueError(f"filter {term}: a tag is there or not; expected tag=NAME")
    marks = ",".join("?" * len(options))
    return f"EXISTS (SELECT 1 FROM json_each(item.tags) WHERE value IN ({marks}))", options


def _check_known(field: str, meta_fields: set[str]) -> None:
    if field not in meta_fields:
        known = ", ".join([*FIELDS, *sorted(meta_fields)])
        raise ValueError(f"filter {field!r}: no item has such a field; there are {known}")


def _number(term: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise ValueError(f"filter {term}={value}: expected a number") from None


def plain(value: Any) -> Any:
    """A value as JSON has it: numbers and true from a command line compare as such."""
    if isinstance(value, str):
        if value in ("true", "false"):
            return int(value == "true")
        try:
            return float(value)
        except ValueError:
            return value
    return value
