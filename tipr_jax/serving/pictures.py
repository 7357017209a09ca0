"""Pictures that come to the service and leave it: uploads, thumbnails, frames, removal.

An uploaded picture is kept in the folder `<gallery>.pictures` under the hash of its bytes, never
under a name that somebody sent, and goes with its item. Photos elsewhere are never touched.
"""

import contextlib
import dataclasses
import functools
import hashlib
import io
import os
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from PIL import Image, ImageDraw

from tipr_jax.gallery.pictures import whole_picture
from tipr_jax.gallery.retriever import Retriever
from tipr_jax.gallery.store import FileState, Item
from tipr_jax.gallery.stores import beside
from tipr_jax.inference.embedder import Embedder
from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import crop

THUMBNAIL = (192, 384)  # width, height; shown at half of it, for dense screens
FRAME = (1600, 1600)
ENDINGS = {b"\xff\xd8": ".jpg", b"\x89P": ".png", b"RI": ".webp", b"BM": ".bmp"}
_KEPT = re.compile(r"[0-9a-f]{64}\.(jpg|png|webp|bmp|part)")
_ABANDONED_S = 3600


class NoSuchItemError(LookupError):
    """The gallery has no item of this id."""

    def __init__(self, number: int):
        super().__init__(f"there is no item {number}; it may have been deleted")


class Stored(NamedTuple):
    """The item of an uploaded picture; new: the gallery did not have it."""

    id: int
    new: bool


@dataclasses.dataclass(frozen=True)
class Upload:
    """A job: a picture becomes an item. Its result is `Stored`.

    Attributes:
      data: the encoded file.
      pixels: uint8 [H,W,3], what `TrainedModel.read_image` makes of it.
      facts: camera, time and tags of the item, if it is new.

    Raises:
      OSError: the disk is full, or the gallery cannot be written.
    """

    data: bytes
    pixels: np.ndarray
    facts: dict[str, Any]

    @functools.cached_property
    def content(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    @classmethod
    def together(cls, retriever: Retriever, jobs: Sequence[Self]) -> list[Stored]:
        ids = {job.content: _known(retriever, job.content) for job in jobs}
        new = {job.content: job for job in reversed(jobs) if not ids[job.content]}
        ids |= _put(retriever, new)
        return [Stored(ids[job.content], new.get(job.content) is job) for job in jobs]


def _known(retriever: Retriever, content: str) -> int:
    """The item that all of a picture is already; 0 if there is none."""
    items = retriever.store.known(content, retriever.record)
    return next((item.id for item in items if not item.region), 0)


def _put(retriever: Retriever, new: Mapping[str, Upload]) -> dict[str, int]:
    """Keeps pictures by content and makes them items, all of them or none; returns the ids."""
    if not new:
        return {}
    items, files = [], {}
    try:
        for content, upload in new.items():
            path = _keep(folder_of(retriever), upload)
            status = os.stat(path)
            files[path] = FileState(status.st_size, status.st_mtime_ns, content)
            items.append(Item(content, path, **upload.facts))
        ids = retriever.put(items, [upload.pixels for upload in new.values()], files)
    except BaseException:
        for path in files:
            os.unlink(path)
        raise
    return dict(zip(new, ids, strict=True))


def folder_of(retriever: Retriever) -> Path:
    """Where the gallery keeps uploaded pictures."""
    return Path(os.path.abspath(f"{beside(retriever.store.path)}.pictures"))


def _keep(folder: Path, upload: Upload) -> str:
    """Writes a picture so that it is whole, or not there; returns its path."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / f"{upload.content}{ENDINGS[upload.data[:2]]}"
    part = path.with_suffix(".part")
    with open(part, "wb") as file:
        file.write(upload.data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    return str(path)


def item_of(retriever: Retriever, number: int) -> Item:
    """The item of an id. Raises NoSuchItemError when it is not there."""
    items = retriever.store.items([number])
    if not items:
        raise NoSuchItemError(number)
    return items[0]


def delete(retriever: Retriever, number: int) -> None:
    """Removes an item, and its picture if it was uploaded. Raises NoSuchItemError."""
    item = item_of(retriever, number)
    retriever.delete([number])
    others = retriever.store.known(item.content, retriever.record)
    if Path(item.path).parent == folder_of(retriever) and not others:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(item.path)


def sweep(retriever: Retriever) -> None:
    """Removes uploaded pictures without an item, which a killed process left behind."""
    folder, known = folder_of(retriever), retriever.store.files()
    for path in folder.iterdir() if folder.is_dir() else ():
        kept = _KEPT.fullmatch(path.name) and str(path) not in known
        if kept and path.stat().st_mtime < time.time() - _ABANDONED_S:
            path.unlink()


def read(model: Embedder, data: bytes, name: str) -> tuple[np.ndarray, bytes]:
    """A sent picture: uint8 [H,W,3] at the model's size, and its thumbnail as a JPEG.

    Raises:
      ValueError: it is none, or (ImageTooLargeError) it is too large; the message says name.
    """
    pixels, (width, height) = model.read_image(data, name), THUMBNAIL
    return pixels, _jpeg(preprocess.decode(data, name=name, size=(height, width)), THUMBNAIL)


def thumbnail(item: Item) -> bytes:
    """A JPEG of the person, at most `THUMBNAIL`.

    Raises:
      FileNotFoundError, ValueError: the file is gone, or damaged.
    """
    return _jpeg(crop(whole_picture(item), item.box), THUMBNAIL)


def frame(item: Item) -> bytes:
    """A JPEG of all of the picture, at most `FRAME`, the person's box drawn. Errors as above."""
    picture = Image.fromarray(whole_picture(item))
    if item.box is not None:
        x, y, width, height = item.box
        thick = max(2, picture.width // 300)
        for colour, line in (("black", thick + 2), ("yellow", thick)):
            corners = (x, y, x + width - 1, y + height - 1)
            ImageDraw.Draw(picture).rectangle(corners, outline=colour, width=line)
    return _jpeg(np.asarray(picture), FRAME)


def _jpeg(picture: np.ndarray, size: tuple[int, int]) -> bytes:
    image = Image.fromarray(picture)
    image.thumbnail(size, Image.Resampling.BILINEAR, reducing_gap=2)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=85)
    return out.getvalue()
