"""Which column of a table is what, by its name."""

import difflib
import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

from tipr_jax.languages import language_name

SYNONYMS = {
    "file": (
        *("image", "image_path", "img_path", "file_path", "path", "filename", "file_name"),
        *("photo", "picture", "img"),
    ),
    "caption": ("captions", "text", "sentence", "description"),
    "person_id": ("id", "identity", "pid", "person", "subject"),
    "split": ("set", "subset"),
    "language": ("lang",),
    "camera": ("cam", "camera_id", "cam_id"),
    "box": ("bbox", "bounding_box"),
    "x": ("left",),
    "y": ("top",),
    "width": ("w",),
    "height": ("h",),
}
_MEANING = {name: column for column, names in SYNONYMS.items() for name in (column, *names)}
_CAPTION = re.compile(
    rf"(?:{'|'.join(('caption', *SYNONYMS['caption']))})"
    r"(?:_((?!id)[a-z]{2}))??(?:_?([0-9]+))?(?:_((?!id)[a-z]{2}))?"  # caption_id: a number of it
)
CORNERS = ("x", "y", "width", "height")


class CaptionColumn(NamedTuple):
    """place: in a row; language: "" if its name tells none; number: 2 for caption_2."""

    place: int
    language: str
    number: int


class Columns(NamedTuple):
    """Places of the columns in a row; None: there is no such column.

    box: one place, or those of x, y, width, height. unused: names of columns that nobody reads.
    """

    file: int
    captions: tuple[CaptionColumn, ...]
    person_id: int | None
    split: int | None
    language: int | None
    box: tuple[int, ...] | None
    unused: tuple[str, ...]


def known(names: Sequence[str]) -> int:
    """How many of the names are those of columns."""
    return sum(bool(_plain(n) in _MEANING or _CAPTION.fullmatch(_plain(n))) for n in names)


def understand(names: Sequence[str]) -> Columns:
    """Finds the columns by their names; case, spaces and hyphens do not count.

    Raises:
      ValueError: file or caption is missing, two columns mean the same, a language is unknown, or
        a name is nearly that of a missing column.
    """
    found: dict[str, int] = {}
    captions: dict[tuple[str, int], int] = {}
    unused: list[int] = []
    documented = {_plain(name) for name in names} & SYNONYMS.keys()  # they go before synonyms
    for place, name in enumerate(map(_plain, names)):
        if match := _CAPTION.fullmatch(name):
            language = match[1] or match[3]
            key = (language_name(language) if language else "", int(match[2] or 1))
            _claim(captions, key, place, names)
        elif name not in _MEANING or (_MEANING[name] in documented and name not in SYNONYMS):
            unused.append(place)
        else:
            _claim(found, _MEANING[name], place, names)
    corners = all(name in found for name in CORNERS)
    if not corners:  # width and height alone are those of the picture
        unused += [found.pop(name) for name in CORNERS if name in found]
    elif "box" in found:
        raise ValueError("has the columns box and x, y, width, height; keep one of the two forms")
    _check(names, found, captions, unused)
    single = (found["box"],) if "box" in found else None
    return Columns(
        file=found["file"],
        captions=tuple(CaptionColumn(captions[key], *key) for key in sorted(captions)),
        person_id=found.get("person_id"),
        split=found.get("split"),
        language=found.get("language"),
        box=tuple(found[name] for name in CORNERS) if corners else single,
        unused=tuple(names[place] or "(without a name)" for place in sorted(unused)),
    )


@functools.lru_cache(maxsize=1024)
def _plain(name: str) -> str:
    return re.sub(r"[\s-]+", "_", name.strip().lower())


def _claim(places: dict, key: object, place: int, names: Sequence[str]) -> None:
    if key in places:
        raise ValueError(
            f"the columns {names[places[key]]!r} and {names[place]!r} mean the same; rename or "
            "remove one of them"
        )
    places[key] = place


def _check(names: Sequence[str], found: dict, captions: dict, unused: Sequence[int]) -> None:
    """Raises ValueError for a missing column, or a name that was probably meant to be one."""
    missing = [name for name in SYNONYMS if name not in found and name not in CORNERS]
    if captions:
        missing.remove("caption")
    candidates = {name: column for column in missing for name in (column, *SYNONYMS[column])}
    for place in unused:
        if near := difflib.get_close_matches(_plain(names[place]), candidates, 1, 0.75):
            raise ValueError(
                f"the column {names[place]!r} is unknown; did you mean {candidates[near[0]]!r}? "
                "Rename it, or remove it if it is something else"
            )
    for needed in ("file", "caption"):
        if needed in missing:
            listed = ", ".join(names)
            listed = listed if len(listed) < 200 else f"{listed[:200]} ..."
            raise ValueError(
                f"names no column {needed!r}, but: {listed}; expected the names of the columns "
                "first, as in file,caption,person_id,split"
            )
    if "language" in found and any(language for language, _ in captions):
        raise ValueError(
            "has a column 'language' and captions whose column tells the language; keep one of "
            "the two forms"
        )
