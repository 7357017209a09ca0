"""The user-level API: put photos into a gallery, ask with a sentence, get the ranking."""

import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tipr_jax.gallery import scan
from tipr_jax.gallery.adding import Adder, FileEmbedder
from tipr_jax.gallery.detect import Detector, make_detector
from tipr_jax.gallery.index import Index
from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.models import check_same_model, open_model, open_recorded, register
from tipr_jax.gallery.photos import Skipped, find_photos
from tipr_jax.gallery.pictures import picture_of
from tipr_jax.gallery.ray_adding import RayAdder
from tipr_jax.gallery.store import IN_MEMORY, FileState, Item, Model
from tipr_jax.gallery.stores import create_store, open_store
from tipr_jax.gallery.video import is_video
from tipr_jax.inference.embedder import Embedder, ImageSource
from tipr_jax.metrics.unit_vectors import l2_normalise


class Match(NamedTuple):
    """One line of an answer; score is the cosine similarity, or re-ranked the match logit."""

    item: Item
    score: float

    @property
    def path(self) -> str:
        return self.item.path


class Added(NamedTuple):
    """What `Retriever.add` did: numbers of files, and those that it could not take."""

    new: int
    changed: int
    same: int
    vanished: int
    skipped: list[Skipped]


class Retriever:
    """A gallery and the model that searches it; exact, by cosine.

    >>> retriever = Retriever.create("my.gallery", "runs/quickstart")
    >>> retriever.add("photos/")
    >>> retriever.search("a woman in a red coat", k=5, where={"camera": "gate"})
    """

    def __init__(self, store: GalleryStore, model: Embedder, record: Model):
        self.store, self.model, self.record = store, model, record
        self.index = Index(record.vector_size)
        self._seen: tuple[int, int] | None = None
        self._refresh()

    @classmethod
    def create(
        cls, path: str | Path, model: str | Path | Embedder, language: str = ""
    ) -> "Retriever":
        """A new gallery for a model, or for the run or model directory that holds it.

        language: of a run in several languages, take the checkpoint that is best in this one.

        Raises:
          ValueError, OSError: as `create_store` and `models.open_model`.
        """
        model = open_model(model, language)
        store = create_store(path)
        record = register(store, model, language)
        store.remember("model", record.id)
        return cls(store, model, record)

    @classmethod
    def open(cls, path: str | Path, model: str | Path | Embedder | None = None) -> "Retriever":
        """An existing gallery, with the model that it records or with the same one from elsewhere.

        Raises:
          ValueError: the model is another one than the vectors are of.
          ValueError, OSError: as `open_store` and `models.open_model`.
        """
        store = open_store(path)
        record = store.current_model
        if record is None:
            raise ValueError(f"{path} has no model yet; add photos with --model=RUN")
        if model is None:
            return cls(store, open_recorded(store, record), record)
        model = open_model(model, record.facts["checkpoint_of_language"])
        check_same_model(store, record, model)
        return cls(store, model, record)

    @classmethod
    def in_memory(cls, model: str | Path | Embedder, language: str = "") -> "Retriever":
        """A gallery without a file, for one process; as `create`."""
        return cls.create(IN_MEMORY, model, language)

    def add(
        self,
        place: str | Path | Sequence[str | Path],
        *,
        camera: str | None = None,
        time: str | None = None,
        tags: Sequence[str] = (),
        meta: Mapping[str, Any] | None = None,
        detect: str | None = None,
        engine: str = "",
    ) -> Added:
        """Embeds the photos of a folder, one photo, or several, that are new or have changed.

        What is done is kept when the work is interrupted, and a second call goes on. Photos of a
        folder that have vanished since leave the gallery. With a progress bar on a terminal.

        Args:
          place: a folder, or paths.
          camera, time, tags, meta: recorded with every new item, for filters.
          detect: how people are found in whole pictures and videos, see `detect.make_detector`;
            default: as when the gallery was last added to, at first "none". Files that another
            detector has read are read again. A video that is named itself is never "none":
            nanodet looks into it.
          engine: "" embeds in this process, "ray" by the workers of `ray_adding`.

        Raises:
          ValueError: no photo at all; features that are not finite: the weights are damaged.
          FileNotFoundError: no such folder or file.
          OSError: as `GalleryStore.add`.
        """
        chosen = detect = str(detect or self.store.setting("detect", "none"))
        if isinstance(place, str | Path) and os.path.isfile(place) and is_video(place):
            detect = "nanodet" if chosen == "none" else chosen
        detector = make_detector(detect)
        facts = dict(camera=camera, time=time, tags=tuple(tags), meta=dict(meta or {}))
        adder = self._adder(engine, detect, detector, facts, place)
        if isinstance(place, str | Path):
            found = find_photos(place, also=is_video if detector else None)
            paths, skipped = found.paths, list(found.skipped)
            root = os.path.abspath(place) if os.path.isdir(place) else ""
        else:
            paths, skipped, root = [str(path) for path in place], [], ""
        paths = [os.path.abspath(path) for path in paths]
        known, name = self.store.files(), detector.name if detector else ""
        changes = scan.compare(paths, known, name, root)
        self.store.remember("detect", chosen)
        self.store.forget_files([p for p in changes.changed if known[p].detector != name])
        failed = adder([*changes.new, *changes.changed])
        self.store.forget_files(changes.vanished)
        self._refresh()
        bad = {item.path for item in failed}
        return Added(
            len([path for path in changes.new if path not in bad]),
            len([path for path in changes.changed if path not in bad]),
            len(changes.same),
            len(changes.vanished),
            [*skipped, *failed],
        )

    def _adder(
        self,
        engine: str,
        detect: str,
        detector: Detector | None,
        facts: dict[str, Any],
        place: str | Path | Sequence[str | Path],
    ) -> Adder | RayAdder:
        """What reads, embeds and stores files. Errors as `add` and `RayAdder`."""
        if not engine:
            return Adder(self.store, self.record, FileEmbedder(self.model, detector, facts))
        if engine != "ray":
            raise ValueError(f"engine is {engine!r}, expected '' or 'ray'")
        places = [place] if isinstance(place, str | Path) else place
        name = "\0".join(os.path.abspath(place) for place in places)
        known = self.record.directory  # the model may be this machine's own copy
        directory = known if os.path.isdir(known) else self.model.directory
        return RayAdder(self.store, self.record, directory, detect, facts, name)

    def search(
        self,
        sentence: str = "",
        k: int = 10,
        *,
        offset: int = 0,
        image: ImageSource | None = None,
        image_weight: float = 0.5,
        where: Mapping[str, Any] | None = None,
        language: str = "",
        rerank: int = 0,
        approximate: bool = False,
    ) -> list[Match]:
        """The k best items after the first `offset`, best first; equal scores in item order.

        Args:
          sentence: describes the person.
          image: a picture of a person that the answer should resemble, instead of the sentence or
            together with it.
          image_weight: with both, the picture's share of the score.
          where: which items to rank at all, see `filters`.
          language: of the sentence, "" for the model's first.
          rerank: how many of the best items a model with a matching head orders anew (their files
            are read again); the result has no other items.
          approximate: as in `Index.search`.

        Raises:
          ValueError: an empty sentence without a picture, or an empty gallery; k below 1; a filter,
            a language or a re-ranking that cannot be.
        """
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1, how many items to return")
        if offset < 0:
            raise ValueError(f"offset is {offset}, expected 0 or more")
        query = self.query(sentence, image, image_weight, language)
        if rerank:
            self.model.check_can_match()
            check_query(sentence)
        depth, first = (rerank, 0) if rerank else (k, offset)
        ((ids, scores),), _ = self.rank(query, depth, where, first, approximate=approximate)
        if not len(self.index):
            raise ValueError("the gallery is empty; add photos first")
        if rerank:
            return self._reranked(sentence, self.store.items(ids))[offset : offset + k]
        score = dict(zip(ids.tolist(), scores.tolist(), strict=True))
        return [Match(item, score[item.id]) for item in self.store.items(ids)]

    def search_by_image(self, image: ImageSource, k: int = 10, **options: Any) -> list[Match]:
        """Find this person again: `search` with a picture alone."""
        return self.search("", k, image=image, **options)

    def query(
        self,
        sentence: str,
        image: ImageSource | None = None,
        image_weight: float = 0.5,
        language: str = "",
    ) -> np.ndarray:
        """What is compared with every item: a unit vector float32 [1,C]. Errors as `search`."""
        if not 0 <= image_weight <= 1:
            raise ValueError(f"image_weight is {image_weight}, expected 0 to 1")
        if image is None or sentence:
            check_query(sentence)
        if image is None:
            return self.model.embed_texts([sentence], language)
        picture = self.model.embed_images([image])
        if not sentence:
            return picture
        words = self.model.embed_texts([sentence], language)
        return l2_normalise((1 - image_weight) * words + image_weight * picture)

    def vectors(self, ids: Sequence[int]) -> np.ndarray:
        """The unit vectors of items that are in the gallery: float32 [N,C]."""
        return self.store.vectors_of(ids, self.record).astype(np.float32)

    def rank(
        self,
        queries: np.ndarray,
        depth: int,
        where: Mapping[str, Any] | None = None,
        offset: int = 0,
        *,
        approximate: bool = False,
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], int]:
        """Several queries in one pass: `depth` items after the first `offset`, and among how many.

        queries: unit vectors float32 [Q,C]. Per query (ids int64 [n], scores float32 [n]), best
        first, none in an empty gallery.

        Raises:
          ValueError: a filter that cannot be.
        """
        self._refresh()
        allowed = self.index.rows(self.store.select(where)) if where else None
        among = len(self.index) if allowed is None else int(allowed.sum())
        found = self.index.search(queries, depth, offset, allowed, approximate=approximate)
        return found, among

    def prepare(self, shapes: Iterable[tuple[int, int]]) -> None:
        """Compiles `rank` for these numbers of queries and depths, so that no later call waits."""
        self._refresh()
        empty = not len(self.index.ids)
        if empty:  # programs are compiled for blocks of rows; no item ever has the id 0
            self.index.add(
                np.zeros(1, np.int64), np.zeros((1, self.record.vector_size), np.float32)
            )
        for queries, depth in shapes:
            self.index.search(np.zeros((queries, self.record.vector_size), np.float32), depth)
        if empty:
            self.index.remove([0])

    def put(
        self, items: Sequence[Item], images: Sequence[ImageSource], files: Mapping[str, FileState]
    ) -> list[int]:
        """Items whose pictures are at hand, one each; the rest is as in `GalleryStore.add`."""
        ids = self.store.add(items, self.model.embed_images(images), self.record, files)
        self._refresh()
        return ids

    def _reranked(self, sentence: str, items: Sequence[Item]) -> list[Match]:
        """Items by the matching head's logit; an item whose picture is gone comes last."""
        there, pictures = [], []
        for item in items:
            try:
                pictures.append(picture_of(item))
                there.append(item)
            except (ValueError, OSError):
                continue
        if not there:
            return []
        scores = self.model.match(pictures, sentence)
        return [Match(there[i], float(scores[i])) for i in np.argsort(-scores, kind="stable")]

    def delete(self, ids: Iterable[int]) -> int:
        """Removes items; returns how many there were. The photos themselves stay where they are."""
        ids = [int(i) for i in ids]
        count = self.store.delete(ids)
        self.index.remove(ids)
        return count

    def _refresh(self) -> None:
        """Takes over what this process or another one changed since the last search."""
        changes = self.store.changes()
        if changes == self._seen:
            return
        self._seen = changes
        ids = self.store.embedded(self.record)
        held = self.index.live_ids
        last = self.index.ids[-1] if len(self.index.ids) else 0
        if np.isin(ids[ids <= last], held).all():
            self.index.remove(held[~np.isin(held, ids)])
        else:  # vectors of older items have come
            self.index, last = Index(self.record.vector_size), 0
        for new, vectors in self.store.vectors(self.record, after=last):
            self.index.add(new, vectors.astype(np.float32))


def check_query(sentence: str) -> None:
    """Raises ValueError for a sentence without a word in it."""
    if not any(map(str.isalnum, sentence)):
        raise ValueError(
            f"the sentence is {sentence!r}; describe the person, as in 'a man in a red coat'"
        )
