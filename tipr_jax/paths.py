"""Paths as people type them: ~ is the home directory, the address of another place is refused.

What a run reads and writes by itself may lie in a bucket, gs://... (`bucket`); where a model is
meant, hf://... is fetched from the Hugging Face Hub.

A path that does not exist is answered with the nearest name that does.
"""

import contextlib
import difflib
import functools
import os
import re
import shutil
import tempfile
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tipr_jax import bucket

if TYPE_CHECKING:  # a search does without it
    from ml_collections import ConfigDict

# Fields of a run's config that hold a path, or several. An empty path stays empty.
FIELDS = (
    "init_from",
    "data.root",
    "data.cache_dir",
    "data.tfds_dir",
    "data.vocab",
    "data.image_root",
    "data.caption_lists",
)
# Of these, the fields that may name a place in a bucket.
BUCKET_FIELDS = ("init_from", "data.cache_dir", "data.vocab")
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")  # gs://bucket, s3://..., https://...


def local_path(given: str | Path, flag: str) -> Path:
    """The path of this machine that was given for `flag`.

    Raises:
      ValueError: the address of another place, as gs://bucket/run; ~ without a home directory.
    """
    if _ADDRESS.match(str(given)):
        raise ValueError(
            f"{flag}={given}: an address; expected a path of this machine, so mount the bucket "
            "(gcsfuse, s3fs) or copy the files, and give the path"
        )
    try:
        return Path(given).expanduser()
    except RuntimeError as error:  # no home directory, or no such user
        raise ValueError(f"{flag}={given}: {error}; give the path without ~") from None


def run_path(given: str | Path, flag: str) -> Path:
    """`local_path`, or the path of gs://BUCKET/PATH: for what a run reads and writes by itself.

    Raises:
      ValueError: as `local_path` and `bucket.checked_path`.
    """
    return bucket.checked_path(given, flag) if bucket.is_address(given) else local_path(given, flag)


def place(given: str | os.PathLike) -> Path:
    """A path that was checked before, in whatever form: `Path(given)`, also of an address."""
    return bucket.path(given) if bucket.is_address(given) else Path(given)


def absolute(given: str | os.PathLike) -> Path:
    """`place` from the root on, which an address always is."""
    return bucket.path(given) if bucket.is_address(given) else Path(given).absolute()


def model_path(given: str | Path, flag: str) -> Path:
    """`local_path`, or for hf://OWNER/NAME what `hub.fetch` fetches: for what a model is read from.

    Raises:
      ValueError: as `local_path` and `hub.fetch`.
    """
    if not str(given).startswith("hf:/"):
        return local_path(given, flag)
    from tipr_jax import hub

    return hub.fetch(given, flag)


def with_local_paths(config: "ConfigDict") -> "ConfigDict":
    """A copy of a run's config whose `FIELDS` are paths of this machine, or of a bucket.

    Raises:
      ValueError: as `local_path`, and for `BUCKET_FIELDS` as `run_path`.
    """
    config = config.copy_and_resolve_references()
    for name in FIELDS:
        section, _, field = name.rpartition(".")
        holder: Any = config[section] if section else config
        flag = f"--config.{name}"
        if field not in holder:
            continue
        if field == "init_from":  # several, with commas between them; see `pretrained.start`
            given = [path for path in holder[field].split(",") if path]
            found = [
                run_path(path, flag) if bucket.is_address(path) else model_path(path, flag)
                for path in given
            ]
            holder[field] = ",".join(map(str, found))
        elif isinstance(holder[field], str):
            convert = run_path if name in BUCKET_FIELDS else local_path
            holder[field] = str(convert(holder[field], flag)) if holder[field] else ""
        else:
            holder[field] = tuple(str(local_path(path, flag)) for path in holder[field])
    return config


def cache_directory() -> Path:
    """Where this machine keeps what can be made again: ~/.cache/tipr_jax, made if missing.

    Without a home directory that can be written, as in containers, a directory for temporary files
    that the user owns.
    """
    user = str(os.getuid()) if hasattr(os, "getuid") else "user"
    temporary = Path(tempfile.gettempdir()) / f"tipr_jax-{user}"
    with contextlib.suppress(RuntimeError, OSError):  # RuntimeError: no home
        home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
        directory = Path(home) / "tipr_jax"
        directory.mkdir(parents=True, exist_ok=True)
        if os.access(directory, os.W_OK):
            return directory
    temporary.mkdir(mode=0o700, exist_ok=True)
    return temporary


@contextlib.contextmanager
def written_whole(directory: str | Path) -> Iterator[Path]:
    """A new directory to write into, which appears under its name when all of it is there.

    In a bucket it appears file after file, the files at the top last.

    Raises:
      ValueError: `directory` exists and is not an empty directory.
    """
    directory = absolute(directory)
    if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
        raise ValueError(
            f"{directory} exists and is not empty; remove it or choose another output directory"
        )
    if bucket.is_address(directory):
        with bucket.filled(directory) as draft:
            yield draft
        return
    # Written beside the target and renamed, so that an interrupted run leaves no half directory.
    draft = directory.with_name(f".{directory.name}.partial-{os.getpid()}")
    draft.mkdir(parents=True)
    try:
        yield draft
        draft.replace(directory)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def no_such_path(path: str | Path, what: str) -> str:
    """The message for a path that does not exist, with the nearest name beside it.

    what: what was expected there, as in "folder" or "image file".
    """
    path = Path(path)
    message = f"{path}: no such {what}"
    missing, parent = path, path.parent  # the first part of the path that is missing
    while parent != missing and not parent.exists():
        missing, parent = parent, parent.parent
    if missing != path:
        message += f", for there is no {missing}"
    near = _nearest(missing.name, _names(parent, _changed(parent)))
    if near is None:
        return message
    if unicodedata.normalize("NFC", near) == unicodedata.normalize("NFC", missing.name):
        form = "composed" if unicodedata.is_normalized("NFC", near) else "decomposed"
        return f"{message}; there is one spelt with {form} letters of Unicode: {parent / near}"
    return f"{message}; did you mean {parent / near}?"


def _nearest(name: str, names: tuple[str, ...]) -> str | None:
    """The name most like `name`; letter case and the form of accents do not count."""
    plain: dict[str, str] = {}
    for other in names:
        plain.setdefault(_plain(other), other)
    found = difflib.get_close_matches(_plain(name), plain, n=1, cutoff=0.75)
    return plain[found[0]] if found else None


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def _changed(directory: Path) -> int:
    try:
        return directory.stat().st_mtime_ns
    except OSError:
        return 0


@functools.lru_cache(maxsize=16)  # a check of a data set asks for many files of a few directories
def _names(directory: Path, changed: int) -> tuple[str, ...]:
    """Everything in a directory that was last changed at `changed`; () if it cannot be read."""
    del changed
    try:
        return tuple(sorted(os.listdir(directory)))
    except OSError:
        return ()
