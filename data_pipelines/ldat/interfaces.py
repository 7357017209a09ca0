"""The three roles of the pipeline, and what they take and give."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Protocol


@dataclasses.dataclass(frozen=True)
class Caption:
    """A caption of the source language."""

    split: str
    image: str  # path below imgs/
    person_id: int
    text: str


@dataclasses.dataclass(frozen=True)
class Translation:
    """A caption and its text in the target language."""

    caption: Caption
    text: str


@dataclasses.dataclass(frozen=True)
class Failure:
    """Stands where an answer should: why there is none. It is recorded and tried again later."""

    reason: str


class Backend(Protocol):
    """What every role has. `settings` holds all that decides an answer, as JSON can write it.

    Equal settings mean that a finished answer is used again; so addresses, keys and time limits of
    a server do not belong there, the model and the prompt do. Making a backend is cheap and loads
    no model, because every stage needs the settings of the ones before it.
    """

    settings: Mapping[str, Any]


class Translator(Backend, Protocol):
    def translate(self, captions: Sequence[Caption]) -> list[str | Failure]:
        """A text in the target language per caption, or why there is none."""
        ...


class QualityScorer(Backend, Protocol):
    def score(self, translations: Sequence[Translation]) -> Sequence[float | Failure]:
        """The quality of each translation without a reference, 0 (unrelated) .. 1 (faithful)."""
        ...


class Rewriter(Backend, Protocol):
    def rewrite(self, translations: Sequence[Translation]) -> list[str | Failure]:
        """A better text per noisy translation, or why there is none."""
        ...
