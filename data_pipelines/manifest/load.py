"""Loads a manifest: one function reads it, for training and for the check alike."""

import contextlib
import dataclasses
import gc
import os
from collections.abc import Iterator, Sequence

import numpy as np

from data_pipelines.datasets.annotation_file import EMPTY_CAPTIONS
from data_pipelines.datasets.split import SPLITS, Split
from data_pipelines.manifest import header
from data_pipelines.manifest.files import check_files, find_manifest
from data_pipelines.manifest.findings import Findings
from data_pipelines.manifest.rows import Picture, RowReader, Slot, note_people
from data_pipelines.manifest.splits import assign_splits
from data_pipelines.manifest.table import read_table
from tipr_jax.languages import LANGUAGES, run_languages


@dataclasses.dataclass
class Manifest:
    """What a manifest says, and what is wrong with it.

    Attributes:
      path: of the file, absolute.
      where: what findings call a row, "FILE line" or "FILE entry".
      pictures: of all splits, in the order of the file.
      languages: of the captions that are read, the source first; ("",) for one without a name.
      findings: complete.
    """

    path: str
    where: str
    pictures: list[Picture]
    languages: tuple[str, ...]
    findings: Findings

    def captions(self, picture: Picture) -> list[tuple[str, ...]]:
        """The captions of a picture: [(source, target, ...), ...], without those that lack one."""
        if len(self.languages) == 1:
            return [(text,) for name, _, text in picture.captions if name == self.languages[0]]
        by_slot: dict[Slot, dict[str, str]] = {}
        for name, slot, text in picture.captions:
            by_slot.setdefault(slot, {})[name] = text
        return [
            tuple(texts[name] for name in self.languages)
            for texts in by_slot.values()
            if all(name in texts for name in self.languages)
        ]


@contextlib.contextmanager
def _no_garbage() -> Iterator[None]:
    """Lets the collector of circles rest, which would look through millions of rows many times."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@_no_garbage()
def read_manifest(
    root: str,
    languages: Sequence[str] = (),
    *,
    image_root: str = "",
    splits: bool = True,
    empty_captions: str = "keep",
) -> Manifest:
    """Reads a manifest with everything that is wrong in its `findings`.

    Args:
      root: the file, or the folder that it lies in.
      languages: to read, the source first; captions without a language are the source's. (): those
        without a language, or else of the first language that there is.
      image_root: where relative paths start; "": at the folder of the manifest.
      splits: False leaves the splits as they are, for a list that is trained on as a whole.
      empty_captions: "keep" notes pictures without a caption, which are searched among; "error"
        makes them problems.

    Raises:
      FileNotFoundError: no manifest is there.
      ValueError: it is no table with a file and a caption; languages that are none of its.
    """
    if empty_captions not in EMPTY_CAPTIONS:
        raise ValueError(
            f"data.empty_captions is {empty_captions!r}, expected one of {EMPTY_CAPTIONS}"
        )
    wanted = run_languages(languages)
    path, findings = find_manifest(root), Findings()
    table = read_table(path, header.known, findings)
    try:
        columns = header.understand(table.header)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    if columns.unused:
        findings.notes["columns that are not read"].append(f"{path}: {', '.join(columns.unused)}")
    where = f"{path} {table.unit}"
    start = os.path.abspath(os.path.expanduser(image_root or os.path.dirname(path)))
    pictures = RowReader(where, columns, start, findings).read(table)
    if not pictures and not findings.problems:
        raise ValueError(f"{path}: has no row below its header; expected one for each photo")
    pictures = check_files(pictures, where, findings)
    note_people(pictures, where, findings)
    if splits and pictures:
        assign_splits(pictures, where, start, findings)
        if not findings.problems and all(picture.split != "train" for picture in pictures):
            findings.problems["empty split"].append(
                f"{path}: no picture is in train; write train into the column split of some, or "
                "leave the column out to have people drawn"
            )
    chosen = _languages(path, pictures, wanted, findings)
    manifest = Manifest(path, where, pictures, chosen, findings)
    _note_captions(manifest, empty_captions)
    findings.settle(where)
    return manifest


def load_manifest(
    root: str,
    languages: Sequence[str] = (),
    *,
    image_root: str = "",
    empty_captions: str = "keep",
) -> dict[str, Split]:
    """The splits of a manifest, as `datasets.annotations.load_dataset` gives those of a data set.

    Train ids count people in the order of their first appearance. Arguments as `read_manifest`.

    Raises:
      FileNotFoundError, ValueError: as `read_manifest`, and ValueError for the first problem found.
    """
    manifest = read_manifest(root, languages, image_root=image_root, empty_captions=empty_captions)
    manifest.findings.check(manifest.path)
    return {name: _make_split(manifest, name) for name in SPLITS}


@_no_garbage()
def _make_split(manifest: Manifest, name: str) -> Split:
    pictures = [picture for picture in manifest.pictures if picture.split == name]
    rows = [manifest.captions(picture) for picture in pictures]
    captions = {
        language: tuple(texts[place] for texts_of_one in rows for texts in texts_of_one)
        for place, language in enumerate(manifest.languages)
    }
    image_id = np.arange(len(pictures), dtype=np.int32)
    source = manifest.languages[0]
    return Split(
        name=name,
        image_path=tuple(picture.path for picture in pictures),
        image_person_id=number_people(pictures),
        caption=captions.pop(source),
        caption_image_id=np.repeat(image_id, np.array([len(texts) for texts in rows], int)),
        language=source,
        translation=captions,
        image_box=boxes_of(pictures),
    )


def number_people(pictures: Sequence[Picture]) -> np.ndarray:
    """int32 [N]: 0, 1, 2, ... by first appearance; who has no id is a person of their own."""
    numbers: dict[str | int, int] = {}
    keys = (picture.person or place for place, picture in enumerate(pictures))
    return np.array([numbers.setdefault(key, len(numbers)) for key in keys], np.int32)


def boxes_of(pictures: Sequence[Picture]) -> np.ndarray | None:
    """int32 [N,4] of x, y, width, height, 0 wide and high for all of a picture; None: no boxes."""
    if not any(picture.box for picture in pictures):
        return None
    rows = [picture.box or (0, 0, 0, 0) for picture in pictures]
    return np.array(rows, np.int32)


def _languages(
    path: str, pictures: Sequence[Picture], wanted: tuple[str, ...], findings: Findings
) -> tuple[str, ...]:
    """The languages to read; captions without one become the source's.

    Raises:
      ValueError: a wanted language has no caption.
    """
    found = {name for picture in pictures for name, _, _ in picture.captions}
    if not wanted:
        first = next((name for name in ("", *LANGUAGES) if name in found), "")
        if others := sorted(found - {first}):
            findings.notes["languages that are not read"].append(
                f"{path}: {', '.join(others)}; --config.data.source={first or 'en'} "
                f"--config.data.target={others[0]} reads two (check: --languages)"
            )
        return (first,)
    if wanted[0] not in found and "" in found:
        for picture in pictures:
            picture.captions = [(name or wanted[0], slot, t) for name, slot, t in picture.captions]
        found.add(wanted[0])
    for name in wanted:
        if name not in found:
            raise ValueError(
                f"{path}: no captions in {name!r}; add them as the column caption_{name}, or "
                "choose other languages with --config.data.source and --config.data.target"
            )
    return wanted


def _note_captions(manifest: Manifest, empty_captions: str) -> None:
    """Counts what is not read: captions without a translation, pictures without a caption."""
    findings, languages = manifest.findings, manifest.languages
    for picture in manifest.pictures:
        read = len(manifest.captions(picture))
        if sum(name in languages for name, _, _ in picture.captions) > read * len(languages):
            findings.rows["captions without a translation are not read"].append(picture.place)
        if read:
            continue
        if empty_captions == "error":
            findings.problems["no caption"].append(
                f"{manifest.where} {picture.place}: has no caption; write one, remove the row, or "
                "set --config.data.empty_captions=keep"
            )
        else:
            findings.rows["pictures without a caption are searched among"].append(picture.place)
