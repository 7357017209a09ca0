"""Search: from photos and a sentence to a ranking."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tipr_jax.gallery.photos import find_photos
    from tipr_jax.gallery.retriever import Match, Retriever, find_images

__all__ = ["Match", "Retriever", "find_images", "find_photos"]


def __getattr__(name: str) -> Any:
    """Imported when it is first asked for, so that the command answers --help without JAX."""
    from tipr_jax.gallery import photos, retriever

    if name in __all__:
        return getattr(photos if name == "find_photos" else retriever, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
