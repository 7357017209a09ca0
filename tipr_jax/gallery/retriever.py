"""The user-level API: put photos in, ask with a sentence, get the ranking."""

import concurrent.futures
import os
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery.photos import Skipped, find_photos, unreadable
from tipr_jax.inference.model import ROWS, TrainedModel, load
from tipr_jax.metrics.rerank import top_candidates


class Match(NamedTuple):
    """One photo of the answer; score is the cosine similarity, or re-ranked the match logit."""

    path: str
    score: float


class Retriever:
    """An exact cosine search over photos in memory.

    >>> retriever = Retriever.load("runs/quickstart")
    >>> skipped = retriever.add(find_images("photos/"))
    >>> retriever.search("a woman in a red coat", k=5)
    """

    def __init__(self, model: TrainedModel):
        self.model = model
        self.paths: list[str] = []
        self.features: np.ndarray | None = None  # float32 [G,C], unit rows
        self._known: set[str] = set()  # absolute paths

    @classmethod
    def load(cls, directory: str | Path, language: str = "") -> "Retriever":
        """From a run or model directory; arguments and errors as `inference.model.load`."""
        return cls(load(directory, language))

    def add(self, paths: Sequence[str | Path]) -> list[Skipped]:
        """Embeds the photos that are not in the gallery yet, and returns those it cannot read.

        With a progress bar on a terminal.

        Raises:
          ValueError: features that are not finite: the model's weights are damaged.
        """
        new = {os.path.abspath(path): str(path) for path in paths}
        new = [path for key, path in new.items() if key not in self._known]
        skipped: list[Skipped] = []
        with (
            concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
            tqdm(total=len(new), desc="embed photos", unit="img", leave=False, disable=None) as bar,
        ):
            for start in range(0, len(new), ROWS):
                chunk = new[start : start + ROWS]
                readable, pixels = [], []
                for path, image in zip(chunk, pool.map(self._read, chunk), strict=True):
                    if isinstance(image, Skipped):
                        skipped.append(image)
                    else:
                        readable.append(path)
                        pixels.append(image)
                if readable:
                    self._append(readable, self.model.embed_images(pixels))
                bar.update(len(chunk))
        return skipped

    def _read(self, path: str) -> np.ndarray | Skipped:
        try:
            return self.model.read_image(path)
        except (ValueError, OSError) as error:
            return unreadable(path, error)

    def _append(self, paths: list[str], features: np.ndarray) -> None:
        known = [] if self.features is None else [self.features]
        self.features = np.concatenate([*known, features])
        self.paths += paths
        self._known |= {os.path.abspath(path) for path in paths}

    def search(
        self, sentence: str, k: int = 10, *, language: str = "", rerank: int = 0
    ) -> list[Match]:
        """The k best photos, best first; equal scores in gallery order.

        language: of the sentence, "" for the model's first. rerank: how many of the best photos a
        model with a matching head orders anew (their files are read again); the result has no
        other photos.

        Raises:
          ValueError: an empty sentence or an empty gallery; k below 1; a language or a re-ranking
            that the model does not have.
        """
        check_query(sentence)
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1, how many photos to return")
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


def check_query(sentence: str) -> None:
    """Raises ValueError for a sentence without a word in it."""
    if not any(map(str.isalnum, sentence)):
        raise ValueError(
            f"the sentence is {sentence!r}; describe the person, as in 'a man in a red coat'"
        )


def find_images(place: str | Path) -> list[str]:
    """The photos of a folder as `add` takes them; see `photos.find_photos`, also for the errors."""
    return find_photos(place).paths
