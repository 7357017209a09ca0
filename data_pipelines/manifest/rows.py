"""From the rows of a table to pictures of people: rows about one picture, or box in it, add up."""

import collections
import dataclasses
import functools
import math
import os
import re
from collections.abc import Sequence
from typing import NamedTuple

from data_pipelines.datasets.annotation_file import SPLIT_NAMES, not_unicode
from data_pipelines.manifest.findings import Findings
from data_pipelines.manifest.header import Columns
from data_pipelines.manifest.table import BAD, Table
from tipr_jax.languages import language_name
from tipr_jax.preprocess.box import Box

_SPLIT_OF = {spelling: split for split, spellings in SPLIT_NAMES.items() for spelling in spellings}
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_DRIVE = re.compile(r"[A-Za-z]:")  # of Windows, whose other roots begin with two slashes


class Slot(NamedTuple):
    """Which caption of a picture: equal slots in two languages are translations of each other."""

    row: int  # among the rows about the picture in the language
    number: int  # 2 for caption_2


@dataclasses.dataclass(slots=True)
class Picture:
    """A person in a picture.

    Attributes:
      place: number of its first line, or entry.
      path: absolute.
      box: the person within the picture; None: all of it.
      person: id as written; "": none.
      split: train, val or test; "": none.
      captions: (language, slot, text), in the order of the file; language "": not told.
    """

    place: int
    path: str
    box: Box | None
    person: str
    split: str
    captions: list[tuple[str, Slot, str]] = dataclasses.field(default_factory=list)


class RowReader:
    """Collects the pictures of a table.

    where: what findings call a row, "FILE line" or "FILE entry".
    root: where relative paths start.
    """

    def __init__(self, where: str, columns: Columns, root: str, findings: Findings):
        self.where, self.columns, self.root = where, columns, root
        self.problems, self.noted = findings.problems, findings.rows
        self._pictures: dict[str | tuple[str, Box], Picture] = {}

    def read(self, table: Table) -> list[Picture]:
        """All pictures; a row with a mistake becomes a problem."""
        for place, row in table.rows:
            try:
                self._read_row(place, row)
            except ValueError as error:
                self.problems[BAD].append(f"{self.where} {place}: {error}")
        return list(self._pictures.values())

    def _read_row(self, place: int, row: Sequence[str]) -> None:
        columns = self.columns
        path = self._path(place, row[columns.file])
        box = _box(",".join([row[i] for i in columns.box])) if columns.box else None
        person = row[columns.person_id].strip() if columns.person_id is not None else ""
        split = self._split(place, row[columns.split]) if columns.split is not None else ""
        language = _language(row[columns.language]) if columns.language is not None else ""
        said = self._captions(place, row)
        key = path if box is None else (path, box)
        picture = self._pictures.get(key)
        if picture is None:
            picture = self._pictures[key] = Picture(place, path, box, person, split)
            turn = 0
        else:
            _agree(picture, "person_id", picture.person, person)
            _agree(picture, "split", picture.split, split)
            picture.person, picture.split = picture.person or person, picture.split or split
            turn = self._turn(picture, language)
        for name, number, text in said:
            self._add(place, picture, (name or language, _slot(turn, number), text))

    def _turn(self, picture: Picture, language: str) -> int:
        """How many rows in the language have said something about the picture."""
        if self.columns.language is None:
            return 1 + max((slot.row for _, slot, _ in picture.captions), default=-1)
        rows = [slot.row for name, slot, _ in picture.captions if name == language]
        return 1 + max(rows, default=-1)

    def _add(self, place: int, picture: Picture, caption: tuple[str, Slot, str]) -> None:
        language, _, text = caption
        if picture.captions and any(
            text == known and language == name for name, _, known in picture.captions
        ):
            self.noted["a caption that the picture has already is read once"].append(place)
        else:
            picture.captions.append(caption)

    def _captions(self, place: int, row: Sequence[str]) -> list[tuple[str, int, str]]:
        """(language of the column, number, text) of the captions that are not empty."""
        out = []
        for column, language, number in self.columns.captions:
            text = row[column]
            if "\n" in text or "\r" in text:
                self.noted["line breaks in captions are read as spaces"].append(place)
            if text := " ".join(text.split()):
                if not text.isascii() and (problem := not_unicode(text)):
                    raise ValueError(f"caption {problem}")
                out.append((language, number, text))
        return out

    def _path(self, place: int, given: str) -> str:
        path = given.strip()
        if not path:
            raise ValueError("the column file is empty; write the path of the photo")
        if ":" in path and _ADDRESS.match(path):
            raise ValueError(f"file {path!r} is an address; download the photo and give its path")
        if "\\" in path:
            path = path.replace("\\", "/")
        if path.startswith("//") or (":" in path and _DRIVE.match(path)):
            raise ValueError(
                f"file {given!r} is a path of a Windows computer; write it relative to the folder "
                "of the manifest"
            )
        if path != given:
            slashes = "\\" in given
            kind = "paths with \\ are read with /" if slashes else "spaces around paths are dropped"
            self.noted[kind].append(place)
        if path.startswith("/"):
            self.noted["absolute paths hold on this machine alone"].append(place)
        return os.path.normpath(path if path[0] == "/" else f"{self.root}/{path}")

    def _split(self, place: int, given: str) -> str:
        word = given.strip()
        if word in SPLIT_NAMES or not word:
            return word
        split = _SPLIT_OF.get(word.lower())
        if split is None:
            raise ValueError(f"split is {word!r}; expected train, val or test")
        self.noted[f"splits called {word!r} are read as {split!r}"].append(place)
        return split


@functools.lru_cache(maxsize=4096)
def _slot(row: int, number: int) -> Slot:
    return Slot(row, number)


@functools.lru_cache(maxsize=64)
def _language(given: str) -> str:
    """The code of a language written as zh, ZH or zh-CN; "" for an empty value."""
    code = re.split("[-_]", given.strip().lower())[0]
    return language_name(code) if code else ""


def _box(given: str) -> Box | None:
    """The box in a value such as "10,20,64,170", rounded to pixels; None for an empty value."""
    words = re.findall(r"[^\s,;\[\]()]+", given)
    if not words:
        return None
    try:
        x, y, width, height = (float(word) for word in words)
    except ValueError:
        x = math.nan
        y = width = height = x
    if not all(map(math.isfinite, (x, y, width, height))):
        raise ValueError(f"box is {given!r}; expected x,y,width,height in pixels, in quotes")
    if width <= 0 or height <= 0:
        raise ValueError(
            f"box {given!r} is {width:g} wide and {height:g} high; expected x,y,width,height with "
            "more than 0 pixels (corners are another form: subtract x and y)"
        )
    left, top = round(x), round(y)
    return Box(left, top, max(1, round(x + width) - left), max(1, round(y + height) - top))


def _agree(picture: Picture, name: str, known: str, given: str) -> None:
    if known and given and known != given:
        raise ValueError(
            f"{name} is {given!r}, but {known!r} for the same picture at {picture.place}; correct "
            "one of them (several people in one picture need a box each)"
        )


def note_people(pictures: Sequence[Picture], where: str, findings: Findings) -> None:
    """Notes on ids: none at all, some missing, or apart by zeros that a spreadsheet has removed."""
    persons = {picture.person: picture for picture in pictures if picture.person}
    if unnamed := [picture.place for picture in pictures if not picture.person]:
        share = "some without person_id" if persons else "no person_id"
        findings.rows[f"{share}: each of these pictures is a person of its own"] += unnamed
    by_number = collections.defaultdict(list)
    for name in persons:
        if name.isdecimal():
            by_number[int(name)].append(name)
    for names in by_number.values():
        if len(names) > 1:
            findings.notes["ids that differ in leading zeros alone are different people"].append(
                f"{where} {persons[names[0]].place}: {' and '.join(map(repr, names))}"
            )
