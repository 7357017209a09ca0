"""From files to stored people: read, find the people, embed, one transaction for several of them.

Without a detector a photo shows one person. With one, every person of a photo becomes an item with
a box, and of a video the best crops of each track.
"""

import concurrent.futures
import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import scan
from tipr_jax.gallery.detect import Detector, Frame
from tipr_jax.gallery.people import PersonCrop, cut_out
from tipr_jax.gallery.photos import Skipped, unreadable
from tipr_jax.gallery.store import FileState, Item, Model, Store
from tipr_jax.gallery.tracks import people_in_video
from tipr_jax.gallery.video import is_video
from tipr_jax.inference.model import ROWS, TrainedModel
from tipr_jax.preprocess import image as preprocess

NOBODY = "nobody found"
PHOTOS = 8  # whole photos in memory at a time, 36 MB each at 12 megapixels


class Found(NamedTuple):
    """Some people of a file; `state` comes with the last of them."""

    path: str
    content: str
    people: Sequence[PersonCrop]
    state: FileState | None


class Adder:
    """Adds files to a gallery.

    Args:
      store, record: the gallery and the model as it records it.
      model: embeds.
      detector: finds the people; None: a photo shows one person, and videos are not read.
      facts: camera, time, tags and meta of the new items.
    """

    def __init__(
        self,
        store: Store,
        model: TrainedModel,
        record: Model,
        detector: Detector | None,
        facts: dict[str, Any],
    ):
        self.store, self.model, self.record = store, model, record
        self.detector, self.facts = detector, facts
        height, width = model.config.image_size
        self.aspect = height / width
        self.skipped: list[Skipped] = []

    def __call__(self, paths: Sequence[str]) -> list[Skipped]:
        """Adds the files; returns those that cannot be read. With a progress bar on a terminal.

        Raises:
          ValueError: features that are not finite.
          OSError: as `Store.add`.
        """
        with tqdm(total=len(paths), desc="add", unit="file", leave=False, disable=None) as bar:
            items: list[Item] = []
            pixels: list[np.ndarray] = []
            files: dict[str, FileState] = {}
            for found in self._found(paths):
                items += [self._item(found, person) for person in found.people]
                pixels += [person.pixels for person in found.people]
                if found.state:
                    files[found.path] = found.state
                    bar.update()
                if len(items) >= ROWS or len(files) >= ROWS:
                    self._store(items, pixels, files)
                    items, pixels, files = [], [], {}
            self._store(items, pixels, files)
        return self.skipped

    def _store(self, items: list[Item], pixels: list[np.ndarray], files: dict) -> None:
        if items:
            self.store.add(items, self.model.embed_images(pixels), self.record, files)
        elif files:
            self.store.record_files(files)

    def _item(self, found: Found, person: PersonCrop) -> Item:
        item = Item(
            found.content,
            found.path,
            box=person.box,
            frame_time=person.seconds,
            track=person.track,
            **self.facts,
        )
        if person.box is None:
            return item
        meta = dict(item.meta) | {"detection": round(person.score, 3)}
        return dataclasses.replace(item, meta=meta)

    def _found(self, paths: Iterable[str]) -> Iterator[Found]:
        """What is in the files, in their order within each kind."""
        videos = [path for path in paths if self.detector and is_video(path)]
        photos = [path for path in paths if path not in set(videos)]
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            size = ROWS if self.detector is None else PHOTOS
            for start in range(0, len(photos), size):
                yield from self._photos(photos[start : start + size], pool)
        for path in videos:
            yield from self._video(path)

    def _photos(self, paths: Sequence[str], pool: concurrent.futures.Executor) -> Iterator[Found]:
        read: list[tuple[str, FileState, np.ndarray]] = []
        for item in pool.map(self._read, paths):
            if isinstance(item, Skipped):
                self.skipped.append(item)
            else:
                read.append(item)
        for path, state, pixels in read:
            if self.detector is None:
                people = [PersonCrop(pixels, None, 1.0)]
            else:
                frame = Frame(pixels, path)
                try:
                    (found,) = self.detector.detect([frame])
                except ValueError as error:  # a box outside of its picture
                    self.skipped.append(unreadable(path, error))
                    continue
                people = [cut_out(frame, detection, self.aspect) for detection in found]
                if not people:
                    self.skipped.append(Skipped(path, NOBODY, path))
            yield Found(path, state.content, people, state)

    def _read(self, path: str) -> tuple[str, FileState, np.ndarray] | Skipped:
        """(path, what is recorded of it, pixels: at the model's size, or whole for a detector)."""
        try:
            data, state = scan.read(path, self._detector_name)
            if self.detector is None:
                return path, state, self.model.read_image(data, name=path)
            return path, state, preprocess.decode(data, name=path)
        except (ValueError, OSError) as error:
            return unreadable(path, error)

    @property
    def _detector_name(self) -> str:
        return self.detector.name if self.detector else ""

    def _video(self, path: str) -> Iterator[Found]:
        assert self.detector, "a video needs one"
        try:
            state, count = scan.hashed(path, self._detector_name), 0
            for person in people_in_video(self.detector, path, self.aspect):
                count += 1
                yield Found(path, state.content, [person], None)
            if not count:
                self.skipped.append(Skipped(path, NOBODY, path))
            yield Found(path, state.content, [], state)
        except (ValueError, OSError) as error:
            self.skipped.append(unreadable(path, error))
