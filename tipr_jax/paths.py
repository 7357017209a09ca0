"""Paths as people type them: ~ is the home directory, an address (gs://...) is refused at once."""

import re
from pathlib import Path
from typing import Any

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
_ADDRESS = re.compile(r"[a-zA-Z][a-zA-Z0-9+.-]+:/")  # gs://bucket, s3://..., https://...


def local_path(given: str | Path, flag: str) -> Path:
    """The path of this machine that was given for `flag`.

    Raises:
      ValueError: the address of another place, as gs://bucket/run.
    """
    if _ADDRESS.match(str(given)):
        raise ValueError(
            f"{flag}={given}: an address; expected a path of this machine, so mount the bucket "
            "(gcsfuse, s3fs) or copy the files, and give the path"
        )
    return Path(given).expanduser()


def with_local_paths(config: ConfigDict) -> ConfigDict:
    """A copy of a run's config whose `FIELDS` are paths of this machine.

    Raises:
      ValueError: as `local_path`.
    """
    config = config.copy_and_resolve_references()
    for name in FIELDS:
        section, _, field = name.rpartition(".")
        holder: Any = config[section] if section else config
        flag = f"--config.{name}"
        if field not in holder:
            continue
        if isinstance(holder[field], str):
            holder[field] = str(local_path(holder[field], flag)) if holder[field] else ""
        else:
            holder[field] = tuple(str(local_path(path, flag)) for path in holder[field])
    return config
