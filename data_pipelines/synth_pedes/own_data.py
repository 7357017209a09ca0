"""A manifest of generated people: own data as users keep it, photos and a table beside them."""

from __future__ import annotations

import csv
import os
import random
from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from data_pipelines.synth_pedes.attributes import sample_identity
from data_pipelines.synth_pedes.captions import caption
from data_pipelines.synth_pedes.festival import VOCABULARIES
from data_pipelines.synth_pedes.renderer import render
from data_pipelines.synth_pedes.view import sample_cameras, sample_views
from tipr_jax.languages import language_name

PHOTOS, TABLE = "photos", "manifest.csv"
CAPTIONS = 2  # of each photo


def write_own_data(
    directory: str | os.PathLike,
    *,
    people: int = 100,
    images_per_id: int = 3,
    vocabulary: str = "street",
    languages: Sequence[str] = ("en",),
    height: int = 192,
    seed: int = 0,
) -> Path:
    """Writes photos/ and manifest.csv (file, person_id, caption, caption_2), returns its path.

    Args:
      directory: made, if missing; an existing manifest there is never replaced.
      people, images_per_id: how many, and photos of each.
      vocabulary: "street", the clothes of the data sets, or "festival", which they never show; the
        latter in English alone.
      languages: of captions; with several the columns are caption_en, caption_zh, ....
      height: mean height of a photo in pixels.
      seed: of people and cameras.

    Raises:
      ValueError: a number below 1, an unknown vocabulary or language.
      FileExistsError: there is a manifest.
    """
    languages = tuple(map(language_name, languages)) or ("en",)
    _check(vocabulary, languages, people, images_per_id)
    folder = Path(directory)
    if (folder / TABLE).exists():
        raise FileExistsError(f"{folder / TABLE} exists; move it away, or choose another folder")
    (folder / PHOTOS).mkdir(parents=True, exist_ok=True)
    draft = folder / f".{TABLE}"
    with open(draft, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "person_id", *_columns(languages)])
        for index in tqdm(range(people), "draw people", unit="person", leave=False, disable=None):
            writer.writerows(
                _person(folder, index, images_per_id, vocabulary, languages, height, seed)
            )
    draft.replace(folder / TABLE)
    return folder / TABLE


def _check(vocabulary: str, languages: Sequence[str], people: int, images_per_id: int) -> None:
    if vocabulary not in VOCABULARIES:
        known = ", ".join(VOCABULARIES)
        raise ValueError(f"vocabulary is {vocabulary!r}; expected one of {known}")
    if vocabulary != "street" and languages != ("en",):
        raise ValueError(f"vocabulary {vocabulary} is worded in en alone; leave languages out")
    if min(people, images_per_id) < 1:
        raise ValueError(f"{people} people with {images_per_id} images each; expected at least 1")


def _columns(languages: Sequence[str]) -> list[str]:
    names = ["caption"] if len(languages) == 1 else [f"caption_{name}" for name in languages]
    return [f"{name}_{k}" if k > 1 else name for name in names for k in range(1, CAPTIONS + 1)]


def _person(
    folder: Path,
    index: int,
    images: int,
    vocabulary: str,
    languages: Sequence[str],
    height: int,
    seed: int,
) -> list[list[str]]:
    """Draws the photos of a person; returns the lines of the table."""
    key = f"{vocabulary}/{seed}/{index}"
    identity = sample_identity(seed, vocabulary, index, VOCABULARIES[vocabulary])
    views = sample_views(sample_cameras(seed), images, height, random.Random(f"views/{key}"))
    lines = []
    for number, view in enumerate(views):
        name = f"{PHOTOS}/p{index:04}_{number}.jpg"
        (folder / name).write_bytes(render(identity, view))
        captions = [
            caption(identity, view, language, random.Random(f"caption/{key}/{number}/{k}"))
            for language in languages
            for k in range(CAPTIONS)
        ]
        lines.append([name, f"p{index:04}", *captions])
    return lines
