"""Where a gallery may lie: in a file of this machine, or on a Milvus server."""

import os
from pathlib import Path

from tipr_jax.gallery import milvus_tables
from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.milvus_store import MilvusStore
from tipr_jax.gallery.store import Store
from tipr_jax.paths import local_path


def gallery_place(given: str | Path, flag: str) -> str | Path:
    """What was given for `flag`: the path of a file, or an address of `milvus_tables`.

    Raises:
      ValueError: an address of another kind, or a name that Milvus does not allow.
    """
    if not milvus_tables.is_address(given):
        return local_path(given, flag)
    milvus_tables.parse(str(given))
    return str(given)


def beside(place: str | Path) -> str:
    """A path of this machine; what a service keeps besides the gallery begins with it."""
    if milvus_tables.is_address(place):
        return milvus_tables.parse(str(place)).name
    return str(place)


def exists(place: str | Path) -> bool:
    """Whether there is a gallery. Raises as `MilvusStore.open` where a server does not answer."""
    if not milvus_tables.is_address(place):
        return os.path.exists(place)
    try:
        MilvusStore.open(str(place)).close()
    except FileNotFoundError:
        return False
    return True


def open_store(place: str | Path) -> GalleryStore:
    """An existing gallery. Raises as `Store.open` and `MilvusStore.open`."""
    if milvus_tables.is_address(place):
        return MilvusStore.open(str(place))
    return Store.open(place)


def create_store(place: str | Path) -> GalleryStore:
    """A new, empty gallery. Raises as `Store.create` and `MilvusStore.create`."""
    if milvus_tables.is_address(place):
        return MilvusStore.create(str(place))
    return Store.create(place)
