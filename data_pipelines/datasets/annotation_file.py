"""Reads annotation files, JSON lists of entries, and says what is wrong with an entry."""

import json
import os
from typing import Any


def read_entries(annotation_file: str | os.PathLike) -> list[Any]:
    """Parses an annotation file. Raises ValueError if it is not a JSON list of entries."""
    try:
        with open(annotation_file, encoding="utf-8") as file:
            entries = json.load(file)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ValueError(
            f"{annotation_file}: not valid JSON ({error}); "
            "the file is truncated or damaged, fetch it again"
        ) from None
    if not isinstance(entries, list) or not entries:
        found = "an empty list" if entries == [] else type(entries).__name__
        raise ValueError(
            f"{annotation_file}: expected a JSON list of annotation entries, found {found}; "
            "is this the annotation file of another data set?"
        )
    return entries


def content_problem(entry: dict[str, Any], path_key: str) -> str | None:
    """Says what is wrong with the id, path or captions of an entry; None if they are fine."""
    return (
        _id_problem(entry["id"])
        or path_problem(path_key, entry[path_key], "imgs/")
        or _caption_problem(entry["captions"])
    )


def path_problem(key: str, path: Any, base: str) -> str | None:
    """Says why a path read from JSON does not lead into the directory `base`; None if it does."""
    if not isinstance(path, str) or not path or "\0" in path:
        return f"{key} must be a path relative to {base}, found {path!r}"
    parts = path.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return f"{key} {path!r} leaves {base}; use a path relative to it, without '..'"
    return None


def _id_problem(person_id: Any) -> str | None:
    if not isinstance(person_id, int) or isinstance(person_id, bool):
        return f"id must be an integer, found {person_id!r}"
    if not 0 <= person_id < 2**31:
        return f"id {person_id} is outside 0 .. 2**31 - 1"
    return None


def _caption_problem(captions: Any) -> str | None:
    if not isinstance(captions, list) or not captions:
        return f"captions must be a list of at least one string, found {captions!r}"
    for number, caption in enumerate(captions):
        if not isinstance(caption, str):
            return f"caption {number} must be a string, found {caption!r}"
        if not caption.strip():
            return f"caption {number} is empty; write one or remove it from the list"
    return None
