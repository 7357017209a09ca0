"""Everybody of a generated data set, how they are photographed and what is said about them.

All of it is a pure function of the manifest, and cheap beside rendering.
"""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterator

from data_pipelines.synth_pedes.attributes import Identity, sample_identity
from data_pipelines.synth_pedes.captions import caption, named_attributes
from data_pipelines.synth_pedes.layouts import GENERATED_LAYOUTS
from data_pipelines.synth_pedes.view import View, sample_cameras, sample_views


@dataclasses.dataclass(frozen=True)
class Person:
    """One unit of work: the `index`-th person of a split and its id in the annotation file."""

    split: str
    index: int
    person_id: int


@dataclasses.dataclass(frozen=True)
class Photograph:
    """One image to be: where it lies below imgs/ and what is said about it."""

    path: str
    view: View
    captions: list[str]
    attributes: list[dict[str, str]]  # of each caption: what it tells, in words of its own


def people(manifest: dict) -> Iterator[Person]:
    """Everybody, in a shuffled order: readers must not rely on the order of the file."""
    first, order = {}, []
    for split, count in manifest["ids"].items():
        first[split] = GENERATED_LAYOUTS[manifest["layout"]].first_id + len(order)
        order += [(split, index) for index in range(count)]
    random.Random(f"order/{manifest['seed']}").shuffle(order)
    for split, index in order:
        yield Person(split, index, first[split] + index)


def photographs(
    manifest: dict, person: Person, language: str = "en"
) -> tuple[Identity, list[Photograph]]:
    """The person and its images; captions in several languages are translations of each other."""
    spec, seed = GENERATED_LAYOUTS[manifest["layout"]], manifest["seed"]
    key = f"{seed}/{person.split}/{person.index}"
    identity = sample_identity(seed, person.split, person.index)
    views = sample_views(
        sample_cameras(seed), manifest["images_per_id"], manifest["height"],
        random.Random(f"views/{key}"),
    )  # fmt: skip
    photos = []
    for number, view in enumerate(views):
        keys = [f"caption/{key}/{number}/{i}" for i in range(spec.captions_per_image)]
        path = spec.image_path(person.split, person.person_id, number, view.camera.number)
        captions = [caption(identity, view, language, random.Random(k)) for k in keys]
        attributes = [named_attributes(identity, view, random.Random(k)) for k in keys]
        photos.append(Photograph(path, view, captions, attributes))
    return identity, photos
