"""A drawing surface in body units: colour and soft shading, supersampled twice.

Body units: y runs from 0 (top of the head) to 1 (soles), x is 0 on the body's axis; a mirrored
canvas shows the same drawing facing the other way. Colour goes to an RGBA layer; folds, contours
and light go to a grey shade layer that is blurred and multiplied in at the end, so that shading
is soft and runs across patterns.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_pipelines.synth_pedes.attributes import RGB

Point = tuple[float, float]
SUPERSAMPLE = 2
NEUTRAL = 128  # shade value that leaves the colour as it is


@dataclasses.dataclass(frozen=True)
class Fabric:
    """What a garment is made of; `pattern` is plain | striped | checked | dotted."""

    rgb: RGB
    pattern: str = "plain"
    second: RGB = (0, 0, 0)


def tone(rgb: RGB, factor: float) -> RGB:
    """A darker (factor < 1) or lighter (factor > 1) tone; very dark colours still get lighter."""
    lift = 14 * max(0.0, factor - 1)
    r, g, b = (min(255, max(0, round(c * factor + lift))) for c in rgb)
    return r, g, b


class Canvas:
    """Layers of one person in an image of width x height pixels (before supersampling)."""

    def __init__(
        self, width: int, height: int, scale: float, origin: Point, mirror: bool, light: float
    ):
        size = (width * SUPERSAMPLE, height * SUPERSAMPLE)
        self.colour = Image.new("RGBA", size, (0, 0, 0, 0))
        self.shade = Image.new("L", size, NEUTRAL)
        self._draw = ImageDraw.Draw(self.colour)
        self._draw_shade = ImageDraw.Draw(self.shade)
        self._unit = height * SUPERSAMPLE * scale
        self._x0, self._y0 = origin[0] * size[0], origin[1] * size[1]
        self._sign = -1 if mirror else 1
        self._light = light * self._sign  # side of the body that is lit

    def polygon(
        self, points: Sequence[Point], fill: Fabric | RGB, *, edge: int = 92, smooth: bool = True
    ) -> None:
        """A filled shape with a soft contour; `edge` is the contour's shade value."""
        pixels = self._pixels(_chaikin(points) if smooth else points)
        if isinstance(fill, Fabric) and fill.pattern != "plain":
            self._paste_pattern(pixels, fill)
        else:
            self._draw.polygon(pixels, fill=fill.rgb if isinstance(fill, Fabric) else fill)
        self._draw_shade.polygon(pixels, fill=NEUTRAL)
        if edge != NEUTRAL:
            self._draw_shade.line([*pixels, pixels[0]], fill=edge, width=self._width(0.012))

    def limb(
        self, joints: Sequence[Point], half_widths: Sequence[float], fill: Fabric | RGB
    ) -> None:
        """A tapering tube through two or three joints, lit from one side."""
        left, right = [], []
        for i, (x, y) in enumerate(joints):
            (xa, ya), (xb, yb) = joints[max(0, i - 1)], joints[min(len(joints) - 1, i + 1)]
            length = math.hypot(xb - xa, yb - ya) or 1.0
            nx, ny = (yb - ya) / length * half_widths[i], -(xb - xa) / length * half_widths[i]
            left.append((x - nx, y - ny))
            right.append((x + nx, y + ny))
        self.polygon([*left, *reversed(right)], fill, smooth=False)
        for (x, y), radius in zip(joints[1:-1], half_widths[1:-1], strict=True):
            self.ellipse((x, y), radius, radius, fill, edge=NEUTRAL)
        lit, dark = (right, left) if self._light > 0 else (left, right)
        width = 0.5 * min(half_widths)
        self.fold([_towards(p, j, 0.3) for p, j in zip(dark, joints, strict=True)], 96, width)
        self.fold([_towards(p, j, 0.45) for p, j in zip(lit, joints, strict=True)], 144, width)

    def ellipse(
        self, centre: Point, rx: float, ry: float, fill: Fabric | RGB, *, edge: int = 92
    ) -> None:
        box = self._box(centre, rx, ry)
        if isinstance(fill, Fabric):
            fill = fill.rgb  # joints are too small for a pattern to show
        self._draw.ellipse(box, fill=fill)
        self._draw_shade.ellipse(box, fill=NEUTRAL, outline=edge, width=self._width(0.008))

    def line(self, points: Sequence[Point], rgb: RGB, width: float) -> None:
        """A thin object (strap, seam, handle); `width` in body units."""
        self._draw.line(self._pixels(points), fill=rgb, width=self._width(width), joint="curve")

    def cord(self, points: Sequence[Point], rgb: RGB, width: float) -> None:
        """A line that casts a small shadow, such as a strap over a garment."""
        pixels = self._pixels(points)
        self._draw_shade.line(pixels, fill=84, width=self._width(width * 1.9))
        self._draw_shade.line(pixels, fill=NEUTRAL, width=self._width(width))
        self._draw.line(pixels, fill=rgb, width=self._width(width), joint="curve")

    def fold(self, points: Sequence[Point], value: int, width: float) -> None:
        """A soft crease (value < 128) or highlight (value > 128)."""
        self._draw_shade.line(self._pixels(points), fill=value, width=self._width(width))

    def finish(self) -> np.ndarray:
        """Colour times shade at the final resolution: float32 [H, W, 4], RGB and alpha 0..255."""
        colour = np.asarray(self.colour.reduce(SUPERSAMPLE), np.float32)
        height = colour.shape[0]
        shade = self.shade.reduce(SUPERSAMPLE).filter(ImageFilter.BoxBlur(height / 160))
        shade = np.asarray(shade, np.float32) / NEUTRAL
        alpha = self.colour.getchannel("A").reduce(SUPERSAMPLE)
        body = np.asarray(alpha.filter(ImageFilter.BoxBlur(height / 28)), np.float32) / 255
        step = max(1, height // 50)
        relief = np.zeros_like(body)
        relief[:, step:-step] = body[:, 2 * step :] - body[:, : -2 * step]
        volume = 1 - 0.42 * self._light * self._sign * relief
        result = colour.copy()
        result[..., :3] *= (shade * volume)[..., None]
        return np.clip(result, 0, 255)

    def _paste_pattern(self, pixels: list[Point], fabric: Fabric) -> None:
        xs, ys = [p[0] for p in pixels], [p[1] for p in pixels]
        x0, y0 = math.floor(min(xs)), math.floor(min(ys))
        size = (math.ceil(max(xs)) - x0 + 1, math.ceil(max(ys)) - y0 + 1)
        tile = Image.new("RGB", size, fabric.rgb)
        _draw_pattern(ImageDraw.Draw(tile), size, (x0, y0), fabric, self._unit)
        mask = Image.new("L", size)
        ImageDraw.Draw(mask).polygon([(x - x0, y - y0) for x, y in pixels], fill=255)
        self.colour.paste(tile.convert("RGBA"), (x0, y0), mask)

    def _pixels(self, points: Sequence[Point]) -> list[Point]:
        return [
            (self._x0 + self._sign * x * self._unit, self._y0 + y * self._unit) for x, y in points
        ]

    def _box(self, centre: Point, rx: float, ry: float) -> tuple[float, float, float, float]:
        ((x, y),) = self._pixels([centre])
        rx, ry = rx * self._unit, ry * self._unit
        return x - rx, y - ry, x + rx, y + ry

    def _width(self, width: float) -> int:
        return max(1, round(width * self._unit))


def _draw_pattern(
    draw: ImageDraw.ImageDraw, size: tuple[int, int], origin: Point, fabric: Fabric, unit: float
) -> None:
    """Fills a tile whose corner is at `origin`, so that neighbouring parts continue the pattern."""
    width, height = size
    pitches = {"striped": 0.05, "checked": 0.056, "dotted": 0.04, "zigzag": 0.06}
    pitch = max(4.0, unit * pitches[fabric.pattern])
    first_row = -(origin[1] % pitch)
    first_column = -(origin[0] % pitch)
    rows = [first_row + i * pitch for i in range(int(height / pitch) + 3)]
    columns = [first_column + i * pitch for i in range(int(width / pitch) + 3)]
    if fabric.pattern == "dotted":
        r = pitch * 0.27
        for i, y in enumerate(rows):
            for x in columns:
                x += pitch / 2 * (i % 2)
                draw.ellipse((x - r, y - r, x + r, y + r), fill=fabric.second)
        return
    if fabric.pattern == "zigzag":
        half, thick = pitch / 2, max(1, round(pitch * 0.3))
        for y in rows:
            turns = [(x, y + half * (i % 2)) for i, x in enumerate(_halves(columns, half))]
            draw.line(turns, fill=fabric.second, width=thick)
        return
    band = pitch * (0.45 if fabric.pattern == "striped" else 0.36)
    for y in rows:
        draw.rectangle((0, y, width, y + band), fill=fabric.second)
    if fabric.pattern == "checked":
        mixed = tuple((a + b) // 2 for a, b in zip(fabric.rgb, fabric.second, strict=True))
        for x in columns:
            draw.rectangle((x, 0, x + band, height), fill=mixed)
            for y in rows:
                draw.rectangle((x, y, x + band, y + band), fill=tone(fabric.second, 0.85))


def _halves(columns: Sequence[float], half: float) -> list[float]:
    """The columns and the places between them."""
    return [x + k * half for x in columns for k in (0, 1)]


def _chaikin(points: Sequence[Point]) -> list[Point]:
    """One round of corner cutting: a closed outline with rounded corners."""
    smooth = []
    for a, b in zip(points, [*points[1:], points[0]], strict=True):
        smooth.append((0.75 * a[0] + 0.25 * b[0], 0.75 * a[1] + 0.25 * b[1]))
        smooth.append((0.25 * a[0] + 0.75 * b[0], 0.25 * a[1] + 0.75 * b[1]))
    return smooth


def _towards(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t
