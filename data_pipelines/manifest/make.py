"""Writes a first manifest for a folder of photos, with the captions that are already somewhere."""

import csv
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from data_pipelines.manifest import header
from data_pipelines.manifest.files import NAMES
from data_pipelines.manifest.findings import Findings
from data_pipelines.manifest.table import read_table
from tipr_jax.paths import no_such_path

PHOTOS = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
PERSON_IDS = {  # where ids come from -> id of a path below the folder
    "none": lambda path: "",
    "folder": lambda path: path.parent.name,
    "prefix": lambda path: re.split(r"[_ -]", path.stem)[0],
}


def make_manifest(
    photos: str, captions: str = "txt", person_id: str = "none", output: str = ""
) -> tuple[Path, dict[str, int]]:
    """Writes a manifest, one line a photo in the order of the paths, and returns its path.

    Args:
      photos: a folder, searched with all below it; names that begin with a dot do not count.
      captions: "txt": each line of PHOTO.txt is one; "names": the words of the file name; or a
        table with columns file and caption, matched by path, else by file name.
      person_id: a key of `PERSON_IDS`: "folder" is the name of the photo's folder, "prefix" what
        comes before the first _, - or space of the file name.
      output: default: manifest.csv in the folder.

    Returns:
      (path, counts): "photos", those "without a caption", "captions without a photo".

    Raises:
      FileNotFoundError: no such folder or table, or no photo in it.
      FileExistsError: the output exists.
      ValueError: the table cannot be read.
    """
    folder = Path(photos).expanduser().absolute()
    if not folder.is_dir():
        raise FileNotFoundError(no_such_path(folder, "folder of photos"))
    target = Path(output).expanduser().absolute() if output else folder / NAMES[0]
    if target.exists():
        raise FileExistsError(f"{target} exists; move it away, or choose another --output")
    paths = sorted(_photos(folder))
    if not paths:
        raise FileNotFoundError(f"{folder} has no photo; expected {', '.join(PHOTOS)} there")
    unused = 0
    if captions == "names":
        said = [_words(path.stem) for path in paths]
    elif captions == "txt":
        said = [_sidecar(folder / path) for path in paths]
    else:
        said, unused = _of_table(captions, paths)
    most = max(1, max(map(len, said)))
    id_of = PERSON_IDS[person_id]
    _write(target, folder, paths, said, most, id_of if person_id != "none" else None)
    without = sum(not texts for texts in said)
    counts = {"photos": len(paths), "without a caption": without}
    return target, counts | {"captions without a photo": unused}


def _photos(folder: Path) -> Iterator[Path]:
    """Paths of the photos, from the folder on."""
    for directory, below, names in os.walk(folder):
        below[:] = [name for name in below if not name.startswith(".")]
        for name in names:
            if name.lower().endswith(PHOTOS) and not name.startswith("."):
                yield (Path(directory) / name).relative_to(folder)


def _words(stem: str) -> list[str]:
    """The words of a file name as one caption: man_red-coat_01 -> man red coat."""
    text = " ".join(re.findall(r"[^\W\d_]+", stem))
    return [text] if text else []


def _sidecar(path: Path) -> list[str]:
    file = path.with_suffix(".txt")
    if not file.is_file():
        return []
    try:
        lines = file.read_text("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: not encoded in UTF-8 ({error.reason}); save it so") from None
    return [text for line in lines if (text := " ".join(line.split()))]


def _of_table(path: str, photos: list[Path]) -> tuple[list[list[str]], int]:
    """The captions of each photo, and how many rows are about no photo.

    Raises:
      ValueError: as `read_table`; a row that is bad, or a name that two photos have.
    """
    if not os.path.isfile(path):
        raise FileNotFoundError(no_such_path(path, "table of captions (or 'txt', or 'names')"))
    findings = Findings()
    table = read_table(path, header.known, findings)
    try:
        columns = header.understand(table.header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    place_of: dict[str, list[int]] = {}
    for place, photo in enumerate(photos):
        for name in {photo.as_posix(), photo.name, photo.stem}:
            place_of.setdefault(name, []).append(place)
    said: list[list[str]] = [[] for _ in photos]
    unused = 0
    for number, row in table.rows:
        name = row[columns.file].strip().replace("\\", "/").removeprefix("./")
        places = place_of.get(name) or place_of.get(name.rpartition("/")[2]) or []
        if len(places) > 1:
            found = " and ".join(photos[place].as_posix() for place in places[:2])
            raise ValueError(f"{path} {table.unit} {number}: {name!r} is {found}; write the path")
        unused += not places
        for place in places:
            texts = (" ".join(row[column.place].split()) for column in columns.captions)
            said[place] += [text for text in texts if text]
    findings.check(path)
    return said, unused


def _write(
    target: Path,
    folder: Path,
    paths: list[Path],
    said: list[list[str]],
    most: int,
    id_of: Callable[[Path], str] | None,
) -> None:
    start = Path(os.path.relpath(folder, target.parent))
    captions = ["caption", *(f"caption_{number}" for number in range(2, most + 1))]
    with open(target, "x", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", *captions, *(["person_id"] if id_of else [])])
        for path, texts in zip(paths, said, strict=True):
            filled = texts + [""] * (most - len(texts))
            writer.writerow([(start / path).as_posix(), *filled, *([id_of(path)] if id_of else [])])
