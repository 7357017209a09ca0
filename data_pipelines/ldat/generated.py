"""The captions of the generated data set as translations: true ones, with faults at a given rate.

The generator words one plan in several languages, so its captions are exact translations of each
other. Nothing but the data set's own manifest is read.
"""

import functools
import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_pipelines.ldat import faults
from data_pipelines.ldat.interfaces import Caption, Failure
from data_pipelines.synth_pedes.generate import MANIFEST
from data_pipelines.synth_pedes.people import Photograph, people, photographs


class GeneratedTranslator:
    """A `Translator` for data of `synth_pedes`.

    noise: the share of captions that get a fault of `faults.KINDS`.

    Raises:
      ValueError: the data set was not generated.
    """

    def __init__(self, directory: Path, source: str, target: str, noise: float, seed: int):
        self._manifest = _manifest(directory)
        self._source, self._target, self._noise, self._seed = source, target, noise, seed
        self.settings: Mapping[str, Any] = {
            "manifest": self._manifest,
            "source": source,
            "noise": noise,
            "seed": seed,
        }
        self._photos = functools.lru_cache(maxsize=64)(self._photos_of)

    @functools.cached_property
    def _people(self) -> dict[int, Any]:
        return {person.person_id: person for person in people(self._manifest)}

    def translate(self, captions: Sequence[Caption]) -> list[str | Failure]:
        """A `Failure` for a caption that the generator has not worded."""
        return [self._translate(caption) for caption in captions]

    def truth(self, caption: Caption) -> str | None:
        """The true translation; None for a caption that the generator has not worded."""
        photos = self._photos(caption.person_id, self._source)
        if photo := photos.get(caption.image):
            if caption.text in photo.captions:
                place = photo.captions.index(caption.text)
                theirs = self._photos(caption.person_id, self._target)[caption.image]
                return theirs.captions[place]
        return None

    def fault(self, caption: Caption) -> str:
        """A kind of `faults.KINDS`, "" for none."""
        return faults.kind_of(caption, self._noise, self._seed)

    def _translate(self, caption: Caption) -> str | Failure:
        true = self.truth(caption)
        if true is None:
            return Failure(
                "the generator has not worded this caption: the annotations were changed"
            )
        kind, seed = self.fault(caption), f"{self._seed}/{caption.image}/{caption.text}/fault"
        if kind == "wrong_person":
            return self._of_somebody_else(caption, random.Random(seed))
        return faults.spoil(kind, caption.text, true, self._target, seed) if kind else true

    def _of_somebody_else(self, caption: Caption, rng: random.Random) -> str:
        others = [person_id for person_id in self._people if person_id != caption.person_id]
        photos = self._photos(rng.choice(others or [caption.person_id]), self._target)
        return rng.choice(rng.choice(list(photos.values())).captions)

    def _photos_of(self, person_id: int, language: str) -> dict[str, Photograph]:
        person = self._people.get(person_id)
        if person is None:
            return {}
        return {p.path: p for p in photographs(self._manifest, person, language)[1]}


def _manifest(directory: Path) -> dict[str, Any]:
    path = directory / MANIFEST
    if not path.is_file():
        raise ValueError(
            f"{directory} has no {MANIFEST}: it was not generated, so its captions have no known "
            "translations; use another --config.translator"
        )
    return json.loads(path.read_text())
