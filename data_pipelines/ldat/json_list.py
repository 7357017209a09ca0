"""JSON lists of objects, read and written one object at a time, so that memory stays flat."""

import json
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_CHUNK = 1 << 20  # characters
_LARGEST_ENTRY = 1 << 24  # characters; what is longer is a damaged file
_BETWEEN = re.compile(r"[\s,]*")


def read(path: str | os.PathLike) -> Iterator[Any]:
    """The members of a JSON list in UTF-8, with or without a byte order mark.

    Raises:
      ValueError: no JSON list, another encoding, or the file ends early.
    """
    decoder, at, ended = json.JSONDecoder(), 0, False
    with open(path, encoding="utf-8-sig") as file:
        try:
            buffer = ""
            while not buffer.strip() and (more := file.read(_CHUNK)):
                buffer = more.lstrip()
            if not buffer.startswith("["):
                raise ValueError(f"{path}: expected a JSON list of annotation entries")
            at = 1
            while True:
                at = _BETWEEN.match(buffer, at).end()  # pyright: ignore[reportOptionalMemberAccess]
                if buffer.startswith("]", at):
                    return
                try:
                    member, end = decoder.raw_decode(buffer, at)
                except json.JSONDecodeError as error:
                    if ended or len(buffer) - at > _LARGEST_ENTRY:
                        raise ValueError(
                            f"{path}: not valid JSON ({error.msg}); the file is truncated or "
                            "damaged, fetch it again"
                        ) from None
                    more = file.read(_CHUNK)
                    buffer, at, ended = buffer[at:] + more, 0, not more
                    continue
                yield member
                at = end
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{path}: is not encoded in UTF-8 ({error}); save it as UTF-8"
            ) from None


def write(path: Path, members: Iterable[Any]) -> None:
    """Writes a list with a member per line; the file appears when all of it is on the disk."""
    draft = path.with_name(f".{path.name}.partial-{os.getpid()}")
    try:
        with open(draft, "w", encoding="utf-8") as file:
            separator = "[\n"
            for member in members:
                file.write(separator + json.dumps(member, ensure_ascii=False))
                separator = ",\n"
            file.write("\n]\n" if separator == ",\n" else "[]\n")
            file.flush()
            os.fsync(file.fileno())
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
