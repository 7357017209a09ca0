"""The second stage of a search: a model's matching head orders the best matches by cosine anew.

All other matches follow in their own order, so that nothing is hidden. The pictures are read by the
threads that decode, and the gallery's thread scores them, always as many, with one program.
"""

import dataclasses
from collections.abc import Sequence
from typing import Self

import numpy as np

from tipr_jax.gallery.pictures import picture_of
from tipr_jax.gallery.retriever import Match, Retriever
from tipr_jax.inference.embedder import Embedder

CANDIDATES = 64


@dataclasses.dataclass(frozen=True)
class Pairs:
    """A job: match logits float32 [N] of a sentence with N <= `CANDIDATES` pictures.

    pixels: uint8 [H,W,3] each, at the model's size.
    """

    sentence: str
    pixels: Sequence[np.ndarray]

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[np.ndarray]:
        return [job._scores(retriever.model) for job in jobs]

    def _scores(self, model: Embedder) -> np.ndarray:
        more = CANDIDATES - len(self.pixels)
        pictures = [*self.pixels, *[np.zeros_like(self.pixels[0])] * more]
        return model.match(pictures, self.sentence)[: len(self.pixels)]


def read(model: Embedder, candidates: Sequence[Match]) -> list[np.ndarray | None]:
    """The candidates' pixels; None for one whose picture is gone, damaged, or not readable here."""
    out: list[np.ndarray | None] = []
    for match in candidates:
        try:
            out.append(model.read_image(picture_of(match.item)))
        except (ValueError, OSError, ModuleNotFoundError):
            out.append(None)
    return out


def by_score(candidates: Sequence[Match], scores: Sequence[float]) -> list[Match]:
    """The candidates with these scores, best first; equal scores in the order that they had."""
    order = np.argsort(-np.asarray(scores, np.float32), kind="stable")
    return [Match(candidates[i].item, float(scores[i])) for i in order]
