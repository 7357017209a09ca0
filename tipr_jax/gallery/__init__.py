"""Search: from photos and a sentence to a ranking."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tipr_jax.gallery.photos import find_photos
    from tipr_jax.gallery.retriever import Match, Retriever, find_images

__all__ = ["Match", "Retriever", "find_images", "find_photos"]


def __getattr__(name: str) -> Any:
    """Imported when it is first asked for, so that the command answers --help without JAX."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = "photos" if name == "find_photos" else "retriever"
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
