"""Retrieval sheets: one query and the images that were found for it, as a picture."""

import dataclasses
import functools
import html
import importlib.util
import os
import pathlib
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps

from tipr_jax.preprocess import image as preprocess
from tipr_jax.preprocess.box import box_at, crop

_CELL = (112, 224)  # width, height of an image in pixels
_MARGIN, _LINE, _STROKE, _DASH = 10, 18, 3, 12
_RANKED_IMAGES = 10


class _Frame(NamedTuple):
    """How an image is framed, and what its label says besides rank and score."""

    colour: str
    dashed: bool
    mark: str


_FRAMES: dict[bool | None, _Frame] = {
    True: _Frame("#1a9850", False, " ✓"),
    False: _Frame("#d73027", True, " ✗"),
    None: _Frame("#555555", False, ""),
}


@dataclasses.dataclass(frozen=True)
class RetrievalSheet:
    """One query and what was found.

    Attributes:
      query: the sentence that was searched for.
      query_image_path: an image of the person the sentence describes, or its pixels; None if that
        is not known.
      ranked: (image path or its pixels uint8 [H,W,3], score, shows the right person), best first;
        the first ten are drawn. The last is None in a search without ground truth.
    """

    query: str
    query_image_path: str | np.ndarray | None
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


def picture_of(
    image_path: Sequence[str], image_box: np.ndarray | None, image_id: int
) -> str | np.ndarray:
    """An image of a split as a sheet takes it: its path, or the pixels of its box, uint8 [H,W,3].

    image_box: int [G,4], or None. The path stands for a file that cannot be read, too.
    """
    path, box = image_path[image_id], box_at(image_box, image_id)
    if box is None:
        return path
    try:
        return crop(preprocess.decode(path), box)
    except (OSError, ValueError):
        return path


def draw_sheet(sheet: RetrievalSheet, path: str | os.PathLike, *, with_query: bool = False) -> None:
    """Draws one sheet, in the format of the path's ending: ground truth, then the ranked images.

    Right images have a green solid frame and a tick, wrong ones a red dashed frame and a cross. An
    image that cannot be read is drawn as an empty grey one. with_query: also the sentence, for a
    picture that stands alone, if its script can be drawn.
    """
    cells = [
        (image, f"{rank}{_FRAMES[right].mark}  {score:.3f}", _FRAMES[right])
        for rank, (image, score, right) in enumerate(sheet.ranked[:_RANKED_IMAGES], 1)
    ]
    if sheet.query_image_path is not None:
        cells.insert(0, (sheet.query_image_path, "described", _FRAMES[None]))
    title = _drawable(sheet.query) if with_query else []
    top = _MARGIN + len(title) * _LINE + (_MARGIN if title else 0)
    columns = _RANKED_IMAGES + (sheet.query_image_path is not None)
    size = _MARGIN + columns * (_CELL[0] + _MARGIN), top + _CELL[1] + 3 * _LINE
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    for number, line in enumerate(title):
        draw.text((size[0] // 2, _MARGIN + number * _LINE), line, "black", _font(), "ma")
    for column, (image, label, frame) in enumerate(cells):
        left = _MARGIN + column * (_CELL[0] + _MARGIN)
        _draw_cell(page, (left, top), image, label, frame)
    page.save(path)


def _draw_cell(
    page: Image.Image,
    corner: tuple[int, int],
    source: str | np.ndarray,
    label: str,
    frame: "_Frame",
) -> None:
    """An image with its frame, low in its cell, above its label."""
    try:
        if isinstance(source, str):
            source = preprocess.decode(source, size=(_CELL[1], _CELL[0]))
        image = ImageOps.contain(Image.fromarray(source), _CELL)
    except (OSError, ValueError):
        image = Image.new("RGB", (_CELL[0] // 2, _CELL[1] // 2), "#dddddd")
        label += "\n(unreadable)"
    draw = ImageDraw.Draw(page)
    middle, bottom = corner[0] + _CELL[0] // 2, corner[1] + _CELL[1]
    left, top = middle - image.width // 2, bottom - image.height
    page.paste(image, (left, top))
    right, low = left + image.width - 1, bottom - 1
    for start in range(left, right, _DASH if frame.dashed else right):
        end = min(start + (_DASH // 2 if frame.dashed else right), right)
        for y in (top, low):
            draw.line([(start, y), (end, y)], frame.colour, _STROKE)
    for start in range(top, low, _DASH if frame.dashed else low):
        end = min(start + (_DASH // 2 if frame.dashed else low), low)
        for x in (left, right):
            draw.line([(x, start), (x, end)], frame.colour, _STROKE)
    draw.multiline_text(
        (middle, bottom + 6), label, frame.colour, _font(), "ma", spacing=2, align="center"
    )


@functools.cache
def _font() -> ImageFont.FreeTypeFont:
    """DejaVu Sans, of the fonts that come with matplotlib, without importing matplotlib."""
    spec = importlib.util.find_spec("matplotlib")
    assert spec and spec.submodule_search_locations, "matplotlib is a requirement of the package"
    fonts = pathlib.Path(spec.submodule_search_locations[0]) / "mpl-data" / "fonts" / "ttf"
    return ImageFont.truetype(str(fonts / "DejaVuSans.ttf"), 13)


def _drawable(text: str) -> list[str]:
    """The text in lines; none if the font lacks a character (Chinese)."""
    if any(_glyph(c) == _glyph("\uffff") for c in set(text) if not c.isspace()):
        return []
    return textwrap.wrap(text, 150, max_lines=3, placeholder=" …")


def _glyph(character: str) -> bytes:
    """How the font draws a character; one that it lacks looks like any other that it lacks."""
    cell = Image.new("L", (32, 32))
    ImageDraw.Draw(cell).text((4, 4), character, 255, _font())
    return cell.tobytes()
