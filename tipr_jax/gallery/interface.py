"""What every store of a gallery can do, whether it is a file (`store`) or a Milvus server.

Searching, adding, serving and the commands know a store by this alone; `stores` opens one.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np

from tipr_jax.gallery.items import FileState, Ids, Item, Model


class GalleryStore(Protocol):
    """People, their vectors and their origin. Not for several threads at once.

    Ids of items ascend and are never used twice. When a call that changes something returns, its
    change is kept and the next call of any other process sees it.

    Attributes:
      path: the file or the address, as it was given.
    """

    path: str

    def close(self) -> None: ...

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # Settings and models.

    def setting(self, name: str, default: Any = None) -> Any:
        """A value that was remembered, as JSON has it."""
        ...

    def remember(self, name: str, value: Any) -> None: ...

    def models(self) -> list[Model]:
        """The models whose vectors lie side by side here."""
        ...

    @property
    def current_model(self) -> Model | None:
        """The model that searches use; None in a gallery that never had one."""
        number = self.setting("model")
        return next((model for model in self.models() if model.id == number), None)

    def register_model(
        self, fingerprint: str, directory: str, vector_size: int, facts: Mapping[str, Any]
    ) -> Model:
        """The model of this fingerprint, recorded if it is new; its directory may have changed."""
        ...

    def remove_model(self, model: Model) -> None:
        """Forgets a model and its vectors; the items stay."""
        ...

    # Items.

    def add(
        self,
        items: Sequence[Item],
        vectors: np.ndarray,
        model: Model,
        files: Mapping[str, FileState] | None = None,
    ) -> list[int]:
        """Items with their vectors; returns their ids.

        An item whose content and region are there already keeps its id and gets the vector.

        Args:
          items: their `id` and `added` are not read.
          vectors: float [N,C], stored with the precision of float16.
          model: of this gallery, whose vectors they are.
          files: the files that are read now, by path; items of a file's former content go, unless
            another file has the same content.

        Raises:
          ValueError: vectors of another shape.
          OSError: the store cannot be written, or another process writes to it.
        """
        ...

    def record_files(self, files: Mapping[str, FileState]) -> None:
        """Files that were read and whose content is known, or shows nobody."""
        ...

    def forget_files(self, paths: Sequence[str]) -> int:
        """Files that are no longer there: their items go, unless another file has the content.

        Returns how many items went.
        """
        ...

    def delete(self, ids: Ids) -> int:
        """Removes items with all their vectors; returns how many there were.

        A file of which no item is left is forgotten, so a later rescan takes it anew.
        """
        ...

    def items(self, ids: Ids) -> list[Item]:
        """The items of these ids, in this order; those that are gone are left out."""
        ...

    def known(self, content: str, model: Model) -> list[Item]:
        """The items of a content that have a vector of the model."""
        ...

    def select(self, where: Mapping[str, Any] | None = None) -> np.ndarray:
        """The ids that pass a filter, ascending, int64 [N]; see `filters` for what it may say.

        Raises:
          ValueError: an unknown field or a value of the wrong kind.
        """
        ...

    def cameras_and_tags(self, limit: int = 200) -> tuple[list[str], list[str]]:
        """The cameras and tags that items have, sorted, at most `limit` of each."""
        ...

    def files(self) -> dict[str, FileState]:
        """What is recorded of every file, by absolute path."""
        ...

    # Vectors.

    def vectors(self, model: Model, after: int = 0) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """(ids int64 [n], vectors float16 [n,C]) of items with a larger id, in item order."""
        ...

    def vectors_of(self, ids: Ids, model: Model) -> np.ndarray:
        """The vectors of these items, in this order: float16 [N,C].

        Raises:
          KeyError: an item is gone, or has no vector of the model.
        """
        ...

    def embedded(self, model: Model) -> np.ndarray:
        """The ids of the items that have a vector of the model, ascending, int64 [N]."""
        ...

    def without_vector(self, model: Model, limit: int, after: int = 0) -> list[Item]:
        """Items with a larger id that the model has not embedded yet, at most `limit`."""
        ...

    def add_vectors(self, ids: Ids, vectors: np.ndarray, model: Model) -> None:
        """Vectors of items that are there; an item that is gone is left out."""
        ...

    # The whole of it.

    def changes(self) -> tuple[int, int]:
        """Another pair of numbers after this process or another one changed the gallery."""
        ...

    def stats(self) -> dict[str, Any]:
        """Figures of the gallery: items, files, models with their vectors, bytes."""
        ...


def check_shape(items: Sequence[Item], vectors: np.ndarray, model: Model) -> None:
    """Raises ValueError unless there is a vector of the model's size for every item."""
    if vectors.shape != (len(items), model.vector_size):
        raise ValueError(
            f"vectors have shape {vectors.shape}, expected {(len(items), model.vector_size)}"
        )


def check_format(place: str, version: int, known: int) -> None:
    """Raises ValueError for a gallery that a later tipr_jax has made."""
    if version > known:
        raise ValueError(
            f"{place} has format {version}, this version of tipr_jax reads up to {known}; "
            "update tipr_jax"
        )


def figures(store: GalleryStore, vectors: Mapping[int, int], **counts: int) -> dict[str, Any]:
    """What `GalleryStore.stats` returns; vectors: how many each model has, by its id."""
    current = store.setting("model")
    return {
        "gallery": store.path,
        **counts,
        "models": [
            {
                "directory": model.directory,
                "fingerprint": model.fingerprint,
                "vector_size": model.vector_size,
                "vectors": vectors.get(model.id, 0),
                "searched": model.id == current,
            }
            for model in store.models()
        ],
    }
