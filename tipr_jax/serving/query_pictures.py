"""Pictures that visitors search by: kept in memory for a while, so that the answer has pages.

They never touch the disk and never become items. The address of an answer names the picture by a
random word, which tells nobody else anything.
"""

import collections
import dataclasses
import secrets
import time
from collections.abc import Sequence
from typing import NamedTuple, Self

import numpy as np

from tipr_jax.gallery.retriever import Retriever

KEPT = 256  # the ones used last
KEPT_S = 3600  # after the last use


class QueryPicture(NamedTuple):
    """content: SHA-256 of the file, for the audit log; vector: float32 [C]; thumbnail: a JPEG."""

    content: str
    vector: np.ndarray
    thumbnail: bytes


class NoSuchPictureError(LookupError):
    """A picture that was never sent, or too long ago."""

    def __init__(self) -> None:
        super().__init__(
            f"the picture to search by is gone: they are kept {KEPT_S // 60} minutes; send it again"
        )


@dataclasses.dataclass(frozen=True)
class Look:
    """A job: the vector float32 [C] of a picture, uint8 [H,W,3] at the model's size."""

    pixels: np.ndarray

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[np.ndarray]:
        return [*retriever.model.embed_images([job.pixels for job in jobs])]


class QueryPictures:
    """The pictures of the last searches, by their words."""

    def __init__(self) -> None:
        self._kept: collections.OrderedDict[str, tuple[float, QueryPicture]] = (
            collections.OrderedDict()
        )

    def keep(self, picture: QueryPicture) -> str:
        """The word to ask for the picture with."""
        word = secrets.token_urlsafe(12)
        self._kept[word] = (time.monotonic(), picture)
        self._forget()
        return word

    def get(self, word: str) -> QueryPicture:
        """Raises NoSuchPictureError."""
        self._forget()
        if word not in self._kept:
            raise NoSuchPictureError
        picture = self._kept.pop(word)[1]
        self._kept[word] = (time.monotonic(), picture)
        return picture

    def _forget(self) -> None:
        """Drops the ones used longest ago, which stand first."""
        oldest = time.monotonic() - KEPT_S
        while self._kept:
            used, _ = next(iter(self._kept.values()))
            if used >= oldest and len(self._kept) <= KEPT:
                break
            self._kept.popitem(last=False)
