"""Reads annotation files, JSON lists of entries, and says what is wrong with an entry.

What the tools of different people write in their own way is read alike: a byte order mark,
back-slashes in paths, numbers in quotes, one caption as a string, splits called Train or
validation. A line says so.
"""

import codecs
import collections
import json
import logging
import os
from collections.abc import Iterable, Sequence
from typing import Any

log = logging.getLogger("tipr_jax")

EMPTY_CAPTIONS = ("keep", "error")  # values of data.empty_captions
PATH_KEYS = ("file_path", "img_path", "image")
SPLIT_NAMES = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}
_SPLIT_OF = {spelling: split for split, spellings in SPLIT_NAMES.items() for spelling in spellings}
_ENCODINGS = {
    codecs.BOM_UTF32_LE: "UTF-32",  # before UTF-16, whose mark it begins with
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    codecs.BOM_UTF32_BE: "UTF-32",
}


def read_entries(annotation_file: str | os.PathLike) -> list[Any]:
    """Parses an annotation file; see the head of this file for what is brought into one form.

    Raises:
      ValueError: another encoding than UTF-8, or not a JSON list of entries.
    """
    with open(annotation_file, "rb") as file:
        data = file.read()
    try:
        entries = json.loads(_decoded(data, annotation_file))
    except (json.JSONDecodeError, RecursionError) as error:
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
    changes = collections.Counter(change for entry in entries for change in _bring_into_form(entry))
    if changes:
        told = ", ".join(f"{number} {change}" for change, number in changes.items())
        log.warning("%s: %s", annotation_file, told)
    return entries


def _decoded(data: bytes, annotation_file: str | os.PathLike) -> str:
    """The text of a UTF-8 file, with or without a byte order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        named = next((name for mark, name in _ENCODINGS.items() if data.startswith(mark)), "")
        found = f"is encoded in {named}" if named else f"is not encoded in UTF-8 ({error})"
        raise ValueError(f"{annotation_file}: {found}; save it as UTF-8") from None


def _bring_into_form(entry: Any) -> list[str]:
    """Changes an entry in place; what was changed, in the plural."""
    if not isinstance(entry, dict):
        return []
    changes = []
    if isinstance(entry.get("id"), str) and entry["id"].strip().isdecimal():
        entry["id"] = int(entry["id"])
        changes.append("ids are numbers in quotes")
    for key in PATH_KEYS:
        if isinstance(entry.get(key), str) and "\\" in entry[key]:
            entry[key] = entry[key].replace("\\", "/")
            changes.append("paths with \\ are read with /")
    if isinstance(entry.get("captions"), str):
        entry["captions"] = [entry["captions"]]
        changes.append("captions are a string instead of a list")
    split = entry.get("split")
    if isinstance(split, str) and split not in SPLIT_NAMES:
        usual = _SPLIT_OF.get(split.strip().lower())
        if usual:
            entry["split"] = usual
            changes.append(f"splits called {split!r} are read as {usual!r}")
    return changes


def content_problem(entry: dict[str, Any], path_key: str, *, names: bool = False) -> str | None:
    """Says what is wrong with the id, path or captions of an entry; None if they are fine.

    names: an id may be a name, too.
    """
    is_name = names and isinstance(entry["id"], str) and entry["id"].strip()
    return (
        (None if is_name else _id_problem(entry["id"]))
        or path_problem(path_key, entry[path_key], "imgs/")
        or _caption_problem(entry["captions"])
    )


def path_problem(key: str, path: Any, base: str) -> str | None:
    """Says why a path read from JSON does not lead into the directory `base`; None if it does."""
    if not isinstance(path, str) or not path or "\0" in path:
        return f"{key} must be a path relative to {base}, found {path!r}"
    try:
        os.fsencode(path)  # bytes that are no UTF-8 come as "\udc80" to "\udcff" and go back
    except UnicodeEncodeError:
        return f"{key} {path!r} cannot be the name of a file; write it anew"
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
        if problem := not_unicode(caption):
            return f"caption {number} {problem}"
    return None


def not_unicode(text: str) -> str | None:
    """Says where a text read from JSON holds half a surrogate pair; None if nowhere."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        return (
            f"has no whole character at place {error.start}: {text[error.start]!r}; write it anew"
        )
    return None


def empty_captions(numbered: Iterable[tuple[int, Any]]) -> list[str]:
    """One line per caption with nothing but white space in it; numbered: (place, entry), ...."""
    return [
        f"entry {index}: caption {number} is empty"
        for index, entry in numbered
        for number, caption in enumerate(entry["captions"])
        if not caption.strip()
    ]


def settle_empty_captions(place: str, entries: Sequence[Any], policy: str) -> None:
    """Counts the empty captions in a line, or refuses them.

    Dropping one would break the pairing of translations, and the released code keeps them.

    Args:
      place: where the entries are from, for the line.
      policy: `data.empty_captions`, "keep" or "error".

    Raises:
      ValueError: another policy, or "error" and there is an empty caption.
    """
    if policy not in EMPTY_CAPTIONS:
        raise ValueError(f"data.empty_captions is {policy!r}, expected one of {EMPTY_CAPTIONS}")
    if not (found := empty_captions(enumerate(entries))):
        return
    if policy == "error":
        raise ValueError(
            f"{place}: {found[0]}; write it, remove it, or set --config.data.empty_captions=keep"
        )
    log.warning(
        "%s: %d captions are empty and kept (first: %s); --config.data.empty_captions=error "
        "refuses them",
        place, len(found), found[0],
    )  # fmt: skip
