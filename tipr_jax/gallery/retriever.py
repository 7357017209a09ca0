"""The user-level API: put photos in, ask with a sentence, get the ranking."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tipr_jax.inference.model import TrainedModel, load
from tipr_jax.metrics.rerank import top_candidates

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")


class Match(NamedTuple):
    """One photo of the answer; score is the cosine similarity, or re-ranked the match logit."""

    path: str
    score: float


class Retriever:
    """An exact cosine search over photos in memory.

    >>> retriever = Retriever.load("runs/quickstart")
    >>> retriever.add(find_images("photos/"))
    >>> retriever.search("a woman in a red coat", k=5)
    """

    def __init__(self, model: TrainedModel):
        self.model = model
        self.paths: list[str] = []
        self.features: np.ndarray | None = None  # float32 [G,C], unit rows

    @classmethod
    def load(cls, directory: str | Path, language: str = "") -> "Retriever":
        """From a run or model directory; arguments and errors as `inference.model.load`."""
        return cls(load(directory, language))

    def add(self, paths: Sequence[str | Path]) -> None:
        """Embeds photos and appends them to the gallery."""
        paths = [str(p) for p in paths]
        new = self.model.embed_images(paths)
        self.features = new if self.features is None else np.concatenate([self.features, new])
        self.paths += paths

    def search(
        self, sentence: str, k: int = 10, *, language: str = "", rerank: int = 0
    ) -> list[Match]:
        """The k best photos, best first; equal scores in gallery order.

        language: of the sentence, "" for the model's first. rerank: how many of the best photos a
        model with a matching head orders anew (their files are read again); the result has no
        other photos.

        Raises:
          ValueError: an empty sentence or an empty gallery; a language or a re-ranking that the
            model does not have.
        """
        if not sentence.strip():
            raise ValueError(
                "the sentence is empty; describe the person, e.g. 'a man in a red coat'"
            )
        if self.features is None:
            raise ValueError("the gallery is empty; add photos first")
        scores = self.features @ self.model.embed_texts([sentence], language)[0]
        if not rerank:
            order = np.argsort(-scores, kind="stable")[:k]
            return [Match(self.paths[i], float(scores[i])) for i in order]
        candidates = [self.paths[i] for i in top_candidates(scores[None], rerank)[0]]
        scores = self.model.match(candidates, sentence)
        order = np.argsort(-scores, kind="stable")[:k]
        return [Match(candidates[i], float(scores[i])) for i in order]


def find_images(directory: str | Path) -> list[str]:
    """Every image file below `directory`, sorted.

    Raises:
      FileNotFoundError: if there is none.
    """
    found = sorted(str(p) for p in Path(directory).rglob("*") if p.suffix.lower() in SUFFIXES)
    if not found:
        raise FileNotFoundError(f"no image ({', '.join(SUFFIXES)}) below {directory}")
    return found
