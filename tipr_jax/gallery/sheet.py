"""The picture of an answer: the query above its matches, best first."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tipr_jax.gallery.pictures import in_its_frame
from tipr_jax.gallery.retriever import Match
from tipr_jax.gallery.store import Item
from tipr_jax.paths import local_path
from tipr_jax.report.sheets import RetrievalSheet, draw_sheet

FORMATS = (".png", ".jpg", ".jpeg", ".webp", ".pdf")


def draw(title: str, matches: Sequence[Match], path: Path) -> None:
    """Draws into `path`, in the format of its ending."""
    shown = matches[:10]
    sheet = RetrievalSheet(title, None, [(_picture(m.item), m.score, None) for m in shown])
    draw_sheet(sheet, path, with_query=True)


def _picture(item: Item) -> str | np.ndarray:
    """What stands for an item: its photo, or the box in its frame."""
    if item.box is None:
        return item.path
    try:
        return in_its_frame(item)
    except (ValueError, OSError):  # a grey picture stands for one that is gone
        return item.path


def picture_path(given: str) -> Path:
    """The file to draw into, .png unless given otherwise; its directory is made.

    Raises:
      ValueError: an ending that is none of `FORMATS`.
      OSError: the directory cannot be made or written.
    """
    path = local_path(given, "--picture")
    path = path if path.suffix else path.with_suffix(".png")
    if path.suffix.lower() not in FORMATS:
        raise ValueError(f"--picture={given}: expected a name ending in {', '.join(FORMATS)}")
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "ab"):  # can it be written? Better asked before all photos are read
        pass
    if is_new:  # a search that fails leaves no empty picture
        path.unlink()
    return path
