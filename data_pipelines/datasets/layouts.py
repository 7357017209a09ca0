"""The table of the data sets: where each keeps its files, how many it has, whom to ask for it."""

import dataclasses
from collections.abc import Mapping
from typing import NamedTuple


class Counts(NamedTuple):
    """What a split holds; persons is None where the authors do not publish it."""

    persons: int | None
    images: int
    captions: int


NO_ENTRIES = Counts(0, 0, 0)
# An extra field of attribute files that were not made by the authors: how they were made.
ATTRIBUTE_SOURCE = "source"


@dataclasses.dataclass(frozen=True, kw_only=True)
class DatasetLayout:
    """One data set.

    title: its name in texts.
    directory: where it lies, under the data root; the images are in directory/imgs.
    annotation_files: accepted names, the preferred one first; () if its captions are read from the
      files per language alone (`datasets.multilingual`).
    path_key: the field of an annotation entry with the image path, relative to imgs/.
    first_train_id: the train ids are first_train_id, first_train_id + 1, ... without a gap.
    attribute_file: attributes of each caption, beside the annotation file (`columns.attributes`);
      "": the data set has none.
    long_captions: what "within_90_words" does to longer captions, see `long_captions.RULES`; "":
      nothing.
    published: counts of each split, in each language if there are several; {} if nobody published
      any.
    homepage: where to ask for the data.
    licence: what its authors allow.
    """

    title: str
    directory: str
    annotation_files: tuple[str, ...]
    path_key: str
    first_train_id: int
    attribute_file: str = ""
    long_captions: str = ""
    published: Mapping[str, Counts] = dataclasses.field(default_factory=dict)
    homepage: str
    licence: str = "Academic use only; distributed by its authors on request."


LAYOUTS = {
    "cuhk_pedes": DatasetLayout(
        title="CUHK-PEDES",
        directory="CUHK-PEDES",
        annotation_files=("reid_raw.json",),
        path_key="file_path",
        first_train_id=1,
        attribute_file="cuhk_pedes_att.json",
        published={
            "train": Counts(11003, 34054, 68126),
            "val": Counts(1000, 3078, 6158),
            "test": Counts(1000, 3074, 6156),
        },
        homepage="https://github.com/ShuangLI59/Person-Search-with-Natural-Language-Description",
    ),
    "icfg_pedes": DatasetLayout(
        title="ICFG-PEDES",
        directory="ICFG-PEDES",
        # The released IRRA opens the first name (datasets/icfgpedes.py), its README shows the
        # second one.
        annotation_files=("ICFG-PEDES.json", "ICFG_PEDES.json"),
        path_key="file_path",
        first_train_id=0,
        long_captions="cut",
        published={
            "train": Counts(3102, 34674, 34674),
            "val": NO_ENTRIES,
            "test": Counts(1000, 19848, 19848),
        },
        homepage="https://github.com/zifyloo/SSAN",
    ),
    "rstp_reid": DatasetLayout(
        title="RSTPReid",
        directory="RSTPReid",
        annotation_files=("data_captions.json",),
        path_key="img_path",
        first_train_id=0,
        long_captions="leave out",
        published={
            "train": Counts(3701, 18505, 37010),
            "val": Counts(200, 1000, 2000),
            "test": Counts(200, 1000, 2000),
        },
        homepage="https://github.com/NjtechCVLab/RSTPReid-Dataset",
    ),
    "ufine_bench": DatasetLayout(
        title="UFineBench",
        directory="UFineBench",
        annotation_files=(),
        path_key="file_path",
        first_train_id=0,
        published={
            "train": Counts(None, 18577, 37154),
            "val": NO_ENTRIES,
            "test": Counts(None, 7629, 15258),
        },
        homepage="https://github.com/Zplusdragon/UFineBench",
    ),
}


def get_layout(name: str) -> DatasetLayout:
    """The layout of a data set. Raises ValueError for an unknown name."""
    if name == "image_text_pairs":
        raise ValueError("data.name 'image_text_pairs' is called manifest now; set that")
    if name not in LAYOUTS:
        raise ValueError(
            f"data.name {name!r} is unknown; use one of {', '.join(LAYOUTS)}, or manifest for your "
            "own photos"
        )
    return LAYOUTS[name]
