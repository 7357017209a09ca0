"""Reads the annotations of CUHK-PEDES, ICFG-PEDES and RSTPReid in their official layouts.

Source: spec irra §4.1-4.3. Only the JSON is read here; image files are opened by the input
pipeline and by `python -m data_pipelines.check`.
"""

import dataclasses
import json
import os
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one data set keeps its files, and how its annotation entries look."""

    title: str
    directory: str  # under the data root
    annotation_files: tuple[str, ...]  # accepted names, preferred first
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
}
SPLITS = ("train", "val", "test")


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

    @property
    def caption_person_id(self) -> np.ndarray:
        """int32 [N_captions]: the person each caption describes."""
        return self.image_person_id[self.caption_image_id]

    @property
    def num_persons(self) -> int:
        """Number of distinct persons (in train: the number of classes of the id loss)."""
        return len(np.unique(self.image_person_id))


def load_dataset(name: str, root: str) -> dict[str, Split]:
    """Reads all splits of a data set.

    Args:
      name: "cuhk_pedes", "icfg_pedes" or "rstp_reid".
      root: the directory that contains CUHK-PEDES/, ICFG-PEDES/ or RSTPReid/.

    Returns:
      {"train", "val", "test"} -> Split; a split without entries is empty (ICFG-PEDES has no val).

    Raises:
      FileNotFoundError: the data set, its imgs/ directory or its annotation file is not there.
      ValueError: the annotation file is not what it should be; the message names the entry.
    """
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
    for file_name in layout.annotation_files:
        annotation_file = os.path.join(directory, file_name)
        if os.path.isfile(annotation_file):
            return annotation_file, image_root
    expected = " or ".join(os.path.join(directory, file) for file in layout.annotation_files)
    raise FileNotFoundError(
        f"{layout.title} has no annotation file: expected {expected}; it comes with the data "
        f"({layout.homepage})"
    )


def read_entries(annotation_file: str) -> list[Any]:
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
    person_id = entry["id"]
    if not isinstance(person_id, int) or isinstance(person_id, bool):
        return f"id must be an integer, found {person_id!r}"
    if not 0 <= person_id < 2**31:
        return f"id {person_id} is outside 0 .. 2**31 - 1"
    return path_problem(layout.path_key, entry[layout.path_key], "imgs/") or _caption_problem(
        entry["captions"]
    )


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


def path_problem(key: str, path: Any, base: str) -> str | None:
    """Says why a path read from JSON does not lead into the directory `base`; None if it does."""
    if not isinstance(path, str) or not path or "\0" in path:
        return f"{key} must be a path relative to {base}, found {path!r}"
    parts = path.replace("\\", "/").split("/")
    if parts[0] == "" or parts[0].endswith(":") or ".." in parts:
        return f"{key} {path!r} leaves {base}; use a path relative to it, without '..'"
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
