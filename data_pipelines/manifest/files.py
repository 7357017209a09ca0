"""Where a manifest lies, and whether the photos that it lists are there."""

import functools
import os
from collections.abc import Sequence
from pathlib import Path

import tqdm

from data_pipelines.manifest.findings import Findings
from data_pipelines.manifest.rows import Picture
from tipr_jax.paths import no_such_path
from tipr_jax.preprocess.box import within
from tipr_jax.preprocess.image import seen_size

NAMES = ("manifest.csv", "manifest.tsv", "manifest.jsonl", "manifest.json")
ENDINGS = (".csv", ".tsv", ".jsonl", ".json")
HINTS = 10  # missing files whose nearest name is looked for, in directories of any size


def find_manifest(root: str) -> str:
    """The absolute path of the manifest that is meant: a file, or the one in a folder.

    Raises:
      FileNotFoundError: there is none.
      ValueError: several are in the folder, and none is called manifest.csv (.tsv, .jsonl, .json).
    """
    path = Path(os.path.abspath(os.path.expanduser(root)))
    if path.is_file():
        return str(path)
    if not path.is_dir():
        raise FileNotFoundError(no_such_path(path, "manifest, or folder with one"))
    for name in NAMES:
        if (path / name).is_file():
            return str(path / name)
    tables = [p for p in sorted(path.iterdir()) if p.suffix.lower() in ENDINGS and p.is_file()]
    tables = [p for p in tables if not p.name.startswith(".")]
    if len(tables) > 1:
        found = ", ".join(p.name for p in tables[:5])
        raise ValueError(f"{path} has several tables: {found}; give the one that you mean")
    if not tables:
        raise FileNotFoundError(
            f"{path} has no manifest; expected manifest.csv there (python -m "
            f"data_pipelines.manifest make {path} writes one), or give the file"
        )
    return str(tables[0])


def check_files(pictures: Sequence[Picture], where: str, findings: Findings) -> list[Picture]:
    """A problem for every picture whose file is missing, or whose box lies outside; the others.

    Reads the headers of pictures with boxes, with a progress bar.
    """
    there: dict[str, bool] = {}
    found = []
    for picture in pictures:
        path = picture.path
        if path not in there:
            there[path] = os.path.isfile(path)
        if there[path]:
            found.append(picture)
        else:
            missing = findings.problems["missing file"]
            missing.append(f"{where} {picture.place}: {_why_missing(path, len(missing) < HINTS)}")
    boxed = [picture for picture in found if picture.box]
    size_of = functools.cache(_size)
    outside = {
        picture.place
        for picture in tqdm.tqdm(boxed, "check boxes", unit="box", leave=False, disable=None)
        if not _fits(picture, size_of(picture.path), where, findings)
    }
    return [picture for picture in found if picture.place not in outside]


def _fits(picture: Picture, size: tuple[int, int] | None, where: str, findings: Findings) -> bool:
    """Whether some of a picture's box lies in it; size None: the decoder will say what is wrong."""
    assert picture.box is not None
    if size is None:
        return True
    inside = within(picture.box.corners, size)
    if inside is None:
        box = ",".join(map(str, picture.box))
        findings.problems["box outside its picture"].append(
            f"{where} {picture.place}: the box {box} lies outside {picture.path}, which has "
            f"{size[1]} x {size[0]} pixels; expected x,y,width,height"
        )
    elif inside != picture.box:
        findings.rows["boxes are cut off at the border of the picture"].append(picture.place)
    return inside is not None


def _size(path: str) -> tuple[int, int] | None:
    try:
        return seen_size(path)
    except (ValueError, OSError):
        return None


def _why_missing(path: str, look: bool) -> str:
    if os.path.isdir(path):
        return f"{path} is a folder; write the path of a photo"
    return no_such_path(path, "file") if look else f"{path}: no such file"
