"""All images of a split, decoded and resized once: a memory-mapped file that processes share.

A cache file is a page with a header, then one record per image id: the pixels and their crc32. It
appears under its name only when it is complete. The name ends in a key, the hash of everything that
determines the pixels: image size, decoder, boxes, and of every image file its path under the common
directory, size, modification time and change time. The kernel sets the change time, so even an edit
that keeps size and modification time gives another key; the price is that a copied data set, or new
permissions on it, make the cache be built again. The other choice, hashing all bytes at every
start, would cost much of what the cache saves.

A bucket (`cache_dir` gs://...) holds it for hosts without a common disk: each copies it once to its
own disk, or builds it for all. Its key there has whole seconds of the modification time alone.
"""

import concurrent.futures
import contextlib
import dataclasses
import fcntl
import functools
import glob
import hashlib
import json
import logging
import os
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np
import PIL
import tqdm

from data_pipelines.datasets.split import Split
from tipr_jax import bucket
from tipr_jax.paths import cache_directory, no_such_path

log = logging.getLogger("tipr_jax")

VERSION = 2  # raise when `tipr_jax.preprocess.image` would give other pixels
HEADER_BYTES = 4096
POLL_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class CacheFormat:
    """How a cache file is laid out: everything that its bytes depend on except for the pixels."""

    key: str
    count: int  # of images
    image_size: tuple[int, int]  # (H, W)

    @property
    def record(self) -> np.dtype:
        return np.dtype([("image", np.uint8, (*self.image_size, 3)), ("crc32", "<u4")])

    @property
    def header(self) -> bytes:
        fields = {"tipr_jax image cache": VERSION} | dataclasses.asdict(self)
        return json.dumps(fields).encode().ljust(HEADER_BYTES)

    @property
    def file_bytes(self) -> int:
        return HEADER_BYTES + self.count * self.record.itemsize


class DecodedCache:
    """An open cache file. Called with image ids it gives a fresh array of their pixels."""

    def __init__(self, path: Path, cache_format: CacheFormat):
        self.path = path
        self._file = open(path, "rb")  # holds the lock that keeps _remove_stale away
        with contextlib.suppress(OSError):
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        records = np.memmap(path, cache_format.record, "r", HEADER_BYTES, (cache_format.count,))
        self._images, self._crc32 = np.asarray(records["image"]), np.asarray(records["crc32"])
        self._verified = np.zeros(cache_format.count, bool)

    def __call__(self, image_id: np.ndarray) -> np.ndarray:
        """uint8 [b, H, W, 3] of image_id int [b]; the id -1 gives a black image.

        Raises:
          ValueError: a row that this process reads for the first time fails its checksum.
        """
        images = np.zeros((len(image_id), *self._images.shape[1:]), np.uint8)
        # One copy per row: as fast as fancy indexing, and the checksum finds the row in the cache.
        for place, row in enumerate(image_id.tolist()):
            if row >= 0:
                images[place] = self._images[row]
                if not self._verified[row]:
                    self._verify(images[place], row)
        return images

    def _verify(self, image: np.ndarray, row: int) -> None:
        if zlib.crc32(image.data) != self._crc32[row]:
            raise ValueError(
                f"{self.path}: damaged image cache (row {row} fails its checksum); "
                "delete it to rebuild it"
            )
        self._verified[row] = True


def open_cache(
    split: Split,
    read: Callable[[int], np.ndarray],
    *,
    name: str,
    image_size: tuple[int, int],
    allow_truncated: bool,
    resize_filter: str,
    cache_dir: str,
) -> DecodedCache:
    """The cache of a split, built first if none fits the image files as they are now.

    Args:
      split: at least one image.
      read: image id -> uint8 [H, W, 3], decoded and resized.
      name: of the data set, for the file name.
      image_size: (H, W).
      allow_truncated: how `read` treats files that end early.
      resize_filter: how `read` resizes.
      cache_dir: where cache files live, created if missing; "" for the user's cache directory,
        which is also used where `cache_dir` is in a bucket.

    Raises:
      FileNotFoundError: an image file is missing.
      ValueError: no disk room, a directory that cannot be written, a damaged cache file, an
        unreadable image, or image files that change while they are decoded.
    """
    decoding = (allow_truncated, resize_filter)
    cache_format = CacheFormat(_key(split, image_size, decoding), len(split.image_path), image_size)
    size = "x".join(map(str, image_size))
    stem = f"{name}-{split.name}-{size}-{_place(split, decoding)}"
    shared = None
    if bucket.is_address(cache_dir):
        key = _key(split, image_size, decoding, shared=True)
        shared = bucket.path(cache_dir) / f"{name}-{split.name}-{size}-{key}.images"
    on_disk = cache_dir and not shared
    directory = Path(cache_dir).expanduser() if on_disk else cache_directory() / "images"
    path = directory / f"{stem}-{cache_format.key}.images"
    if not path.exists():
        with _explained(path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        _remove_stale(path, stem)
        with _claim(path) as partial:
            if partial:
                what = f"{cache_format.count} {split.name} images at {size}"
                _check_room(path.parent, cache_format.file_bytes, what)
                source = shared if shared and shared.exists() else None
                how = f"copying {source} to" if source else f"decoding {what} once into"
                log.info("%s %s, %s", how, path, _megabytes(cache_format.file_bytes))
                if source:
                    _copy(source, partial, cache_format)
                else:
                    _write(partial, cache_format, read, f"decode {split.name} images")
                _check_unchanged(split, cache_format.key, _key(split, image_size, decoding))
                if shared and not source:
                    bucket.copy(Path(partial.name), shared)
                with _explained(path.parent):
                    os.replace(partial.name, path)
    return _open(path, path.stat().st_ino, cache_format)


@functools.lru_cache(maxsize=8)  # a process verifies a row once, however often it opens the file
def _open(path: Path, inode: int, cache_format: CacheFormat) -> DecodedCache:
    with open(path, "rb") as file:
        header, size = file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size
    if size != cache_format.file_bytes:
        problem = f"{size} bytes instead of {cache_format.file_bytes}"
    elif header != cache_format.header:
        problem = "its header does not match"
    else:
        return DecodedCache(path, cache_format)
    raise ValueError(f"{path}: damaged image cache ({problem}); delete it to rebuild it")


def _write(
    partial: BinaryIO, cache_format: CacheFormat, read: Callable[[int], np.ndarray], progress: str
) -> None:
    """Fills a new cache file, decoding on all cores."""
    record, directory = cache_format.record, Path(partial.name).parent

    def put(data: bytes, offset: int) -> None:
        # Not through a mapping: a full disk would kill the process there.
        with _explained(directory):
            while data:
                written = os.pwrite(partial.fileno(), data, offset)
                data, offset = data[written:], offset + written

    def fill(row: int) -> None:
        image = np.ascontiguousarray(read(row))
        one = np.array((image, zlib.crc32(image.data)), record)
        put(one.tobytes(), HEADER_BYTES + row * record.itemsize)

    put(cache_format.header, 0)
    pool = concurrent.futures.ThreadPoolExecutor(os.cpu_count())  # Pillow decodes without the GIL
    try:
        rows = pool.map(fill, range(cache_format.count))
        for _ in tqdm.tqdm(
            rows, progress, cache_format.count, unit="img", leave=False, disable=None
        ):
            pass
    finally:  # the first unreadable image, or Ctrl-C, ends it
        pool.shutdown(cancel_futures=True)
    with _explained(directory):
        os.fsync(partial.fileno())


def _copy(shared: Path, partial: BinaryIO, cache_format: CacheFormat) -> None:
    """Fills a new cache file from a bucket. Its header has the key of the host that built it."""
    bucket.copy(shared, Path(partial.name))
    size = os.fstat(partial.fileno()).st_size
    if size != cache_format.file_bytes:
        raise ValueError(
            f"{shared}: damaged image cache ({size} bytes instead of {cache_format.file_bytes}); "
            "delete it to rebuild it"
        )
    os.pwrite(partial.fileno(), cache_format.header, 0)
    os.fsync(partial.fileno())


@contextlib.contextmanager
def _claim(path: Path) -> Iterator[BinaryIO | None]:
    """An empty file of this process alone to build `path` in, or None once another has built it.

    The file is locked. The kernel drops the lock of a process that dies, and the next process
    overwrites the unfinished file, so nobody waits for the dead and no rubbish piles up.
    """
    partial, waiting = path.with_name(f"{path.name}.partial"), False
    while not path.exists():
        with _explained(path.parent):
            file = open(partial, "r+b", 0, opener=_create)
        with file:
            with _explained(path.parent):
                locked = _lock(file)
            if not locked:
                if not waiting:
                    log.info("waiting for another process that builds %s", path)
                waiting = True
                time.sleep(POLL_SECONDS)
                continue
            try:
                # Before the lock was ours, another process may have finished or given up.
                if _is_at(file, partial) and not path.exists():
                    file.truncate(0)
                    yield file
                    return
            finally:
                if _is_at(file, partial):  # not built
                    partial.unlink(missing_ok=True)
    yield None


def _create(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o644)


def _lock(file: BinaryIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(file: BinaryIO, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove_stale(path: Path, stem: str) -> None:
    """Deletes caches of the same split in the same place whose image files have changed since.

    A cache that a process has open stays: over NFS, the process would lose it.
    """
    for old in map(Path, glob.glob(f"{glob.escape(str(path.parent / stem))}-*")):
        if not old.name.startswith(path.name):
            with contextlib.suppress(OSError), open(old, "r+b") as file:
                if _lock(file):
                    old.unlink()


def _check_unchanged(split: Split, before: str, now: str) -> None:
    if now != before:
        where = f"{_directory(split)}: {split.name} images changed while they were decoded for"
        raise ValueError(f"{where} the image cache; start again when nothing writes there")


def _check_room(directory: Path, needed: int, what: str) -> None:
    free = shutil.disk_usage(directory).free
    if free < needed:
        raise ValueError(
            f"caching {what} takes {_megabytes(needed)}, but {directory} has {_megabytes(free)} "
            "left; make room, choose another --config.data.cache_dir or set "
            "--config.data.cache=False"
        )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"


@contextlib.contextmanager
def _explained(directory: Path) -> Iterator[None]:
    """Turns a failed system call on the cache into one line."""
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"cannot write the image cache in {directory} ({error.strerror}); choose another "
            "--config.data.cache_dir or set --config.data.cache=False"
        ) from None


def _directory(split: Split) -> str:
    """The deepest directory above all images."""
    return os.path.commonpath({os.path.dirname(path) for path in split.image_path})


def _place(split: Split, decoding: tuple[bool, str]) -> str:
    """Eight hex digits: caches of different data sets do not count as versions of one."""
    place = f"{_directory(split)} {decoding}"
    return hashlib.sha256(os.fsencode(place)).hexdigest()[:8]


def _key(
    split: Split, image_size: tuple[int, int], decoding: tuple[bool, str], *, shared: bool = False
) -> str:
    """Hex digits of everything that determines the pixels (see the top of this file).

    shared: the key in a bucket.
    """
    decoder = (VERSION, PIL.__version__, image_size, decoding)
    digest, start = hashlib.sha256(repr(decoder).encode()), len(_directory(split))
    for path in split.image_path:
        try:
            stat = os.stat(path)
        except FileNotFoundError:
            raise FileNotFoundError(no_such_path(path, "image file")) from None
        times = int(stat.st_mtime) if shared else f"{stat.st_mtime_ns} {stat.st_ctime_ns}"
        state = f"\0{stat.st_size} {times}\0"
        digest.update(os.fsencode(path[start:] + state))
    if split.image_box is not None:
        digest.update(split.image_box.tobytes())
    return digest.hexdigest()[:24]
