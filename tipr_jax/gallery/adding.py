"""From files to stored people: read, find the people, embed, one transaction for several of them.

Without a detector a photo shows one person. With one, every person of a photo becomes an item with
a box, and of a video the best crops of each track. `FileEmbedder` does all but the storing, so that
other processes can do it (`ray_adding`).
"""

import concurrent.futures
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery import scan
from tipr_jax.gallery.detect import Detector, Frame
from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.people import PersonCrop, cut_out
from tipr_jax.gallery.photos import Skipped, unreadable
from tipr_jax.gallery.store import FileState, Item, Model
from tipr_jax.gallery.tracks import people_in_video
from tipr_jax.gallery.video import is_video
from tipr_jax.inference.embedder import ROWS, Embedder
from tipr_jax.preprocess import image as preprocess

NOBODY = "nobody found"
PHOTOS = 8  # whole photos in memory at a time, 36 MB each at 12 megapixels


class Found(NamedTuple):
    """Some people of a file; `state` comes with the last of them."""

    path: str
    content: str
    people: Sequence[PersonCrop]
    state: FileState | None


class Embedded(NamedTuple):
    """What a gallery stores in one transaction.

    Attributes:
      items: people of one file or of several.
      vectors: theirs, unit, float32 [N,C]; [0,0] without people.
      files: by path, what to record of the files that are read to the end.
    """

    items: list[Item]
    vectors: np.ndarray
    files: dict[str, FileState]


class FileEmbedder:
    """Reads and embeds files; needs no gallery.

    Args:
      model: embeds.
      detector: finds the people; None: a photo shows one person, and videos are not read.
      facts: camera, time, tags and meta of the new items.

    Attributes:
      skipped: the files so far that could not be read, or show nobody.
    """

    def __init__(self, model: Embedder, detector: Detector | None, facts: dict[str, Any]):
        self.model, self.detector, self.facts = model, detector, facts
        height, width = model.image_size
        self.aspect = height / width
        self.skipped: list[Skipped] = []

    def __call__(self, paths: Sequence[str]) -> Iterator[Embedded]:
        """The people of the files, as many at a time as the model embeds at once.

        Raises:
          ValueError: features that are not finite.
        """
        items: list[Item] = []
        pixels: list[np.ndarray] = []
        files: dict[str, FileState] = {}
        for found in self._found(paths):
            items += [self._item(found, person) for person in found.people]
            pixels += [person.pixels for person in found.people]
            if found.state:
                files[found.path] = found.state
            if len(items) >= ROWS or len(files) >= ROWS:
                yield self._embedded(items, pixels, files)
                items, pixels, files = [], [], {}
        if items or files:
            yield self._embedded(items, pixels, files)

    def _embedded(self, items: list[Item], pixels: list[np.ndarray], files: dict) -> Embedded:
        vectors = self.model.embed_images(pixels) if items else np.zeros((0, 0), np.float32)
        return Embedded(items, vectors, files)

    def _item(self, found: Found, person: PersonCrop) -> Item:
        facts = dict(self.facts)
        if person.box is not None:
            facts["meta"] = dict(facts.get("meta", {})) | {"detection": round(person.score, 3)}
        return Item(
            found.content,
            found.path,
            box=person.box,
            frame_time=person.seconds,
            track=person.track,
            **facts,
        )

    def _found(self, paths: Iterable[str]) -> Iterator[Found]:
        """What is in the files, in their order within each kind."""
        photos, videos = photos_and_videos(paths, self.detector is not None)
        with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool:
            size = ROWS if self.detector is None else PHOTOS
            for start in range(0, len(photos), size):
                for read in pool.map(self._read, photos[start : start + size]):
                    yield from self._photo(read)
        for path in videos:
            yield from self._video(path)

    def _photo(self, read: tuple[str, FileState, np.ndarray] | Skipped) -> Iterator[Found]:
        if isinstance(read, Skipped):
            self.skipped.append(read)
            return
        path, state, pixels = read
        if self.detector is None:
            people = [PersonCrop(pixels, None, 1.0)]
        else:
            frame = Frame(pixels, path)
            try:
                (found,) = self.detector.detect([frame])
            except ValueError as error:  # a box outside of its picture
                self.skipped.append(unreadable(path, error))
                return
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


class Adder:
    """Adds files to a gallery, in this process.

    Args:
      store, record: the gallery and the model as it records it.
      embed: reads the files.
    """

    def __init__(self, store: GalleryStore, record: Model, embed: FileEmbedder):
        self.store, self.record, self.embed = store, record, embed

    def __call__(self, paths: Sequence[str]) -> list[Skipped]:
        """Adds the files; returns those that cannot be read. With a progress bar on a terminal.

        Raises:
          ValueError: features that are not finite.
          OSError: as `GalleryStore.add`.
        """
        with tqdm(total=len(paths), desc="add", unit="file", leave=False, disable=None) as bar:
            for part in self.embed(paths):
                put(self.store, self.record, part)
                bar.update(len(part.files))
        return self.embed.skipped


def put(store: GalleryStore, record: Model, part: Embedded) -> None:
    """Stores it in one transaction. Errors as `GalleryStore.add`."""
    if part.items:
        store.add(part.items, part.vectors, record, part.files)
    elif part.files:
        store.record_files(part.files)


def photos_and_videos(paths: Iterable[str], wants_videos: bool) -> tuple[list[str], list[str]]:
    """Files in their order within each kind; without `wants_videos` all of them count as photos."""
    photos: list[str] = []
    videos: list[str] = []
    for path in paths:
        (videos if wants_videos and _is_video(path) else photos).append(path)
    return photos, videos


def _is_video(path: str) -> bool:
    try:
        return is_video(path)
    except OSError:  # it has vanished since the folder was listed; reading it will say so
        return False
