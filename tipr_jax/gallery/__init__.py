"""Search: from photos and a sentence to a ranking."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tipr_jax.gallery.photos import find_photos
    from tipr_jax.gallery.retriever import Match, Retriever
    from tipr_jax.gallery.store import Item, Store

_MODULES = {
    "Item": "store",
    "Match": "retriever",
    "Retriever": "retriever",
    "Store": "store",
    "find_photos": "photos",
}
__all__ = ["Item", "Match", "Retriever", "Store", "find_photos"]


def __getattr__(name: str) -> Any:
    """Imported when it is first asked for, so that the command answers --help without JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
