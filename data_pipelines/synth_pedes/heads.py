"""Head, face, hair, hats, glasses and scarves."""

from __future__ import annotations

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.body import Body
from data_pipelines.synth_pedes.canvas import Canvas, Point, tone

_RX, _RY = 0.045, 0.061  # the skull seen from the front


def draw_hair_behind(canvas: Canvas, identity: Identity, body: Body) -> None:
    """Hair that falls behind the shoulders, drawn before the trunk."""
    rgb = tone(identity.rgb("hair_colour"), 0.82)
    x, y = body.head
    if body.facing != "front":
        return
    length = {"long": 0.27, "shoulder": 0.18, "curly": 0.15}.get(identity.hair)
    if length:
        wide = 0.068 if identity.hair == "curly" else 0.06
        right = ((x + wide * 0.7, y - 0.05), (x + wide, y + 0.04), (x + wide, length))
        canvas.polygon((*right, *((2 * x - a, b) for a, b in reversed(right))), rgb)


def draw_head(canvas: Canvas, identity: Identity, body: Body) -> None:
    """Skull and face, then hair, glasses and hat on top."""
    skin = identity.rgb("skin")
    x, y = body.head
    if body.facing == "back":
        canvas.ellipse((x, y), _RX, _RY, skin)
    elif body.is_side:
        _profile(canvas, skin, x, y)
    else:
        for s in (-1, 1):
            canvas.ellipse((x + s * 0.044, y + 0.004), 0.009, 0.014, tone(skin, 0.9))
        canvas.ellipse((x, y), _RX, _RY, skin)
        canvas.ellipse((x, y + 0.02), 0.036, 0.045, skin, edge=128)
        _face(canvas, skin, identity.gender == "woman", x, y)
    if identity.hair != "bald":
        {"front": _hair_front, "back": _hair_back, "side": _hair_side}[body.facing](
            canvas, identity, x, y
        )
    if identity.glasses != "none" and body.facing != "back":
        _glasses(canvas, identity.glasses, body, x, y)
    if identity.hat != "none":
        _hat(canvas, identity, body, x, y)


def _face(canvas: Canvas, skin, woman: bool, x: float, y: float) -> None:
    dark = (44, 30, 26)
    for s in (-1, 1):
        eye = x + s * 0.0175
        canvas.line(((eye - 0.009, y - 0.013), (eye + 0.009, y - 0.013)), tone(dark, 1.4), 0.004)
        canvas.ellipse((eye, y - 0.001), 0.0075, 0.0042, (232, 228, 222), edge=116)
        canvas.ellipse((eye, y - 0.001), 0.0042, 0.0046, dark, edge=128)
        canvas.fold(((x + s * 0.036, y + 0.01), (x + s * 0.026, y + 0.045)), 108, 0.012)
    canvas.fold(((x + 0.002, y), (x + 0.005, y + 0.018)), 96, 0.006)
    canvas.line(((x - 0.006, y + 0.02), (x + 0.006, y + 0.02)), tone(skin, 0.72), 0.004)
    lips = (168, 62, 66) if woman else tone(skin, 0.66)
    canvas.line(((x - 0.013, y + 0.035), (x + 0.013, y + 0.035)), lips, 0.0065)


def _profile(canvas: Canvas, skin, x: float, y: float) -> None:
    canvas.polygon(((x - 0.05, y - 0.02), (x - 0.03, y - 0.06), (x + 0.02, y - 0.062),
                    (x + 0.042, y - 0.03), (x + 0.043, y - 0.008), (x + 0.058, y + 0.016),
                    (x + 0.043, y + 0.022), (x + 0.044, y + 0.04), (x + 0.036, y + 0.062),
                    (x - 0.006, y + 0.06), (x - 0.04, y + 0.04)), skin)  # fmt: skip
    dark = (44, 30, 26)
    canvas.line(((x + 0.024, y - 0.014), (x + 0.04, y - 0.015)), dark, 0.004)
    canvas.ellipse((x + 0.033, y - 0.002), 0.0045, 0.0048, dark, edge=128)
    canvas.line(((x + 0.03, y + 0.037), (x + 0.042, y + 0.037)), tone(skin, 0.62), 0.005)
    canvas.ellipse((x - 0.008, y + 0.004), 0.009, 0.014, tone(skin, 0.88), edge=92)


def _hair_front(canvas: Canvas, identity: Identity, x: float, y: float) -> None:
    rgb, style = identity.rgb("hair_colour"), identity.hair
    side = 1 if identity.tint_seed % 2 else -1  # where the parting is
    if style == "bun":
        canvas.ellipse((x, y - 0.067), 0.026, 0.022, rgb)
    crown = [(x - 0.05, y + 0.012), (x - 0.054, y - 0.03), (x - 0.03, y - 0.068), (x, y - 0.076),
             (x + 0.03, y - 0.068), (x + 0.054, y - 0.03), (x + 0.05, y + 0.012)]  # fmt: skip
    fringe = [(x + 0.041, y - 0.022), (x + 0.02 * side, y - 0.032), (x - 0.012 * side, y - 0.04),
              (x - 0.041, y - 0.022)]  # fmt: skip
    canvas.polygon((*crown, *fringe), rgb)
    if style in ("long", "shoulder"):
        end = 0.225 if style == "long" else 0.16
        for s in (-1, 1):
            canvas.polygon(((x + s * 0.03, y - 0.05), (x + s * 0.057, y - 0.02),
                            (x + s * 0.062, end), (x + s * 0.037, end + 0.005),
                            (x + s * 0.042, y)), rgb)  # fmt: skip
            canvas.fold(((x + s * 0.05, y - 0.02), (x + s * 0.052, end - 0.02)), 92, 0.006)
    elif style == "curly":
        for dx, dy in ((-0.055, 0.02), (-0.062, -0.015), (-0.045, -0.05), (-0.015, -0.074),
                       (0.02, -0.074), (0.047, -0.05), (0.062, -0.015), (0.055, 0.02)):  # fmt: skip
            canvas.ellipse((x + dx, y + dy), 0.022, 0.022, rgb, edge=96)
    canvas.fold(((x - 0.03, y - 0.05), (x, y - 0.062), (x + 0.03, y - 0.05)), 158, 0.008)


def _hair_back(canvas: Canvas, identity: Identity, x: float, y: float) -> None:
    rgb, style = identity.rgb("hair_colour"), identity.hair
    end = {"long": 0.3, "shoulder": 0.19, "curly": 0.15}.get(style, y + 0.046)
    wide = {"long": 0.068, "shoulder": 0.064, "curly": 0.07}.get(style, 0.05)
    narrow = wide * (0.85 if style in ("long", "shoulder", "curly") else 0.62)
    canvas.polygon(((x - 0.035, y - 0.066), (x, y - 0.076), (x + 0.035, y - 0.066),
                    (x + 0.054, y - 0.02), (x + wide, y + 0.03), (x + narrow, end),
                    (x, end + 0.008), (x - narrow, end), (x - wide, y + 0.03),
                    (x - 0.054, y - 0.02)), rgb)  # fmt: skip
    if style == "curly":
        for dx, dy in ((-0.06, 0.03), (-0.06, -0.02), (-0.035, -0.06), (0.0, -0.076),
                       (0.035, -0.06), (0.06, -0.02), (0.06, 0.03),
                       (-0.02, 0.0), (0.025, 0.01)):  # fmt: skip
            canvas.ellipse((x + dx, y + dy), 0.023, 0.023, rgb, edge=100)
    for dx in (-0.03, 0.0, 0.03):
        canvas.fold(((x + dx * 0.6, y - 0.05), (x + dx, end - 0.01)), 102, 0.007)
        canvas.fold(((x + dx * 0.6 + 0.01, y - 0.05), (x + dx + 0.012, end - 0.02)), 146, 0.006)
    if style == "bun":
        canvas.ellipse((x, y - 0.05), 0.03, 0.027, rgb, edge=72)
    elif style == "ponytail":
        canvas.polygon(((x - 0.016, y - 0.02), (x + 0.016, y - 0.02), (x + 0.028, y + 0.09),
                        (x + 0.004, 0.25), (x - 0.024, y + 0.09)), rgb, edge=70)  # fmt: skip


def _hair_side(canvas: Canvas, identity: Identity, x: float, y: float) -> None:
    rgb, style = identity.rgb("hair_colour"), identity.hair
    end = {"long": 0.27, "shoulder": 0.18, "curly": 0.14}.get(style, y + 0.036)
    back = -0.06 if end < 0.15 else -0.072
    canvas.polygon(((x + 0.036, y - 0.04), (x + 0.03, y - 0.066), (x - 0.005, y - 0.078),
                    (x - 0.046, y - 0.056), (x - 0.062, y - 0.01), (x + back, end),
                    (x - 0.034, end + 0.006), (x - 0.018, y + 0.014), (x - 0.012, y - 0.014),
                    (x + 0.012, y - 0.034)), rgb)  # fmt: skip
    if style == "curly":
        for dx, dy in ((0.025, -0.065), (-0.01, -0.075), (-0.045, -0.055), (-0.062, -0.015),
                       (-0.06, 0.03), (-0.04, 0.06)):  # fmt: skip
            canvas.ellipse((x + dx, y + dy), 0.023, 0.023, rgb, edge=98)
    elif style == "bun":
        canvas.ellipse((x - 0.06, y - 0.045), 0.028, 0.027, rgb, edge=76)
    elif style == "ponytail":
        canvas.polygon(((x - 0.05, y - 0.03), (x - 0.075, y - 0.02), (x - 0.09, y + 0.08),
                        (x - 0.075, 0.23), (x - 0.058, y + 0.08)), rgb, edge=76)  # fmt: skip
    canvas.fold(((x - 0.03, y - 0.05), (x + 0.01, y - 0.062)), 158, 0.009)


def _glasses(canvas: Canvas, kind: str, body: Body, x: float, y: float) -> None:
    dark, lens = (24, 22, 24), (38, 34, 38) if kind == "sunglasses" else None
    if body.is_side:
        canvas.line(((x - 0.006, y - 0.004), (x + 0.03, y - 0.003)), dark, 0.005)
        centres: tuple[Point, ...] = ((x + 0.037, y),)
    else:
        canvas.line(((x - 0.042, y - 0.004), (x + 0.042, y - 0.004)), dark, 0.0045)
        centres = ((x - 0.019, y), (x + 0.019, y))
    for cx, cy in centres:
        rx = 0.008 if body.is_side else 0.0155
        if lens:
            canvas.ellipse((cx, cy + 0.002), rx, 0.0135, lens, edge=118)
        else:
            ring = [(cx + rx * a, cy + 0.011 * b) for a, b in
                    ((-1, -1), (1, -1), (1, 1), (-1, 1), (-1, -1))]  # fmt: skip
            canvas.line(ring, dark, 0.0045)


def _hat(canvas: Canvas, identity: Identity, body: Body, x: float, y: float) -> None:
    rgb = identity.rgb("hat_colour")
    dome = ((x - 0.056, y - 0.02), (x - 0.052, y - 0.06), (x - 0.02, y - 0.084),
            (x + 0.02, y - 0.084), (x + 0.052, y - 0.06), (x + 0.056, y - 0.02))  # fmt: skip
    canvas.polygon(dome, rgb)
    canvas.fold(((x - 0.02, y - 0.07), (x + 0.015, y - 0.072)), 150, 0.012)
    if identity.hat == "beanie":
        canvas.polygon(((x - 0.056, y - 0.044), (x + 0.056, y - 0.044), (x + 0.057, y - 0.012),
                        (x - 0.057, y - 0.012)), tone(rgb, 1.1), edge=76)  # fmt: skip
        canvas.ellipse((x, y - 0.09), 0.014, 0.012, tone(rgb, 1.1))
    elif identity.hat == "sun_hat":
        canvas.polygon(((x - 0.105, y - 0.012), (x - 0.055, y - 0.034), (x + 0.055, y - 0.034),
                        (x + 0.105, y - 0.012), (x + 0.05, y + 0.002), (x - 0.05, y + 0.002)),
                       rgb, edge=70)  # fmt: skip
        canvas.line(((x - 0.053, y - 0.034), (x + 0.053, y - 0.034)), tone(rgb, 0.55), 0.01)
    elif body.is_side:
        canvas.polygon(((x + 0.03, y - 0.04), (x + 0.1, y - 0.026), (x + 0.096, y - 0.014),
                        (x + 0.03, y - 0.016)), tone(rgb, 0.85), edge=76)  # fmt: skip
    elif body.facing == "front":
        canvas.polygon(((x - 0.05, y - 0.036), (x + 0.05, y - 0.036), (x + 0.045, y - 0.01),
                        (x - 0.045, y - 0.01)), tone(rgb, 0.82), edge=72)  # fmt: skip
    else:
        canvas.line(((x - 0.05, y - 0.022), (x + 0.05, y - 0.022)), tone(rgb, 0.75), 0.008)


def draw_scarf(canvas: Canvas, identity: Identity, body: Body) -> None:
    if identity.scarf == "none":
        return
    rgb = identity.rgb("scarf_colour")
    x = 0.01 if body.is_side else 0.0
    canvas.polygon(((x - 0.05, 0.138), (x + 0.05, 0.138), (x + 0.062, 0.175), (x, 0.2),
                    (x - 0.062, 0.175)), rgb, edge=72)  # fmt: skip
    canvas.fold(((x - 0.04, 0.156), (x, 0.172), (x + 0.045, 0.158)), 84, 0.009)
    if body.facing != "back":
        end = x + (0.03 if body.is_side else 0.02)
        canvas.polygon(((end - 0.02, 0.18), (end + 0.024, 0.18), (end + 0.03, 0.33),
                        (end - 0.018, 0.335)), tone(rgb, 0.94), edge=74)  # fmt: skip
        canvas.line(((end - 0.017, 0.322), (end + 0.028, 0.317)), tone(rgb, 1.3), 0.006)
