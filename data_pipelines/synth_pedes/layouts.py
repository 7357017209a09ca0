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

from data_pipelines.datasets.layouts import LAYOUTS, DatasetLayout
from data_pipelines.datasets.split import SPLITS


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratedLayout:
    """What the generator needs to imitate a data set, beyond the files that its readers know."""

    dataset: DatasetLayout
    captions_per_image: int
    images_per_id: int  # the default; as in the real data set
    splits: tuple[str, ...] = SPLITS
    has_tokens: bool  # whether an entry has the field processed_tokens
    image_path: Callable[[str, int, int, int], str]  # (split, person id, image number, camera)

    @property
    def directory(self) -> str:
        return self.dataset.directory

    @property
    def annotation_file(self) -> str:
        return self.dataset.annotation_files[0]

    @property
    def first_id(self) -> int:
        return self.dataset.first_train_id

    def entry(self, split: str, person_id: int, path: str, captions: list[str]) -> dict:
        """One object of the annotation file."""
        entry = {
            "split": split,
            "captions": captions,
            self.dataset.path_key: path,
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


GENERATED_LAYOUTS = {
    "cuhk_pedes": GeneratedLayout(
        dataset=LAYOUTS["cuhk_pedes"],
        captions_per_image=2,
        images_per_id=4,
        has_tokens=True,
        image_path=_cuhk_path,
    ),
    "icfg_pedes": GeneratedLayout(
        dataset=LAYOUTS["icfg_pedes"],
        captions_per_image=1,
        images_per_id=8,
        splits=("train", "test"),
        has_tokens=True,
        image_path=_icfg_path,
    ),
    "rstp_reid": GeneratedLayout(
        dataset=LAYOUTS["rstp_reid"],
        captions_per_image=2,
        images_per_id=5,
        has_tokens=False,
        image_path=_rstp_path,
    ),
}
