"""The official directory layouts, as far as a generated data set has to imitate them.

CUHK-PEDES: `imgs/<source>/*.jpg`, `reid_raw.json`, ids from 1 (train first, without gaps).
ICFG-PEDES: `imgs/{train,test}/<id>/*.jpg`, `ICFG-PEDES.json`, train ids from 0, one caption per
image, no val split. RSTPReid: `imgs/*.jpg`, `data_captions.json`, ids from 0, `img_path` instead
of `file_path`. Each annotation file is one JSON list with an object per image.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable

SPLITS = ("train", "val", "test")


@dataclasses.dataclass(frozen=True)
class Layout:
    """Where one data set keeps its images and annotations, and what its entries look like."""

    directory: str
    annotation_file: str
    first_id: int
    captions_per_image: int
    images_per_id: int  # the default; as in the real data set
    splits: tuple[str, ...]
    path_key: str
    has_tokens: bool
    image_path: Callable[[str, int, int, int], str]  # (split, person id, image number, camera)

    def entry(self, split: str, person_id: int, path: str, captions: list[str]) -> dict:
        """One object of the annotation file."""
        entry = {
            "split": split,
            "captions": captions,
            self.path_key: path,
            "id": person_id,
        }
        if self.has_tokens:
            entry["processed_tokens"] = [re.findall(r"[\w-]+", c.lower()) for c in captions]
        return entry


_CUHK_SOURCES = ("cam_a", "cam_b", "CUHK03", "Market", "train_query", "test_query")


def _cuhk_path(split: str, person_id: int, number: int, camera: int) -> str:
    source = _CUHK_SOURCES[camera % len(_CUHK_SOURCES)]
    return f"{source}/{person_id:05d}_c{camera + 1}_{number}.jpg"


def _icfg_path(split: str, person_id: int, number: int, camera: int) -> str:
    hour = ("morning", "noon", "afternoon")[camera % 3]
    return f"{split}/{person_id:04d}/{person_id:04d}_{number:03d}_{camera + 1:02d}_0303{hour}.jpg"


def _rstp_path(split: str, person_id: int, number: int, camera: int) -> str:
    return f"{person_id:04d}_c{camera + 1}_{number:04d}.jpg"


LAYOUTS = {
    "cuhk_pedes": Layout(
        "CUHK-PEDES", "reid_raw.json", 1, 2, 4, SPLITS, "file_path", True, _cuhk_path
    ),
    "icfg_pedes": Layout(
        "ICFG-PEDES", "ICFG-PEDES.json", 0, 1, 8, ("train", "test"), "file_path", True, _icfg_path
    ),
    "rstp_reid": Layout(
        "RSTPReid", "data_captions.json", 0, 2, 5, SPLITS, "img_path", False, _rstp_path
    ),
}
