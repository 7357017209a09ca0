"""Buckets of Google Cloud Storage: what lies at gs://BUCKET/PATH in the place of a directory.

A path there is an `etils.epath.Path`, which has the methods of `pathlib.Path`; below, gcsfs moves
the files, and TensorStore the arrays that Orbax saves. A bucket is no disk: nothing can be appended
to a file, directories are there as long as a file is in them, and there are no locks. Other buckets
(s3://...) must be mounted, for Orbax writes to Google's alone.

Tested against an emulator of the storage service, not against Google's own: credentials, quotas and
buckets with a hierarchical namespace are untested.
"""

import contextlib
import functools
import importlib
import importlib.util
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import tqdm

# Where TensorFlow is installed, epath would import it to read a file.
os.environ.setdefault("EPATH_USE_TF", "false")

_ADDRESS = re.compile(r"gs:/{1,2}(?P<bucket>[^/]+)(?P<path>/.*)?")  # pathlib makes gs:/ of gs://
NEEDED_ROLES = "roles/storage.objectAdmin and roles/storage.legacyBucketReader"
# Of errors that these raise of their own kind; the other errors are OSError and ValueError.
_LIBRARIES = ("gcsfs", "google", "aiohttp", "requests")


def is_address(given: str | os.PathLike) -> bool:
    """True for gs://BUCKET/PATH, and for an `epath.Path` of it."""
    return str(given).startswith("gs:/")


def path(given: str | os.PathLike) -> Path:
    """The `epath.Path` of an address.

    Raises:
      ValueError: not gs://BUCKET[/PATH]; the extra `gcs` is missing.
    """
    found = _ADDRESS.fullmatch(str(given))
    if not found:
        raise ValueError(f"{given}: not an address in a bucket; expected gs://BUCKET/PATH")
    _prepare()
    epath: Any = importlib.import_module("etils.epath")
    return epath.Path(f"gs://{found['bucket']}{(found['path'] or '').rstrip('/')}")


def checked_path(given: str | os.PathLike, flag: str) -> Path:
    """`path`, whose bucket is there and can be read. flag: what it was given for, for messages.

    Raises:
      ValueError: as `path`; no such bucket, or no access.
    """
    with _mistakes(f"{flag}={given}"):
        found = path(given)
        _check(path(f"gs://{found.parts[2]}"))
    return found


@functools.cache
def _prepare() -> None:
    """Makes gcsfs fit for what several programs write, once per process."""
    if importlib.util.find_spec("gcsfs") is None:
        raise ValueError("gs:// needs gcsfs; install it: pip install 'tipr_jax[gcs]'")
    # gcsfs would remember which files a directory had, but TensorStore and other hosts write, too.
    fsspec: Any = importlib.import_module("fsspec.config")
    fsspec.conf.setdefault("gcs", {})["use_listings_cache"] = False
    for library in ("fsspec", "gcsfs"):  # They narrate, and log the errors that they raise, too.
        logging.getLogger(library).setLevel(logging.CRITICAL)


@functools.cache
def _check(bucket: Path) -> None:
    """Raises OSError unless the bucket is there."""
    bucket.stat()


@contextlib.contextmanager
def _mistakes(what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise ValueError(f"{what}: no such bucket; make it, or correct the name") from None
    except Exception as error:
        raise ValueError(
            f"{what}: {_reason(error)}; log in with `gcloud auth application-default login`, and "
            f"see that the account has {NEEDED_ROLES} on the bucket"
        ) from None


@contextlib.contextmanager
def mistakes_in_one_line() -> Iterator[None]:
    """Errors of the libraries that reach a bucket, while a run uses it, as OSError of one line."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.partition(".")[0] not in _LIBRARIES:
            raise
        raise OSError(f"the bucket refused or is out of reach: {_reason(error)}") from error


def _reason(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


@contextlib.contextmanager
def filled(directory: Path) -> Iterator[Path]:
    """A local directory to write into: `directory` itself, made if it is missing.

    For a directory in a bucket it is a temporary one of the same name. What was written is copied
    into the bucket at the end, the files at the top last, for they say that the others are there.
    """
    if not is_address(directory):
        directory.mkdir(parents=True, exist_ok=True)
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        local = Path(temporary) / directory.name
        local.mkdir()
        yield local
        files = sorted(file.relative_to(local) for file in local.rglob("*") if file.is_file())
        for file in sorted(files, key=lambda file: len(file.parts), reverse=True):
            copy(local / file, directory / file)


@contextlib.contextmanager
def read_locally(directory: Path) -> Iterator[Path]:
    """A local directory with the files of `directory`: itself, or a temporary copy.

    Of a directory in a bucket the files alone are copied, not the directories in it.
    """
    if not is_address(directory):
        yield directory
        return
    with tempfile.TemporaryDirectory() as temporary:
        for file in directory.iterdir() if directory.is_dir() else ():
            if file.is_file():
                copy(file, Path(temporary) / file.name)
        yield Path(temporary)


def copy(source: Path, target: Path) -> None:
    """Copies a file; in a bucket it appears when all of it is there."""
    about: Any = source.stat()  # epath says `length` where pathlib says `st_size`
    size = about.length if is_address(source) else about.st_size
    bar = tqdm.tqdm(
        desc=f"copy {source.name}",
        total=size,
        unit="B",
        unit_scale=True,
        delay=1,
        leave=False,
        disable=None,
    )
    with source.open("rb") as read, target.open("wb") as write, bar:
        while chunk := read.read(16 * 2**20):
            write.write(chunk)
            bar.update(len(chunk))


def remove_tree(directory: Path) -> None:
    """Deletes a directory and what is in it, if it is there."""
    if is_address(directory):
        tree: Any = directory
        tree.rmtree(missing_ok=True)
    else:
        shutil.rmtree(directory, ignore_errors=True)
