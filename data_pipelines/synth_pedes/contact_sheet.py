"""A picture of generated people for the human eye: one row per person, one column per camera."""

from __future__ import annotations

import io
import os
import random

from PIL import Image, ImageDraw, ImageFont

from data_pipelines.synth_pedes.attributes import sample_identity
from data_pipelines.synth_pedes.captions import caption
from data_pipelines.synth_pedes.renderer import render
from data_pipelines.synth_pedes.view import sample_cameras, sample_views

_COLUMNS, _GAP = 5, 8


def write_contact_sheet(
    path: str | os.PathLike, *, people: int = 8, height: int = 192, seed: int = 0, first: int = 0
) -> None:
    """Renders train people `first`.. with an English caption under each row; writes a PNG."""
    cell_w, cell_h, text_h = round(height / 2.1), round(height * 1.1), round(height * 0.22)
    row_w, row_h = _COLUMNS * cell_w + _GAP, cell_h + text_h
    sheet = Image.new("RGB", (2 * row_w, (people + 1) // 2 * row_h), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(max(10, height // 16))
    for n in range(people):
        left, top = n % 2 * row_w + _GAP, n // 2 * row_h
        rng = random.Random(f"sheet/{seed}/{first + n}")
        identity = sample_identity(seed, "train", first + n)
        views = sample_views(sample_cameras(seed), _COLUMNS, height, rng)
        for column, view in enumerate(views):
            image = Image.open(io.BytesIO(render(identity, view)))
            sheet.paste(image, (left + column * cell_w, top + _GAP))
        words = caption(identity, views[0], "en", rng)
        lines = _wrap(words, draw, font, row_w - 2 * _GAP)
        draw.multiline_text((left, top + cell_h + 2), lines, "black", font, spacing=2)
    sheet.save(path, "PNG")


def _wrap(words: str, draw: ImageDraw.ImageDraw, font, width: int) -> str:
    lines = [""]
    for word in words.split():
        longer = f"{lines[-1]} {word}".strip()
        if draw.textlength(longer, font) > width:
            lines.append(word)
        else:
            lines[-1] = longer
    return "\n".join(lines)
