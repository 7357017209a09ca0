"""The photos of a folder, whatever else lies in it: what is left out is counted and named."""

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from tipr_jax.paths import no_such_path
from tipr_jax.preprocess import image as preprocess

SHOWN_PER_KIND = 5


class Skipped(NamedTuple):
    """A file that is not searched: its path, what kind of reason, and the reason in words."""

    path: str
    kind: str
    reason: str


class Photos(NamedTuple):
    """What a folder holds: the paths of its photos, sorted, and every other file."""

    paths: list[str]
    skipped: list[Skipped]


def find_photos(place: str | Path, also: Callable[[str], bool] | None = None) -> Photos:
    """Every JPEG, PNG, BMP and WebP file below a folder, by content and not by name; or one file.

    Links are followed, each folder once. Only the first bytes of a file are read here, so a photo
    that is damaged further on is found when it is decoded.

    also: whether a file that is no photo is wanted all the same, as a video is where people are
    looked for in its frames.

    Raises:
      FileNotFoundError: there is no such folder or file.
      ValueError: there is no photo.
    """
    place = Path(place)
    if not place.exists():
        raise FileNotFoundError(no_such_path(place, "folder or photo"))
    photos = Photos([], [])
    if place.is_dir():
        for path in _files_below(place, photos.skipped):
            _sort_out(path, photos, also)
    else:
        _sort_out(str(place), photos, also)
    if not photos.paths:
        names = ", ".join(preprocess.FORMATS)
        lines = told(photos.skipped) or ["it is empty"]
        raise ValueError("\n".join([f"no photo ({names}) in {place}", *lines]))
    return Photos(sorted(photos.paths), photos.skipped)


def told(skipped: Sequence[Skipped]) -> list[str]:
    """What was left out, a line per kind with the first names; [] for nothing."""
    by_kind: dict[str, list[Skipped]] = {}
    for item in skipped:
        by_kind.setdefault(item.kind, []).append(item)
    lines = [f"skipped {len(skipped)} file{'s' if len(skipped) > 1 else ''}:"] if skipped else []
    for kind, items in by_kind.items():
        lines.append(f"  {kind}: {len(items)}")
        lines += [f"    {item.reason}" for item in items[:SHOWN_PER_KIND]]
        if len(items) > SHOWN_PER_KIND:
            lines.append(f"    ... and {len(items) - SHOWN_PER_KIND} more")
    return lines


def unreadable(path: str, error: Exception) -> Skipped:
    """The entry of a photo whose decoding failed."""
    kind = "too large" if isinstance(error, preprocess.ImageTooLargeError) else "damaged"
    return Skipped(path, kind, str(error))


def _files_below(folder: Path, skipped: list[Skipped]) -> Iterator[str]:
    """Every file below a folder; hidden files and folders that cannot be read are skipped."""

    def failed(error: OSError) -> None:
        skipped.append(Skipped(error.filename, "folder that cannot be read", str(error)))

    seen: set[tuple[int, int]] = set()  # a link may lead back to a folder above it
    for directory, folders, files in os.walk(folder, onerror=failed, followlinks=True):
        status = os.stat(directory)
        if (status.st_dev, status.st_ino) in seen:
            folders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        for name in [*folders, *files]:
            if name.startswith("."):
                path = os.path.join(directory, name)
                skipped.append(Skipped(path, "hidden", path))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (os.path.join(directory, name) for name in files if not name.startswith("."))


def _sort_out(path: str, photos: Photos, also: Callable[[str], bool] | None) -> None:
    """Puts a path among the photos, or among what is skipped with the reason."""
    if not os.path.exists(path):
        target = os.readlink(path)
        photos.skipped.append(Skipped(path, "dead link", f"{path}: links to {target}, not there"))
    elif not os.path.isfile(path):  # opening a pipe or a socket would wait for ever
        photos.skipped.append(Skipped(path, "not a file", f"{path}: a device, pipe or socket"))
    else:
        try:
            problem = preprocess.not_an_image(path)
            if problem and also and also(path):
                problem = None
        except OSError as error:
            photos.skipped.append(Skipped(path, "cannot be read", f"{path}: {error.strerror}"))
            return
        if problem and problem.startswith("a video"):
            reason = f"{path}: add it by its name, or all videos with --detect=nanodet"
            photos.skipped.append(Skipped(path, "video", reason))
        elif problem:
            photos.skipped.append(Skipped(path, "not a photo", f"{path}: {problem}"))
        else:
            photos.paths.append(path)
