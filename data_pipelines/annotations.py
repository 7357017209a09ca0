"""Reads the annotations of person retrieval data sets: official layouts, or several languages.

Source: spec irra §4.1-4.3, spec bi_irra §4.1. Only the JSON is read here; image files are opened by
the input pipeline and by `python -m data_pipelines.check`.
"""

import dataclasses
import logging
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines import multilingual
from data_pipelines.entries import content_problem, read_entries
from tipr_jax.languages import run_languages

log = logging.getLogger("tipr_jax")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one data set keeps its files, and how its annotation entries look."""

    title: str
    directory: str  # under the data root
    annotation_files: tuple[str, ...]  # accepted names, preferred first; (): in languages only
    path_key: str  # entry field with the image path relative to imgs/
    first_train_id: int  # train ids are first_train_id, first_train_id + 1, ... without a gap
    homepage: str  # where to request the data


LAYOUTS = {
    "cuhk_pedes": Layout(
        title="CUHK-PEDES",
        directory="CUHK-PEDES",
        annotation_files=("reid_raw.json",),
        path_key="file_path",
        first_train_id=1,
        homepage="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    ),
    "icfg_pedes": Layout(
        title="ICFG-PEDES",
        directory="ICFG-PEDES",
        # The released code opens the first name, its README shows the second (spec irra §8).
        annotation_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        path_key="file_path",
        first_train_id=0,
        homepage="https://github.com/zifyloo/SSAN",
    ),
    "rstp_reid": Layout(
        title="RSTPReid",
        directory="RSTPReid",
        annotation_files=("data_captions.json",),
        path_key="img_path",
        first_train_id=0,
        homepage="https://github.com/NjtechCVLab/RSTPReid-Dataset",
    ),
    "ufine_bench": Layout(
        title="UFineBench",
        directory="UFineBench",
        annotation_files=(),
        path_key="file_path",
        first_train_id=0,
        homepage="https://github.com/Zplusdragon/UFineBench",
    ),
}
SPLITS = multilingual.SPLITS


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One split as a struct of arrays, in the order of the annotation file (spec irra §4.2-4.3).

    `image_id` everywhere is an index into `image_path`: one per annotation entry of the split,
    shared by its captions.
    """

    name: str  # "train" | "val" | "test"
    image_path: tuple[str, ...]  # absolute
    image_person_id: np.ndarray  # int32 [N_images]; train: 0-based contiguous; else the file's ids
    caption: tuple[str, ...]
    caption_image_id: np.ndarray  # int32 [N_captions]
    language: str = ""  # of `caption`; "" in a data set of one language
    # language -> captions, one to one with `caption`
    translation: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    @property
    def caption_person_id(self) -> np.ndarray:
        """int32 [N_captions]: the person each caption describes."""
        return self.image_person_id[self.caption_image_id]

    @property
    def num_persons(self) -> int:
        """Number of distinct persons (in train: the number of classes of the id loss)."""
        return len(np.unique(self.image_person_id))

    def in_language(self, language: str) -> "Split":
        """The same images (the same `image_path` object) with the captions of one language.

        Raises:
          ValueError: the split does not have this language.
        """
        captions = dict(self.translation) | {self.language: self.caption}
        if language not in captions:
            raise ValueError(
                f"the {self.name} split has no captions in {language!r}, it has "
                f"{', '.join(sorted(captions))}"
            )
        caption = captions[language]
        return dataclasses.replace(self, caption=caption, language=language, translation={})


def load_dataset(name: str, root: str, languages: Sequence[str] = ()) -> dict[str, Split]:
    """Reads all splits of a data set.

    Args:
      name: "cuhk_pedes", "icfg_pedes", "rstp_reid" or "ufine_bench".
      root: the directory that contains CUHK-PEDES/, ICFG-PEDES/, RSTPReid/ or UFineBench/.
      languages: () reads the official annotation file. Else, source first, what to read from
        {split}_reid_{language}.json (spec bi_irra §4.1). Then train ids count persons in the order
        of their first appearance, and captions without a translation are dropped, which is logged.

    Returns:
      {"train", "val", "test"} -> Split; a split without entries is empty (ICFG-PEDES has no val).

    Raises:
      FileNotFoundError: the data set, its imgs/ directory or an annotation file is not there.
      ValueError: an annotation file is not what it should be; the message names the entry.
    """
    languages = run_languages(languages)
    if languages:
        directory, image_root = find_directory(name, root)
        return {split: _read_languages(directory, image_root, split, languages) for split in SPLITS}
    layout = get_layout(name)
    annotation_file, image_root = find_files(name, root)
    entries = read_entries(annotation_file)
    for index, entry in enumerate(entries):
        if problem := entry_problem(layout, entry):
            raise ValueError(f"{annotation_file}: entry {index}: {problem}")
    if problem := train_id_problem(layout, entries):
        raise ValueError(f"{annotation_file}: {problem}")
    return {split: _make_split(layout, image_root, split, entries) for split in SPLITS}


def get_layout(name: str) -> Layout:
    """The layout of a data set. Raises ValueError for an unknown name."""
    if name not in LAYOUTS:
        raise ValueError(f"data.name {name!r} is unknown; use one of {', '.join(LAYOUTS)}")
    return LAYOUTS[name]


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


def entry_problem(layout: Layout, entry: Any) -> str | None:
    """Says what is wrong with one annotation entry, in one line; None if it is fine."""
    if not isinstance(entry, dict):
        fields = f"split, id, {layout.path_key}, captions"
        return f"expected an object with {fields}; found {type(entry).__name__}"
    for key in ("split", "id", layout.path_key, "captions"):
        if key not in entry:
            return f"has no {key!r}; {_other_layout_hint(layout, entry)}"
    if not isinstance(entry["split"], str):
        return f"split must be a string, found {entry['split']!r}"
    return content_problem(entry, layout.path_key)


def train_id_problem(layout: Layout, entries: list[dict[str, Any]]) -> str | None:
    """Train ids must be first_train_id, + 1, + 2, ... (spec irra §4.2); None if they are."""
    ids = sorted({entry["id"] for entry in entries if entry["split"] == "train"})
    first = layout.first_train_id
    for expected, found in enumerate(ids, start=first):
        if found != expected:
            return (
                f"train ids of {layout.title} must be {first}, {first + 1}, {first + 2}, ..., but "
                f"{found} comes where {expected} should; renumber them, or check --config.data.name"
            )
    return None


def split_of(entry: dict[str, Any]) -> str:
    """The split of an entry; neither train nor test means val, as in the released code."""
    return entry["split"] if entry["split"] in ("train", "test") else "val"


def _other_layout_hint(layout: Layout, entry: dict[str, Any]) -> str:
    for name, other in LAYOUTS.items():
        if other.path_key in entry and other.path_key != layout.path_key:
            return (
                f"its {other.path_key!r} is that of {other.title}: this is the annotation file of "
                f"another data set, use --config.data.name={name}"
            )
    return f"is this the annotation file of another data set than {layout.title}?"


def _make_split(layout: Layout, image_root: str, name: str, entries: list[dict[str, Any]]) -> Split:
    entries = [entry for entry in entries if split_of(entry) == name]
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
    directory: str, image_root: str, name: str, languages: tuple[str, ...]
) -> Split:
    files = multilingual.find_files(directory, name, languages)
    aligned = list(zip(*multilingual.read_aligned(files).values(), strict=True)) if files else []
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
