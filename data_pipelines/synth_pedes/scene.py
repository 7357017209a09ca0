"""What surrounds the person: backgrounds, clutter in front, and the camera's optical chain."""

from __future__ import annotations

import io
import random

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from data_pipelines.synth_pedes.attributes import COLOURS, RGB
from data_pipelines.synth_pedes.canvas import tone
from data_pipelines.synth_pedes.view import View


def draw_background(view: View) -> Image.Image:
    """RGB background of `view.width` x `view.height`; each camera keeps its place and colours."""
    place = random.Random(f"place/{view.camera.number}")  # constant for the camera
    here = random.Random(f"background/{view.seed}")  # where in the place the crop lies
    image = Image.new("RGB", (view.width, view.height))
    draw = ImageDraw.Draw(image)
    _SCENES[view.camera.scene](draw, view.width, view.height, place, here)
    return image.filter(ImageFilter.GaussianBlur(view.height / 300))


def draw_ground_shadow(image: Image.Image, view: View) -> None:
    """A soft dark patch under the feet, thrown away from the light."""
    x = view.width * view.offset[0]
    y = view.height * (view.offset[1] + view.scale * 0.985)
    rx, ry = view.height * 0.12, view.height * 0.018
    mask = Image.new("L", image.size)
    shift = -view.light * rx * 0.5
    ImageDraw.Draw(mask).ellipse((x - rx + shift, y - ry, x + rx + shift, y + ry), fill=120)
    image.paste((12, 12, 14), mask=mask.filter(ImageFilter.BoxBlur(view.height / 60)))


def draw_occluder(image: Image.Image, view: View) -> None:
    """Clutter between the camera and the person."""
    if view.occluder == "none":
        return
    rng = random.Random(f"occluder/{view.seed}")
    draw, w, h = ImageDraw.Draw(image), view.width, view.height
    if view.occluder == "barrier":
        rgb = rng.choice(((120, 122, 124), (150, 40, 36), (70, 92, 66), (196, 190, 178)))
        top = h * rng.uniform(0.82, 0.88)
        draw.rectangle((0, top, w, h), fill=rgb)
        draw.rectangle((0, top, w, top + h * 0.012), fill=tone(rgb, 1.25))
        for i in range(4):
            x = w * (i + rng.random()) / 4
            draw.line((x, top, x, h), fill=tone(rgb, 0.8), width=2)
        return
    left = rng.random() < 0.5
    if view.occluder == "pole":
        wide, x = w * rng.uniform(0.05, 0.09), w * (rng.uniform(0.04, 0.2))
        x = x if left else w - x
        rgb = rng.choice(((88, 90, 92), (54, 70, 60), (140, 136, 128)))
        draw.rectangle((x - wide / 2, 0, x + wide / 2, h), fill=rgb)
        draw.rectangle((x - wide / 2, 0, x - wide / 5, h), fill=tone(rgb, 1.2))
        draw.rectangle((x + wide / 4, 0, x + wide / 2, h), fill=tone(rgb, 0.7))
        return
    rgb = rng.choice(tuple(COLOURS.values()))  # passer-by: a shoulder and arm cut by the frame
    edge, s = (0, 1) if left else (w, -1)
    top = h * rng.uniform(0.16, 0.4)
    reach = w * rng.uniform(0.08, 0.18)
    outline = ((edge, top), (edge + s * reach * 0.6, top + h * 0.03),
               (edge + s * reach, top + h * 0.14), (edge + s * reach * 0.9, top + h * 0.34),
               (edge, top + h * 0.4))  # fmt: skip
    draw.polygon((*outline[:-1], (edge + s * reach * 0.7, h), (edge, h)), fill=(44, 46, 54))
    draw.polygon(outline, fill=rgb)
    draw.line(outline[1:4], fill=tone(rgb, 0.7), width=max(1, w // 40))


def photograph(image: np.ndarray, view: View) -> bytes:
    """Light, lens, sensor and compression: float RGB [H, W, 3] in 0..255 to JPEG bytes."""
    camera = view.camera
    gain = np.asarray(camera.gain, np.float32) * (view.exposure * camera.contrast)
    pivot = 118.0 * (1 - camera.contrast)
    image = image * gain + np.float32(pivot)
    rng = np.random.default_rng(view.seed)
    if camera.noise > 0:
        grain = rng.standard_normal(image.shape[:2], np.float32) * np.float32(camera.noise)
        image += grain[..., None]
    picture = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    if camera.blur > 0:
        picture = picture.filter(ImageFilter.GaussianBlur(camera.blur * view.height))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=camera.quality)
    return buffer.getvalue()


# ------------------------------------------------------------------------------------- the scenes


def _jitter(rgb: RGB, rng: random.Random, amount: int = 16) -> RGB:
    shift = rng.randint(-amount, amount)
    r, g, b = (min(255, max(0, c + shift + rng.randint(-5, 5))) for c in rgb)
    return r, g, b


def _gradient(
    draw: ImageDraw.ImageDraw, w: int, y0: float, y1: float, top: RGB, bottom: RGB
) -> None:
    bands = max(2, round((y1 - y0) / 4))
    for i in range(bands):
        t = i / (bands - 1)
        rgb = tuple(round(a + (b - a) * t) for a, b in zip(top, bottom, strict=True))
        draw.rectangle(
            (0, y0 + (y1 - y0) * i / bands, w, y0 + (y1 - y0) * (i + 1) / bands), fill=rgb
        )


def _specks(draw, w, y0, h, rgb, rng: random.Random, count: int, size: float) -> None:
    for _ in range(count):
        x, y, r = rng.uniform(0, w), rng.uniform(y0, h), size * rng.uniform(0.4, 1)
        draw.ellipse((x - r, y - r * 0.4, x + r, y + r * 0.4), fill=_jitter(rgb, rng, 12))


def _street(draw, w, h, place, here) -> None:
    wall, pavement = _jitter((158, 146, 132), place, 40), _jitter((136, 134, 132), place, 24)
    horizon = h * here.uniform(0.5, 0.66)
    _gradient(draw, w, 0, horizon, tone(wall, 1.08), tone(wall, 0.86))
    step, x = h * place.uniform(0.16, 0.24), -h * here.uniform(0, 0.2)
    glass = _jitter((72, 88, 104), place, 18)
    while x < w:
        for y in (0.06, 0.3):
            box = (x, h * y, x + step * 0.55, h * y + step * 0.85)
            draw.rectangle(box, fill=glass, outline=tone(wall, 0.6))
            draw.line((box[0], box[1], box[2], box[3]), fill=tone(glass, 1.25), width=2)
        x += step
    _gradient(draw, w, horizon, h, tone(pavement, 0.86), tone(pavement, 1.08))
    draw.rectangle((0, horizon, w, horizon + h * 0.02), fill=tone(wall, 0.55))
    if here.random() < 0.5:
        _parked_car(draw, w, h, horizon, here)
    _specks(draw, w, horizon, h, tone(pavement, 0.92), here, 14, h * 0.02)


def _parked_car(draw, w, h, horizon, here) -> None:
    rgb = here.choice(((150, 24, 30), (36, 52, 96), (190, 192, 196), (34, 34, 38)))
    x, y = here.choice((-0.28, 0.62)) * w, horizon - h * 0.02
    draw.polygon(((x, y), (x + h * 0.04, y - h * 0.07), (x + h * 0.2, y - h * 0.07),
                  (x + h * 0.27, y)), fill=(66, 78, 88))  # fmt: skip
    draw.rectangle((x - h * 0.05, y, x + h * 0.3, y + h * 0.08), fill=rgb)
    draw.ellipse((x, y + h * 0.045, x + h * 0.07, y + h * 0.115), fill=(24, 24, 26))
    draw.ellipse((x + h * 0.18, y + h * 0.045, x + h * 0.25, y + h * 0.115), fill=(24, 24, 26))


def _corridor(draw, w, h, place, here) -> None:
    wall, floor = _jitter((196, 192, 180), place, 24), _jitter((120, 112, 104), place, 24)
    vx, vy = w * here.uniform(0.3, 0.7), h * here.uniform(0.3, 0.4)
    half = h * 0.09
    draw.rectangle((0, 0, w, h), fill=tone(wall, 0.95))
    draw.polygon(
        ((0, 0), (w, 0), (vx + half, vy - half), (vx - half, vy - half)), fill=tone(wall, 1.16)
    )
    draw.polygon(
        ((0, 0), (vx - half, vy - half), (vx - half, vy + half), (0, h * 0.92)),
        fill=tone(wall, 0.84),
    )
    draw.polygon(((0, h * 0.92), (vx - half, vy + half), (vx + half, vy + half), (w, h * 0.92),
                  (w, h), (0, h)), fill=floor)  # fmt: skip
    draw.rectangle((vx - half, vy - half, vx + half, vy + half), fill=tone(wall, 1.22))
    for t in (0.25, 0.5, 0.72, 0.88):
        y = vy + half + (h - vy - half) * t * t
        draw.line((0, y, w, y), fill=tone(floor, 0.86), width=1)
        cx, cy = vx, (vy - half) * (1 - t * t)
        draw.rectangle((cx - h * 0.05 * t, cy - 2, cx + h * 0.05 * t, cy + 2), fill=(250, 250, 244))
    door = _jitter((122, 84, 58), place, 24)
    x = here.uniform(0.02, 0.1) * w
    draw.polygon(
        ((x, h * 0.12), (x + w * 0.13, h * 0.2), (x + w * 0.13, h * 0.72), (x, h * 0.86)), fill=door
    )


def _park(draw, w, h, place, here) -> None:
    grass, leaves = _jitter((104, 132, 66), place, 20), _jitter((62, 92, 48), place, 18)
    horizon = h * here.uniform(0.34, 0.5)
    _gradient(draw, w, 0, horizon, (186, 204, 220), (216, 222, 220))
    for _ in range(9):
        x, r = here.uniform(-0.1, 1.1) * w, h * here.uniform(0.06, 0.14)
        y = horizon - r * here.uniform(0.2, 1.4)
        draw.ellipse((x - r, y - r, x + r, y + r), fill=_jitter(leaves, here, 14))
    for _ in range(2):
        x = here.choice((here.uniform(0, 0.25), here.uniform(0.75, 1))) * w
        draw.rectangle(
            (x - h * 0.014, horizon - h * 0.22, x + h * 0.014, horizon + h * 0.05),
            fill=(84, 66, 50),
        )
    _gradient(draw, w, horizon, h, tone(grass, 0.86), tone(grass, 1.08))
    _specks(draw, w, horizon, h, tone(grass, 0.88), here, 40, h * 0.016)
    if place.random() < 0.6:
        path = _jitter((186, 170, 142), place, 16)
        draw.polygon(
            ((w * 0.4, horizon), (w * 0.55, horizon), (w * 1.1, h), (w * -0.1, h)), fill=path
        )


def _plaza(draw, w, h, place, here) -> None:
    tile = _jitter((170, 160, 150), place, 30)
    _gradient(draw, w, 0, h, tone(tile, 0.82), tone(tile, 1.06))
    grout, vx, top = tone(tile, 0.72), w * here.uniform(0.2, 0.8), -h * 0.5
    for i in range(-9, 10):
        draw.line((vx, top, vx + i * h * 0.22, h), fill=grout, width=1)
    y, step = here.uniform(0, 0.04) * h, h * 0.045
    while y < h:
        draw.line((0, y, w, y), fill=grout, width=1)
        y += step
        step *= 1.16
    if here.random() < 0.5:
        x = here.choice((0.04, 0.86)) * w
        draw.rectangle((x, 0, x + w * 0.1, h * 0.3), fill=tone(tile, 0.55))


def _wall(draw, w, h, place, here) -> None:
    brick, floor = _jitter((150, 96, 78), place, 30), _jitter((112, 110, 110), place, 20)
    if place.random() < 0.4:
        brick = _jitter((196, 194, 186), place, 20)
    base = h * here.uniform(0.76, 0.86)
    draw.rectangle((0, 0, w, base), fill=tone(brick, 0.8))
    rows, high = 20, base / 20
    for r in range(rows):
        x = -here.uniform(0, 0.06) * h - (r % 2) * h * 0.045
        while x < w:
            box = (x, r * high, x + h * 0.085, (r + 1) * high - 1.5)
            draw.rectangle(box, fill=_jitter(brick, here, 12))
            x += h * 0.092
    _gradient(draw, w, base, h, tone(floor, 0.8), tone(floor, 1.1))


def _shop(draw, w, h, place, here) -> None:
    frame, floor = _jitter((60, 62, 68), place, 20), _jitter((150, 140, 128), place, 24)
    base = h * here.uniform(0.72, 0.84)
    draw.rectangle((0, 0, w, base), fill=_jitter((96, 112, 122), place, 24))
    for _ in range(10):  # goods behind the glass
        x, y, s = here.uniform(0, w), here.uniform(0.15, 0.66) * h, h * here.uniform(0.03, 0.1)
        rgb = tone(here.choice(tuple(COLOURS.values())), 0.75)
        draw.rectangle((x, y, x + s * 0.7, y + s), fill=rgb)
    sign = _jitter(here.choice(((170, 40, 44), (40, 80, 130), (226, 190, 80))), place, 10)
    draw.rectangle((0, 0, w, h * 0.1), fill=sign)
    for x in (here.uniform(0.05, 0.3) * w, here.uniform(0.7, 0.95) * w):
        draw.rectangle((x, 0, x + h * 0.016, base), fill=frame)
        draw.line((x + w * 0.2, h * 0.1, x, base), fill=(150, 164, 172), width=2)
    draw.rectangle((0, base - h * 0.03, w, base), fill=frame)
    _gradient(draw, w, base, h, tone(floor, 0.82), tone(floor, 1.08))


def _crossing(draw, w, h, place, here) -> None:
    asphalt = _jitter((92, 94, 98), place, 18)
    _gradient(draw, w, 0, h, tone(asphalt, 0.9), tone(asphalt, 1.12))
    y, slope = -h * here.uniform(0, 0.1), w * here.uniform(-0.15, 0.15)
    while y < h:
        band = h * (0.045 + 0.05 * max(0.0, y) / h)
        draw.polygon(
            ((0, y), (w, y + slope), (w, y + slope + band), (0, y + band)), fill=(206, 206, 200)
        )
        y += band * 2.1
    _specks(draw, w, 0, h, tone(asphalt, 0.9), here, 24, h * 0.014)


_SCENES = {
    "street": _street,
    "corridor": _corridor,
    "park": _park,
    "plaza": _plaza,
    "wall": _wall,
    "shop": _shop,
    "crossing": _crossing,
}
