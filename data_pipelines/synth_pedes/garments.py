"""Clothes and the body under them: legs, shoes, bottoms, arms, tops."""

from __future__ import annotations

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.body import Body, Limb
from data_pipelines.synth_pedes.canvas import Canvas, Fabric, Point, tone

# Where a top ends (y) and how far it stands off the body; open tops show the inner garment.
_HEM = {
    "t_shirt": 0.515, "shirt": 0.53, "sweater": 0.515, "hoodie": 0.52, "jacket": 0.505,
    "coat": 0.72, "down_jacket": 0.53, "blazer": 0.55, "tank_top": 0.505, "dress": 0.7,
    "poncho": 0.56, "tunic": 0.62, "jersey": 0.545, "kimono": 0.74,
}  # fmt: skip
_EASE = {
    "down_jacket": 0.02, "coat": 0.012, "hoodie": 0.01, "jacket": 0.009, "sweater": 0.006,
    "poncho": 0.03, "tunic": 0.008, "jersey": 0.008, "kimono": 0.012,
}  # fmt: skip
_SKIRTS = ("skirt", "kilt")
_FLARE = {
    "coat": 0.03, "dress": 0.055, "blazer": 0.006, "poncho": 0.09, "tunic": 0.035, "kimono": 0.03,
}  # fmt: skip
_OPENING = {"jacket": 0.03, "blazer": 0.034, "coat": 0.026}


def top_fabric(identity: Identity) -> Fabric:
    pattern = "plain" if identity.pattern == "print" else identity.pattern
    second = identity.rgb("pattern_colour")
    return Fabric(identity.rgb("top_colour"), pattern, second)


# ---------------------------------------------------------------------------------------- legs


def draw_leg(canvas: Canvas, identity: Identity, body: Body, leg: Limb) -> None:
    """One leg with its shoe and the leg of the trousers; skirts and dresses come later."""
    hip, knee, ankle = leg.joints
    skin, width = identity.rgb("skin"), body.leg
    if not leg.near:
        skin = tone(skin, 0.86)
    bare = identity.bottom in ("shorts", "culottes", "none", *_SKIRTS)
    if bare or identity.shoes in ("sandals", "high_heels"):
        canvas.limb((hip, knee, ankle), (width, width * 0.66, width * 0.4), skin)
    _shoe(canvas, identity, body, leg)
    if identity.bottom in ("none", *_SKIRTS):
        return
    cloth = identity.rgb("bottom_colour")
    if not leg.near:
        cloth = tone(cloth, 0.88)
    if identity.bottom == "shorts":
        end = _between(hip, knee, 0.8)
        canvas.limb((hip, end), (width * 1.22, width * 1.12), cloth)
        canvas.fold((_shift(end, -width), _shift(end, width)), 100, 0.006)
        return
    knee_w, ankle_w, reach = {
        "jeans": (0.78, 0.58, 1.0),
        "trousers": (0.9, 0.76, 1.06),
        "leggings": (0.68, 0.4, 0.94),
        "sweatpants": (0.95, 0.62, 1.0),
        "harem_pants": (1.5, 0.5, 0.96),
        "culottes": (1.25, 1.5, 0.35),
    }[identity.bottom]
    end = _between(knee, ankle, reach)
    canvas.limb((hip, knee, end), (width * 1.1, width * knee_w, width * ankle_w), cloth)
    _trouser_details(canvas, identity, body, (hip, knee, end), width * ankle_w)


def _trouser_details(
    canvas: Canvas, identity: Identity, body: Body, joints: tuple[Point, Point, Point], hem: float
) -> None:
    hip, knee, end = joints
    cloth = identity.rgb("bottom_colour")
    width = body.leg
    for t, lean in ((-0.05, 0.4), (0.06, -0.4), (0.85, 0.5)):
        at = _between(knee, end, t)
        line = (_shift(at, -0.6 * width, -0.006 * lean), _shift(at, 0.5 * width, 0.012 * lean))
        canvas.fold(line, 100, 0.006)
    if identity.bottom == "jeans":
        worn = _between(hip, knee, 0.55)
        canvas.fold((_between(hip, knee, 0.3), worn, knee), 146, width * 0.7)
        canvas.line((_shift(end, -hem), _shift(end, hem)), tone(cloth, 1.25), 0.006)
    elif identity.bottom == "trousers":
        canvas.fold((_between(hip, knee, 0.2), knee, end), 148, 0.005)
    elif identity.bottom == "sweatpants":
        side = 0.0 if body.is_side else (1 if hip[0] > 0 else -1) * width * 0.75
        stripe = tuple(_shift(p, side * k) for p, k in ((hip, 1.1), (knee, 0.95), (end, 0.6)))
        canvas.line(stripe, (225, 225, 225), 0.008)
        canvas.line((_shift(end, -hem), _shift(end, hem)), tone(cloth, 0.7), 0.012)


def _shoe(canvas: Canvas, identity: Identity, body: Body, leg: Limb) -> None:
    _, knee, (x, y) = leg.joints
    rgb, skin = identity.rgb("shoes_colour"), identity.rgb("skin")
    side = body.is_side
    toe, heel, half = (0.078, -0.03, 0.0) if side else (0.0, 0.0, 0.031)
    if side:
        sole = ((x + heel, y - 0.012), (x + 0.03, y - 0.012), (x + toe, y + 0.022),
                (x + toe, y + 0.036), (x + heel, y + 0.036))  # fmt: skip
    else:
        out = 0.008 if x > 0 else -0.008
        drop = 0.014 if body.facing == "front" else 0.0
        sole = ((x - half * 0.75, y - 0.012), (x + half * 0.75, y - 0.012),
                (x + half + out, y + 0.03 + drop), (x - half + out, y + 0.03 + drop))  # fmt: skip
    if identity.shoes == "sandals":
        canvas.polygon(sole, skin)
        for t in (0.2, 0.6):
            (xa, ya), (xb, yb) = _between(sole[0], sole[-1], t), _between(sole[1], sole[2], t)
            canvas.line(((xa, ya), (xb, yb)), rgb, 0.012)
        canvas.line((sole[-1], sole[-2]), tone(rgb, 0.7), 0.01)
        return
    if identity.shoes == "high_heels":
        canvas.polygon(sole, skin)
        front = (_between(sole[0], sole[-1], 0.45), _between(sole[1], sole[2], 0.3), *sole[2:4])
        canvas.polygon(front if not side else sole[1:], rgb)
        canvas.line(((x + heel, y), (x + heel, y + 0.046)), rgb, 0.009)
        return
    if identity.shoes == "boots":
        canvas.limb((_between(knee, (x, y), 0.45), (x, y + 0.01)), (0.034, 0.029), rgb)
    canvas.polygon(sole, rgb)
    if identity.shoes == "sneakers":
        light = (228, 228, 226) if sum(rgb) < 560 else (150, 150, 150)
        canvas.line((sole[-1], sole[-2]), light, 0.011)
        mid = _between(sole[0], sole[2], 0.5)
        canvas.line((_shift(mid, -0.008), _shift(mid, 0.01, -0.004)), light, 0.006)
    else:
        canvas.line((sole[-1], sole[-2]), tone(rgb, 0.5), 0.008)


def draw_bottom(canvas: Canvas, identity: Identity, body: Body) -> None:
    """Seat of the trousers, or the whole skirt."""
    rgb = identity.rgb("bottom_colour")
    left, right = _outline(body, 0.45, 0.02)[-1], _outline(body, 0.45, 0.02)[-2]
    knees = [leg.joints[1][0] for leg in body.legs]
    if identity.bottom in _SKIRTS:
        wide = 0.13 if not body.is_side else 0.07 + 0.5 * (max(knees) - min(knees))
        centre = sum(knees) / 4
        hem = [(centre + wide, 0.68), (centre + wide / 3, 0.69), (centre - wide / 3, 0.69),
               (centre - wide, 0.68)]  # fmt: skip
        canvas.polygon((left, right, *hem), rgb)
        for t in (-0.6, -0.2, 0.25, 0.65):
            canvas.fold(((t * 0.05, 0.5), (centre + t * wide, 0.685)), 98, 0.009)
            canvas.fold(((t * 0.05 + 0.01, 0.5), (centre + t * wide + 0.02, 0.685)), 146, 0.007)
    elif identity.bottom != "none":
        wide = body.hip + 0.002 if not body.is_side else 0.072
        seat = (left, right, (wide, 0.5), (wide * 0.92, 0.565), (0.012, 0.585),
                (-0.012, 0.585), (-wide * 0.92, 0.565), (-wide, 0.5))  # fmt: skip
        canvas.polygon(seat, rgb, edge=112)
        if body.facing == "back" and identity.bottom == "jeans":
            for x in (-0.045, 0.045):
                canvas.polygon(((x - 0.026, 0.525), (x + 0.026, 0.525), (x + 0.02, 0.57),
                                (x - 0.02, 0.57)), tone(rgb, 0.88))  # fmt: skip
        if not body.is_side:
            canvas.fold(((0, 0.5), (0, 0.58)), 84, 0.006)


# ----------------------------------------------------------------------------------- trunk, tops


def _outline(body: Body, hem: float, ease: float, flare: float = 0.0) -> list[Point]:
    """The trunk from the neck down to `hem`; the last two points are the right and left hem."""
    if body.is_side:
        rows = [
            (0.16, -0.03, 0.026),
            (0.185, -0.056, 0.04),
            (0.27, -0.066, 0.058 + body.bust),
            (0.4, -0.052, 0.2 * body.waist + 0.04),
            (0.49, -0.03 - 0.5 * body.hip, 0.062),
        ]
    else:
        s, w, h = body.shoulder, body.waist, body.hip
        rows = [(0.158, -0.034, 0.034), (0.178, -0.74 * s, 0.74 * s), (0.2, -s, s),
                (0.27, -0.88 * s, 0.88 * s), (0.4, -w, w), (0.49, -h, h)]  # fmt: skip
    rows = [(y, a - ease, b + ease) for y, a, b in rows if y < hem - 0.02]
    last = rows[-1]
    rows.append((hem, last[1] - flare, last[2] + flare))
    right_side = [(b, y) for y, _, b in rows]
    left_side = [(a, y) for y, a, _ in rows]
    return [*reversed(left_side[:-1]), *right_side, left_side[-1]]


def draw_trunk(canvas: Canvas, identity: Identity, body: Body) -> None:
    """Neck and the top without its sleeves."""
    skin, fabric = identity.rgb("skin"), top_fabric(identity)
    canvas.limb(((body.head[0] * 0.6, 0.11), (0.0, 0.18)), (0.027, 0.032), tone(skin, 0.9))
    ease = _EASE.get(identity.top, 0.003)
    flare = _FLARE.get(identity.top, 0.0)
    if body.is_side and identity.top in ("coat", "dress", "kimono"):
        knees = [leg.joints[1][0] for leg in body.legs]
        flare += 0.25 * (max(knees) - min(knees))
    outline = _outline(body, _HEM[identity.top], ease, flare)
    if identity.top == "tank_top":
        canvas.polygon(_outline(body, 0.3, -0.004), skin)
        outline = [(x * 0.72, max(y, 0.165)) if y < 0.25 else (x, y) for x, y in outline]
    canvas.polygon(outline, fabric)
    _folds(canvas, body, _HEM[identity.top])
    _NECKLINES.get(identity.top, _round_neck)(canvas, identity, body)
    _DETAILS.get(identity.top, _hem_band)(canvas, identity, body)
    if identity.pattern == "print" and body.facing != "back":
        _print(canvas, identity, body)


def _folds(canvas: Canvas, body: Body, hem: float) -> None:
    wide = 0.045 if body.is_side else body.waist * 0.8
    for x, y, dx, dy in ((-1, 0.40, 0.55, 0.03), (1, 0.43, -0.5, 0.025), (-0.9, 0.47, 0.7, 0.02),
                         (0.8, 0.27, -0.3, 0.05), (-0.8, 0.29, 0.35, 0.05)):  # fmt: skip
        canvas.fold(((x * wide, y), ((x + dx) * wide, y + dy)), 98, 0.008)
        canvas.fold(((x * wide, y + 0.012), ((x + dx) * wide, y + dy + 0.012)), 142, 0.007)
    if hem > 0.6:
        for x in (-0.7, -0.1, 0.5):
            canvas.fold(((x * wide, 0.48), (x * wide * 1.5, hem - 0.01)), 98, 0.009)
            canvas.fold(
                ((x * wide + 0.012, 0.48), (x * wide * 1.5 + 0.014, hem - 0.01)), 144, 0.008
            )


def _round_neck(canvas: Canvas, identity: Identity, body: Body) -> None:
    depth = {"front": 0.026, "back": 0.008, "side": 0.012}[body.facing]
    if identity.top in ("dress", "tank_top") and body.facing == "front":
        depth = 0.045
    x = 0.012 if body.is_side else 0.0
    trim = tone(identity.rgb("top_colour"), 0.82)
    canvas.ellipse((x, 0.163), 0.038, depth + 0.007, trim, edge=110)
    canvas.ellipse((x, 0.16), 0.032, depth, tone(identity.rgb("skin"), 0.94), edge=112)


def _collar(canvas: Canvas, identity: Identity, body: Body) -> None:
    rgb = tone(identity.rgb("top_colour"), 1.12)
    if body.facing == "front":
        skin = tone(identity.rgb("skin"), 0.94)
        canvas.polygon(((-0.028, 0.155), (0.028, 0.155), (0.0, 0.2)), skin, smooth=False)
        for s in (-1, 1):
            canvas.polygon(((s * 0.03, 0.148), (s * 0.044, 0.168), (s * 0.026, 0.2),
                            (s * 0.003, 0.19)), rgb, edge=76, smooth=False)  # fmt: skip
    else:
        canvas.polygon(((-0.036, 0.148), (0.036, 0.148), (0.042, 0.172), (-0.042, 0.172)), rgb)


def _hood(canvas: Canvas, identity: Identity, body: Body) -> None:
    rgb = identity.rgb("top_colour")
    if body.facing == "back":
        canvas.polygon(((-0.06, 0.145), (0.06, 0.145), (0.068, 0.2), (0.0, 0.262),
                        (-0.068, 0.2)), tone(rgb, 1.08), edge=72)  # fmt: skip
        canvas.fold(((-0.04, 0.17), (0, 0.19), (0.04, 0.17)), 84, 0.012)
    elif body.is_side:
        canvas.polygon(((-0.07, 0.15), (0.02, 0.15), (0.025, 0.185), (-0.04, 0.24),
                        (-0.085, 0.21)), tone(rgb, 1.06), edge=72)  # fmt: skip
    else:
        canvas.ellipse((0, 0.163), 0.056, 0.036, tone(rgb, 1.06), edge=76)
        canvas.ellipse((0, 0.156), 0.033, 0.024, tone(identity.rgb("skin"), 0.9), edge=84)
        for s in (-1, 1):
            canvas.line(((s * 0.018, 0.19), (s * 0.022, 0.255)), (222, 222, 218), 0.005)


def _open_front(canvas: Canvas, identity: Identity, body: Body) -> None:
    """Inner garment between the fronts of a jacket, its collar or lapels."""
    rgb, half, hem = identity.rgb("top_colour"), _OPENING[identity.top], _HEM[identity.top]
    if body.facing == "back":
        _collar(canvas, identity, body)
        return
    if body.is_side:
        canvas.polygon(((0.02, 0.155), (0.036, 0.18), (0.06 + body.bust, 0.27), (0.058, 0.42),
                        (0.046, 0.42), (0.03, 0.2)), identity.rgb("inner_colour"))  # fmt: skip
        _collar(canvas, identity, body)
        return
    bottom = min(hem - 0.02, 0.51)
    middle = half * (0.4 if identity.top == "blazer" else 1.0)
    canvas.polygon(((-0.034, 0.155), (0.034, 0.155), (half, 0.22), (middle, 0.4), (middle, bottom),
                    (-middle, bottom), (-middle, 0.4), (-half, 0.22)),
                   identity.rgb("inner_colour"), edge=80, smooth=False)  # fmt: skip
    canvas.ellipse((0, 0.155), 0.026, 0.022, tone(identity.rgb("skin"), 0.93), edge=110)
    for s in (-1, 1):
        canvas.polygon(((s * 0.032, 0.15), (s * 0.06, 0.18), (s * 0.062, 0.215),
                        (s * (half + 0.012), 0.235), (s * half * 0.9, 0.3), (s * 0.03, 0.19)),
                       tone(rgb, 1.14), edge=76, smooth=False)  # fmt: skip
        canvas.line(
            ((s * (middle + 0.003), 0.3), (s * (middle + 0.003), hem)), tone(rgb, 0.7), 0.005
        )


def _hem_band(canvas: Canvas, identity: Identity, body: Body) -> None:
    if identity.top in ("sweater", "hoodie"):
        right, left = _outline(body, _HEM[identity.top], _EASE[identity.top])[-2:]
        canvas.line((left, right), tone(identity.rgb("top_colour"), 0.78), 0.016)
    if identity.top == "hoodie" and body.facing == "front":
        canvas.polygon(((-0.05, 0.4), (0.05, 0.4), (0.066, 0.47), (-0.066, 0.47)),
                       tone(identity.rgb("top_colour"), 0.92), edge=78)  # fmt: skip


def _buttons(canvas: Canvas, identity: Identity, body: Body) -> None:
    if body.facing != "front":
        return
    rgb = identity.rgb("top_colour")
    canvas.fold(((0.006, 0.2), (0.006, _HEM["shirt"])), 92, 0.007)
    for y in (0.24, 0.3, 0.36, 0.42, 0.48):
        canvas.ellipse((0, y), 0.004, 0.004, tone(rgb, 0.55 if sum(rgb) > 300 else 1.9), edge=128)


def _zip_and_quilting(canvas: Canvas, identity: Identity, body: Body) -> None:
    wide = 0.085 if body.is_side else body.shoulder
    for y in (0.235, 0.285, 0.335, 0.385, 0.435, 0.485):
        canvas.fold(((-wide, y), (0, y + 0.008), (wide, y)), 72, 0.008)
        canvas.fold(((-wide, y + 0.02), (0, y + 0.028), (wide, y + 0.02)), 150, 0.014)
    rgb = identity.rgb("top_colour")
    canvas.polygon(((-0.042, 0.142), (0.042, 0.142), (0.05, 0.185), (-0.05, 0.185)),
                   tone(rgb, 0.95), edge=74)  # fmt: skip
    if body.facing == "front":
        canvas.line(((0, 0.15), (0, 0.52)), tone(rgb, 0.6), 0.006)


def _waist(canvas: Canvas, identity: Identity, body: Body) -> None:
    if not body.is_side:
        canvas.fold(((-body.waist, 0.405), (0, 0.412), (body.waist, 0.405)), 82, 0.01)


def _print(canvas: Canvas, identity: Identity, body: Body) -> None:
    """A picture on the chest; its shape belongs to the person."""
    rgb = identity.rgb("pattern_colour")
    x = 0.035 if body.is_side else 0.0
    squeeze = 0.45 if body.is_side else 1.0
    half = 0.046 * squeeze
    match identity.tint_seed % 4:
        case 0:
            canvas.ellipse((x, 0.295), half, 0.042, rgb, edge=116)
            canvas.ellipse((x, 0.295), half * 0.5, 0.02, identity.rgb("top_colour"), edge=128)
        case 1:
            canvas.polygon(((x - half, 0.255), (x + half, 0.255), (x + half, 0.335),
                            (x - half, 0.335)), rgb, edge=116, smooth=False)  # fmt: skip
        case 2:
            for y, w in ((0.262, 1.1), (0.29, 0.8), (0.318, 1.0)):
                canvas.line(((x - half * w, y), (x + half * w, y)), rgb, 0.016)
        case _:
            canvas.polygon(((x, 0.24), (x + half, 0.325), (x - half, 0.325)), rgb, edge=116)
            canvas.line(((x - half, 0.35), (x + half, 0.35)), rgb, 0.012)


_NECKLINES = {
    "shirt": _collar,
    "hoodie": _hood,
    "jacket": _open_front,
    "blazer": _open_front,
    "coat": _open_front,
    "down_jacket": lambda canvas, identity, body: None,
    "jersey": _collar,
    "kimono": _collar,
}
_DETAILS = {"shirt": _buttons, "down_jacket": _zip_and_quilting, "dress": _waist, "kimono": _waist}


# ---------------------------------------------------------------------------------------- arms


def draw_arm(canvas: Canvas, identity: Identity, body: Body, arm: Limb) -> None:
    """Arm, hand and sleeve."""
    skin, fabric = identity.rgb("skin"), top_fabric(identity)
    shoulder, elbow, hand = arm.joints
    width = body.arm
    dim = 1.0 if arm.near else 0.86
    canvas.limb((elbow, hand), (width * 0.82, width * 0.62), tone(skin, dim))
    canvas.ellipse(
        _between(elbow, hand, 1.06), width * 0.72, width * 0.86, tone(skin, dim), edge=104
    )
    fabric = Fabric(tone(fabric.rgb, dim), fabric.pattern, tone(fabric.second, dim))
    puff = width * (1.12 + 8 * _EASE.get(identity.top, 0.0))
    if identity.sleeves == "long":
        wrist = _between(elbow, hand, 0.94)
        canvas.limb((shoulder, elbow, wrist), (puff, puff, puff * 0.82), fabric)
        canvas.ellipse(shoulder, puff * 0.95, puff * 0.72, fabric, edge=128)
        canvas.fold((_shift(elbow, -puff), _shift(elbow, puff, 0.012)), 88, 0.008)
        canvas.fold((_shift(elbow, -puff, 0.02), _shift(elbow, puff, 0.006)), 146, 0.007)
        if identity.top in ("sweater", "hoodie", "jacket"):
            cuff = _between(elbow, hand, 0.9)
            canvas.limb((cuff, wrist), (puff * 0.84, puff * 0.8), tone(fabric.rgb, 0.8))
        return
    canvas.limb((shoulder, elbow), (width * 0.98, width * 0.86), tone(skin, dim))
    canvas.ellipse(shoulder, width * 0.95, width * 0.8, tone(skin, dim), edge=128)
    if identity.sleeves == "short":
        end = _between(shoulder, elbow, 0.72)
        canvas.limb((shoulder, end), (puff * 1.05, puff * 1.16), fabric)
        canvas.ellipse(shoulder, puff * 0.98, puff * 0.72, fabric, edge=128)
        canvas.fold((_shift(end, -puff), _shift(end, puff)), 84, 0.007)


def _between(a: Point, b: Point, t: float) -> Point:
    return a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t


def _shift(p: Point, dx: float, dy: float = 0.0) -> Point:
    return p[0] + dx, p[1] + dy
