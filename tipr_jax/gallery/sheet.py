"""The picture of an answer: the query above its matches, best first."""

from collections.abc import Sequence
from pathlib import Path

from tipr_jax.gallery.retriever import Match
from tipr_jax.paths import local_path
from tipr_jax.report.sheets import RetrievalSheet, draw_sheet


def draw(title: str, matches: Sequence[Match], path: Path) -> None:
    """Draws into `path`, in the format of its ending."""
    sheet = RetrievalSheet(title, None, [(m.path, m.score, None) for m in matches])
    draw_sheet(sheet, path, with_query=True)


def picture_path(given: str) -> Path:
    """The file to draw into, .png unless given otherwise; its directory is made.

    Raises:
      ValueError: matplotlib draws no such file.
      OSError: the directory cannot be made or written.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    path = local_path(given, "--picture")
    path = path if path.suffix else path.with_suffix(".png")
    known = FigureCanvasAgg.get_supported_filetypes()
    if path.suffix[1:].lower() not in known:
        raise ValueError(
            f"--picture={given}: expected a name ending in .png, or {', '.join(known)}"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    is_new = not path.exists()
    with open(path, "ab"):  # can it be written? Better asked before all photos are read
        pass
    if is_new:  # a search that fails leaves no empty picture
        path.unlink()
    return path
