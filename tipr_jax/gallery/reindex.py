"""Embeds a gallery's items by another model; the old vectors serve until the last one is done."""

import concurrent.futures
import os
from typing import NamedTuple

import numpy as np
from tqdm import tqdm

from tipr_jax.gallery.interface import GalleryStore
from tipr_jax.gallery.models import register
from tipr_jax.gallery.photos import Skipped, unreadable
from tipr_jax.gallery.pictures import picture_of
from tipr_jax.gallery.store import Item
from tipr_jax.inference.embedder import ROWS, Embedder


class Reindexed(NamedTuple):
    """How many items were embedded now, and those whose pictures cannot be read."""

    embedded: int
    skipped: list[Skipped]


def reindex(store: GalleryStore, model: Embedder, language: str = "") -> Reindexed:
    """Gives every item a vector of the model, then searches use it and other models' vectors go.

    An interrupted call loses nothing: the next one goes on where it ended, and until then the
    gallery answers by the old vectors. Items whose picture cannot be read stay in the gallery, but
    searches do not find them.

    language: as in `Retriever.create`.

    Raises:
      ValueError: features that are not finite; no picture could be read at all.
      OSError: as `GalleryStore.add`.
    """
    record = register(store, model, language)
    total = len(store.select()) - len(store.embedded(record))
    embedded, skipped, last = 0, [], 0
    with (
        concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as pool,
        tqdm(total=total, desc="reindex", unit="img", leave=False, disable=None) as bar,
    ):
        while items := store.without_vector(record, ROWS, after=last):
            last = items[-1].id
            readable, pictures = [], []
            for item, picture in zip(items, pool.map(_read, items), strict=True):
                if isinstance(picture, Skipped):
                    skipped.append(picture)
                else:
                    readable.append(item.id)
                    pictures.append(picture)
            if readable:
                store.add_vectors(readable, model.embed_images(pictures), record)
            embedded += len(readable)
            bar.update(len(items))
    if skipped and not len(store.embedded(record)):
        raise ValueError(
            f"none of the {len(skipped)} pictures could be read, so the gallery keeps its old "
            f"vectors; the first: {skipped[0].reason}"
        )
    store.remember("model", record.id)
    for other in store.models():
        if other.id != record.id:
            store.remove_model(other)
    return Reindexed(embedded, skipped)


def _read(item: Item) -> np.ndarray | Skipped:
    try:
        return picture_of(item)
    except (ValueError, OSError) as error:
        return unreadable(item.path, error)
