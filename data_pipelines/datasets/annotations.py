"""Reads the annotations of person retrieval data sets: official layouts, or several languages.

The parse is that of the released IRRA (datasets/cuhkpedes.py, icfgpedes.py, rstpreid.py); captions
in several languages are read as the released Bi-IRRA does. Only the JSON is read here; image files
are opened by the input pipeline and by `python -m data_pipelines.check`.
"""

import logging
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from data_pipelines.datasets import multilingual
from data_pipelines.datasets.annotation_file import (
    content_problem,
    read_entries,
    settle_empty_captions,
)
from data_pipelines.datasets.layouts import LAYOUTS, DatasetLayout, get_layout
from data_pipelines.datasets.long_captions import WHOLE, shorten
from data_pipelines.datasets.split import SPLITS, Split
from tipr_jax.languages import run_languages

log = logging.getLogger("tipr_jax")


def load_dataset(
    name: str,
    root: str,
    languages: Sequence[str] = (),
    *,
    empty_captions: str = "keep",
    long_captions: str = WHOLE,
) -> dict[str, Split]:
    """Reads all splits of a data set.

    Args:
      name: a key of `layouts.LAYOUTS`.
      root: the directory that contains the directory of the layout, for example CUHK-PEDES/.
      languages: () reads the official annotation file. Otherwise the languages, the source first,
        to read from {split}_reid_{language}.json. Train ids then count persons in the order of
        their first appearance, as in the released Bi-IRRA, and captions without a translation are
        dropped, which is logged.
      empty_captions: "keep" counts them in a line, "error" refuses them.
      long_captions: of the official annotation file, see `long_captions.shorten`.

    Returns:
      {"train", "val", "test"} -> Split; a split without entries is empty (ICFG-PEDES has no val).

    Raises:
      FileNotFoundError: the data set, its imgs/ directory or an annotation file is missing.
      ValueError: an annotation file breaks the layout; the message names the entry.
    """
    languages = run_languages(languages)
    if languages:
        directory, image_root = find_directory(name, root)
        return {
            split: _read_languages(directory, image_root, split, languages, empty_captions)
            for split in SPLITS
        }
    layout = get_layout(name)
    annotation_file, image_root = find_files(name, root)
    entries = read_entries(annotation_file)
    for index, entry in enumerate(entries):
        if problem := entry_problem(layout, entry):
            raise ValueError(f"{annotation_file}: entry {index}: {problem}")
    settle_empty_captions(annotation_file, entries, empty_captions)
    entries = shorten(entries, layout, long_captions)
    if told := number_persons(layout, entries):
        log.warning("%s: %s", annotation_file, told)
    return {split: _make_split(layout, image_root, split, entries) for split in SPLITS}


def find_files(name: str, root: str) -> tuple[str, str]:
    """Absolute paths (annotation file, imgs/ directory). Raises FileNotFoundError without them."""
    layout = get_layout(name)
    directory, image_root = find_directory(name, root)
    if not layout.annotation_files:
        raise FileNotFoundError(
            f"{layout.title} is read in languages only, from {directory}/train_reid_en.json and so "
            "on: set --config.data.source=en --config.data.target=zh (check: --languages=en,zh)"
        )
    for file_name in layout.annotation_files:
        annotation_file = os.path.join(directory, file_name)
        if os.path.isfile(annotation_file):
            return annotation_file, image_root
    expected = " or ".join(os.path.join(directory, file) for file in layout.annotation_files)
    raise FileNotFoundError(
        f"{layout.title} has no annotation file: expected {expected}; it comes with the data "
        f"({layout.homepage})"
    )


def find_directory(name: str, root: str) -> tuple[str, str]:
    """Absolute paths (data set, its imgs/). Raises FileNotFoundError without them."""
    layout = get_layout(name)
    root = os.path.abspath(os.path.expanduser(root))
    directory = os.path.join(root, layout.directory)
    if not os.path.isdir(directory):
        if os.path.isdir(os.path.join(root, "imgs")):
            hint = f"{root} looks like the data set itself: pass the directory above it"
        else:
            hint = f"request the data at {layout.homepage}"
        raise FileNotFoundError(
            f"{layout.title} not found: expected the directory {directory}; {hint}; "
            f"pass the directory above {layout.directory}/ as --config.data.root or $TIPR_DATA, "
            "or run --config=configs/irra.py:quickstart, which needs no download"
        )
    image_root = os.path.join(directory, "imgs")
    if not os.path.isdir(image_root):
        raise FileNotFoundError(
            f"{layout.title} has no image directory: expected {image_root}; unpack the images there"
        )
    return directory, image_root


def entry_problem(layout: DatasetLayout, entry: Any) -> str | None:
    """Says what is wrong with one annotation entry, in one line; None if it is fine."""
    if not isinstance(entry, dict):
        fields = f"split, id, {layout.path_key}, captions"
        return f"expected an object with {fields}; found {type(entry).__name__}"
    for key in ("split", "id", layout.path_key, "captions"):
        if key not in entry:
            return f"has no {key!r}; {_other_layout_hint(layout, entry)}"
    # The released IRRA takes every other word for val, so that a mistake goes unnoticed.
    if entry["split"] not in SPLITS:
        return f"split must be one of {', '.join(SPLITS)}, found {entry['split']!r}"
    return content_problem(entry, layout.path_key, names=True)


def number_persons(layout: DatasetLayout, entries: list[dict[str, Any]]) -> str | None:
    """Numbers the train persons first_train_id, + 1, + 2, ..., in place, where they are not so.

    Ids that are names are numbered in all splits. Returns what was done; None if nothing was.
    """
    first = layout.first_train_id
    names = any(isinstance(entry["id"], str) for entry in entries)
    # Names after numbers; numbers in their order.
    in_order = lambda ids: sorted(ids, key=lambda x: (isinstance(x, str), x))  # noqa: E731
    train = in_order({entry["id"] for entry in entries if entry["split"] == "train"})
    number = {person_id: first + place for place, person_id in enumerate(train)}
    moved = [person_id for person_id, place in number.items() if person_id != place]
    if not moved and not names:
        return None
    if names:
        others = in_order({entry["id"] for entry in entries} - set(number))
        number |= {person_id: first + len(train) + i for i, person_id in enumerate(others)}
    for entry in entries:
        if names or entry["split"] == "train":
            entry["id"] = number[entry["id"]]
    why = "person ids are names" if names else f"{moved[0]} comes where {number[moved[0]]} should"
    return (
        f"{why}; the {len(train)} train persons are numbered from {first} on, as in "
        f"{layout.title} (if this is another data set, set --config.data.name)"
    )


def _other_layout_hint(layout: DatasetLayout, entry: dict[str, Any]) -> str:
    for name, other in LAYOUTS.items():
        if other.path_key in entry and other.path_key != layout.path_key:
            return (
                f"its {other.path_key!r} is that of {other.title}: this is the annotation file of "
                f"another data set, use --config.data.name={name}"
            )
    return f"is this the annotation file of another data set than {layout.title}?"


def _make_split(
    layout: DatasetLayout, image_root: str, name: str, entries: list[dict[str, Any]]
) -> Split:
    entries = [entry for entry in entries if entry["split"] == name]
    person_id = np.array([entry["id"] for entry in entries], np.int32)
    if name == "train":
        person_id -= layout.first_train_id
    captions_per_image = [len(entry["captions"]) for entry in entries]
    return Split(
        name=name,
        image_path=tuple(os.path.join(image_root, entry[layout.path_key]) for entry in entries),
        image_person_id=person_id,
        caption=tuple(caption for entry in entries for caption in entry["captions"]),
        caption_image_id=np.repeat(np.arange(len(entries), dtype=np.int32), captions_per_image),
    )


def _read_languages(
    directory: str, image_root: str, name: str, languages: tuple[str, ...], empty_captions: str
) -> Split:
    files = multilingual.find_files(directory, name, languages)
    read = multilingual.read_aligned(files) if files else {}
    for language, entries in read.items():
        settle_empty_captions(files[language], entries, empty_captions)
    aligned = list(zip(*read.values(), strict=True))
    rows = [multilingual.pair_captions(entries) for entries in aligned]  # image -> tuples of texts
    _log_dropped(directory, name, aligned, rows)
    source = [entries[0] for entries in aligned]
    person_id = np.array([entry["id"] for entry in source], np.int32)
    captions = {
        language: tuple(texts[index] for pairs in rows for texts in pairs)
        for index, language in enumerate(languages)
    }
    image_id = np.arange(len(source), dtype=np.int32)
    return Split(
        name=name,
        image_path=tuple(os.path.join(image_root, entry["file_path"]) for entry in source),
        image_person_id=_by_first_appearance(person_id) if name == "train" else person_id,
        caption=captions.pop(languages[0]),
        caption_image_id=np.repeat(image_id, np.array([len(pairs) for pairs in rows], int)),
        language=languages[0],
        translation=captions,
    )


def _log_dropped(directory: str, name: str, aligned: list[tuple], rows: list[list]) -> None:
    captions = sum(len(entry["captions"]) for entries in aligned for entry in entries)
    kept = sum(len(texts) for pairs in rows for texts in pairs)
    if kept < captions:
        log.info(
            "%s: %d of %d %s captions of all languages have no counterpart in another and are "
            "dropped",
            directory, captions - kept, captions, name,
        )  # fmt: skip


def _by_first_appearance(person_id: np.ndarray) -> np.ndarray:
    """int32 [N] -> the same persons as 0, 1, 2, ... in the order in which they appear."""
    _, first, place = np.unique(person_id, return_index=True, return_inverse=True)
    rank = np.empty(len(first), np.int32)
    rank[np.argsort(first)] = np.arange(len(first), dtype=np.int32)
    return rank[place]
