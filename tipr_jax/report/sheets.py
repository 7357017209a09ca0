"""Retrieval sheets: one query and the images that were found for it, as a picture."""

import dataclasses
import html
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from tipr_jax.preprocess import image as preprocess

if TYPE_CHECKING:  # matplotlib is imported where it draws
    from matplotlib.axes import Axes

LineStyle = str | tuple[float, tuple[float, ...]]  # as matplotlib takes it

_NEUTRAL = "#555555"
_FRAMES: dict[bool | None, tuple[str, LineStyle, str]] = {  # is_correct -> colour, style, mark
    True: ("#1a9850", "solid", " ✓"),
    False: ("#d73027", (0, (3, 1.5)), " ✗"),
    None: (_NEUTRAL, "solid", ""),
}
_THUMBNAIL = (128, 256)  # largest width, height in pixels
_RANKED_IMAGES = 10


@dataclasses.dataclass(frozen=True)
class RetrievalSheet:
    """One query and what was found.

    Attributes:
      query: the sentence that was searched for.
      query_image_path: an image of the person the sentence describes; None if that is not known.
      ranked: (image path or its pixels uint8 [H,W,3], score, shows the right person), best first;
        the first ten are drawn. The last is None in a search without ground truth.
    """

    query: str
    query_image_path: str | None
    ranked: Sequence[tuple[str | np.ndarray, float, bool | None]]


def sheet_section(
    heading: str, sheets: Sequence[RetrievalSheet], pictures: pathlib.Path, index: int
) -> str:
    """HTML of the sheets under a heading, drawn into `pictures`; index: of the section."""
    parts = [f"<h2>{html.escape(heading)}</h2>"]
    for number, sheet in enumerate(sheets):
        path = pictures / f"sheet_{index}_{number}.png"
        draw_sheet(sheet, path)
        right = [i for i, (_, _, is_correct) in enumerate(sheet.ranked, 1) if is_correct]
        found = f"first right image at rank {right[0]}" if right else "no right image shown"
        parts.append(
            f"<figure><figcaption>“{html.escape(sheet.query)}” <span class=note>{found}</span>"
            f'</figcaption><img class=wide src="{pictures.name}/{path.name}" alt="{found}">'
            "</figure>"
        )
    return "\n".join(parts)


def draw_sheet(sheet: RetrievalSheet, path: str | os.PathLike, *, with_query: bool = False) -> None:
    """Draws one sheet as a PNG: ground truth, then the ranked images with rank and score.

    Right images have a green solid frame and a tick, wrong ones a red dashed frame and a cross. An
    image that cannot be read is drawn as an empty grey one. with_query: also the sentence, for a
    picture that stands alone, if its script can be drawn.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ranked = sheet.ranked[:_RANKED_IMAGES]
    figure = Figure(figsize=(13.2, 3.1), layout="constrained")
    FigureCanvasAgg(figure)
    if with_query:
        figure.suptitle(_drawable(sheet.query), fontsize=11, parse_math=False)
    axes = list(figure.subplots(1, 1 + _RANKED_IMAGES))
    if sheet.query_image_path is None:
        axes.pop().set_axis_off()
    else:
        _draw_image(axes.pop(0), sheet.query_image_path, "described person", _NEUTRAL, "solid")
    for rank, (image_path, score, is_correct) in enumerate(ranked, 1):
        colour, style, mark = _FRAMES[is_correct]
        _draw_image(axes[rank - 1], image_path, f"{rank}{mark}  {score:.3f}", colour, style)
    for unused in axes[len(ranked) :]:
        unused.set_axis_off()
    figure.savefig(path, dpi=100)


def _draw_image(
    axes: "Axes", source: str | np.ndarray, label: str, colour: str, style: LineStyle
) -> None:
    try:
        if isinstance(source, str):
            source = preprocess.decode(source, size=(_THUMBNAIL[1], _THUMBNAIL[0]))
        image = Image.fromarray(source)
        image.thumbnail(_THUMBNAIL)
        axes.imshow(image)
    except (OSError, ValueError):
        axes.imshow(Image.new("RGB", (_THUMBNAIL[0] // 2, _THUMBNAIL[1] // 2), "#dddddd"))
        label += "\n(unreadable)"
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_xlabel(label, fontsize=9, color=colour)
    for spine in axes.spines.values():
        spine.set(edgecolor=colour, linewidth=3, linestyle=style)


def _drawable(text: str) -> str:
    """The text, wrapped; empty if matplotlib's font lacks a character (Chinese)."""
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    if any(ord(c) not in font.get_charmap() for c in text if not c.isspace()):
        return ""
    return "\n".join(textwrap.wrap(text, 130, max_lines=3, placeholder=" …"))
