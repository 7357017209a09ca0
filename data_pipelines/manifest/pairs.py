"""Manifests as pairs of a photo and a sentence, for pre-training: no people, no splits."""

from collections.abc import Sequence

import numpy as np

from data_pipelines.datasets.split import Split
from data_pipelines.manifest.cleaning import clean_caption
from data_pipelines.manifest.load import boxes_of, read_manifest


def load_pairs(files: Sequence[str], image_root: str = "") -> Split:
    """Reads manifests as one train split, in the order of the files.

    As in the release of IVT every caption is a pair with a person of its own, person_id = image_id
    = its place, and is cleaned. A row's split and person_id do not count.

    Args:
      files: manifests.
      image_root: where relative paths start; "": at the folder of each manifest.

    Raises:
      FileNotFoundError, ValueError: as `load_manifest`, or a caption of which nothing is left.
    """
    pictures, captions = [], []
    for file in files:
        manifest = read_manifest(file, image_root=image_root, splits=False)
        manifest.findings.check(manifest.path)
        for picture in manifest.pictures:
            for (caption,) in manifest.captions(picture):
                if not (cleaned := clean_caption(caption)):
                    raise ValueError(
                        f"{manifest.where} {picture.place}: nothing is left of caption {caption!r} "
                        "after cleaning; remove it"
                    )
                pictures.append(picture)
                captions.append(cleaned)
    ids = np.arange(len(pictures), dtype=np.int32)
    paths = tuple(picture.path for picture in pictures)
    return Split("train", paths, ids, tuple(captions), ids, image_box=boxes_of(pictures))
