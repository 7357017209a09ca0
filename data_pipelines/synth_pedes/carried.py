"""Bags and things held in the hand; who hides whom depends on the viewpoint."""

from __future__ import annotations

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.body import LEFT, RIGHT, Body
from data_pipelines.synth_pedes.canvas import Canvas, Point, tone


def draw_behind(canvas: Canvas, identity: Identity, body: Body) -> None:
    """What the body covers: a backpack from the front, a bag on the far side."""
    rgb = identity.rgb("bag_colour")
    if identity.bag == "backpack" and body.facing == "front":
        wide = body.shoulder * 0.9
        canvas.polygon(
            ((-wide, 0.2), (wide, 0.2), (wide * 1.1, 0.42), (-wide * 1.1, 0.42)), tone(rgb, 0.8)
        )
    elif identity.bag == "backpack" and body.is_side:
        canvas.polygon(((-0.05, 0.19), (-0.1, 0.185), (-0.15, 0.23), (-0.16, 0.4), (-0.14, 0.44),
                        (-0.05, 0.43)), rgb)  # fmt: skip
        canvas.polygon(
            ((-0.13, 0.31), (-0.165, 0.31), (-0.17, 0.41), (-0.13, 0.42)), tone(rgb, 0.86)
        )
    elif identity.bag == "shoulder_bag" and _is_far(body, RIGHT):
        _satchel(canvas, rgb, -0.05, 0.44)
    elif identity.bag == "suitcase":
        _suitcase(canvas, identity, body)


def draw_front(canvas: Canvas, identity: Identity, body: Body) -> None:
    """What lies over the trunk: straps, and the backpack itself from behind."""
    rgb = identity.rgb("bag_colour")
    if identity.bag == "backpack":
        _backpack(canvas, rgb, body)
    elif identity.bag == "shoulder_bag":
        strap = tone(rgb, 0.8)
        if body.is_side:
            canvas.cord(((0.0, 0.175), (-0.02, 0.46)), strap, 0.014)
            if not _is_far(body, RIGHT):
                _satchel(canvas, rgb, -0.02, 0.47)
        else:
            x = -1 if body.facing == "front" else 1
            canvas.cord(((-x * 0.06, 0.172), (x * body.hip, 0.44)), strap, 0.014)
            _satchel(canvas, rgb, x * (body.hip + 0.012), 0.475)


def draw_in_hand(canvas: Canvas, identity: Identity, body: Body, side: str) -> None:
    """What the hand on `side` holds, drawn together with its arm."""
    hand = body.limb("arms", side).joints[2]
    if side == RIGHT and identity.bag in ("handbag", "shopping_bag"):
        _hand_bag(canvas, identity, hand)
    if side == LEFT and identity.held != "none":
        _HELD[identity.held](canvas, hand)


def _is_far(body: Body, side: str) -> bool:
    return body.is_side and body.near_side != side


def _backpack(canvas: Canvas, rgb, body: Body) -> None:
    if body.facing == "back":
        wide = body.shoulder * 0.82
        right = ((wide * 0.8, 0.185), (wide, 0.25), (wide * 1.02, 0.43), (wide * 0.8, 0.465))
        canvas.polygon((*right, *((-x, y) for x, y in reversed(right))), rgb, edge=62)
        canvas.polygon(((-wide * 0.7, 0.33), (wide * 0.7, 0.33), (wide * 0.75, 0.44),
                        (-wide * 0.75, 0.44)), tone(rgb, 1.12), edge=74)  # fmt: skip
        canvas.line(((-wide * 0.75, 0.26), (0, 0.235), (wide * 0.75, 0.26)), tone(rgb, 0.6), 0.006)
        canvas.line(((-wide * 0.6, 0.352), (wide * 0.6, 0.352)), tone(rgb, 0.6), 0.005)
        canvas.line(((-0.016, 0.19), (0, 0.172), (0.016, 0.19)), tone(rgb, 0.8), 0.009)
    elif body.facing == "front":
        for s in (-1, 1):
            strap = ((s * 0.058, 0.174), (s * 0.066, 0.27), (s * 0.086, 0.39))
            canvas.cord(strap, rgb, 0.021)
    else:
        canvas.cord(((0.0, 0.18), (0.028, 0.26), (-0.03, 0.4)), rgb, 0.019)


def _satchel(canvas: Canvas, rgb, x: float, y: float) -> None:
    canvas.polygon(((x - 0.062, y - 0.04), (x + 0.062, y - 0.04), (x + 0.066, y + 0.06),
                    (x - 0.066, y + 0.06)), rgb, edge=66)  # fmt: skip
    canvas.polygon(((x - 0.062, y - 0.042), (x + 0.062, y - 0.042), (x + 0.05, y + 0.01),
                    (x - 0.05, y + 0.01)), tone(rgb, 1.14), edge=80)  # fmt: skip
    canvas.ellipse((x, y + 0.008), 0.006, 0.006, (206, 184, 120), edge=110)


def _hand_bag(canvas: Canvas, identity: Identity, hand: Point) -> None:
    rgb = identity.rgb("bag_colour")
    x, y = hand[0], hand[1] + 0.012
    wide, top, bottom = (0.055, 0.05, 0.15) if identity.bag == "handbag" else (0.068, 0.06, 0.235)
    flare = 1.22 if identity.bag == "handbag" else 0.96
    handle = ((x - wide * 0.6, y + top + 0.01), (x - wide * 0.3, y), (x + wide * 0.3, y),
              (x + wide * 0.6, y + top + 0.01))  # fmt: skip
    canvas.line(handle, tone(rgb, 0.75), 0.009)
    body = ((x - wide, y + top), (x + wide, y + top), (x + wide * flare, y + bottom),
            (x - wide * flare, y + bottom))  # fmt: skip
    if identity.bag == "handbag":
        canvas.polygon(body, rgb, edge=66)
        canvas.line(
            ((x - wide, y + top + 0.025), (x + wide, y + top + 0.025)), tone(rgb, 0.7), 0.006
        )
        canvas.ellipse((x, y + top + 0.027), 0.007, 0.007, (206, 184, 120), edge=110)
    else:
        canvas.polygon(body, rgb, edge=70, smooth=False)
        canvas.fold(((x - wide * 0.5, y + top), (x - wide * 0.4, y + bottom)), 96, 0.01)
        canvas.fold(((x + wide * 0.3, y + top), (x + wide * 0.4, y + bottom)), 148, 0.012)
        canvas.line(((x - wide * 0.4, y + 0.14), (x + wide * 0.4, y + 0.14)), tone(rgb, 0.7), 0.02)


def _suitcase(canvas: Canvas, identity: Identity, body: Body) -> None:
    rgb = identity.rgb("bag_colour")
    hand = body.limb("arms", RIGHT).joints[2]
    out = -0.11 if body.is_side else (0.05 if hand[0] > 0 else -0.05)
    x = hand[0] + out
    for dx in (-0.02, 0.02):
        canvas.line(((hand[0] + dx * 0.6, hand[1] + 0.01), (x + dx, 0.7)), (96, 96, 100), 0.008)
    canvas.polygon(((x - 0.066, 0.69), (x + 0.066, 0.69), (x + 0.07, 0.955), (x - 0.07, 0.955)),
                   rgb, edge=62)  # fmt: skip
    for dx in (-0.035, 0.0, 0.035):
        canvas.fold(((x + dx, 0.71), (x + dx, 0.94)), 96, 0.008)
    for dx in (-0.045, 0.045):
        canvas.ellipse((x + dx, 0.968), 0.013, 0.016, (30, 30, 32))


def _phone(canvas: Canvas, hand: Point) -> None:
    x, y = hand
    canvas.polygon(((x - 0.016, y - 0.05), (x + 0.016, y - 0.05), (x + 0.016, y + 0.012),
                    (x - 0.016, y + 0.012)), (22, 22, 26), smooth=False)  # fmt: skip
    canvas.polygon(((x - 0.012, y - 0.044), (x + 0.012, y - 0.044), (x + 0.012, y + 0.004),
                    (x - 0.012, y + 0.004)), (120, 160, 200), edge=128, smooth=False)  # fmt: skip


def _cup(canvas: Canvas, hand: Point) -> None:
    x, y = hand
    canvas.polygon(((x - 0.02, y - 0.055), (x + 0.02, y - 0.055), (x + 0.014, y + 0.02),
                    (x - 0.014, y + 0.02)), (238, 232, 222), smooth=False)  # fmt: skip
    canvas.line(((x - 0.022, y - 0.056), (x + 0.022, y - 0.056)), (92, 58, 40), 0.012)
    canvas.line(((x - 0.017, y - 0.02), (x + 0.017, y - 0.02)), (150, 104, 70), 0.02)


def _book(canvas: Canvas, hand: Point) -> None:
    x, y = hand
    canvas.polygon(((x - 0.046, y - 0.066), (x + 0.04, y - 0.066), (x + 0.04, y + 0.03),
                    (x - 0.046, y + 0.03)), (122, 40, 44), edge=70, smooth=False)  # fmt: skip
    canvas.line(((x + 0.036, y - 0.06), (x + 0.036, y + 0.026)), (238, 236, 228), 0.01)
    canvas.line(((x - 0.03, y - 0.04), (x + 0.018, y - 0.04)), (220, 196, 130), 0.008)


def _bottle(canvas: Canvas, hand: Point) -> None:
    x, y = hand
    canvas.polygon(((x - 0.014, y - 0.06), (x - 0.007, y - 0.078), (x + 0.007, y - 0.078),
                    (x + 0.014, y - 0.06), (x + 0.015, y + 0.045), (x - 0.015, y + 0.045)),
                   (150, 200, 226), smooth=False)  # fmt: skip
    canvas.line(((x - 0.014, y - 0.02), (x + 0.014, y - 0.02)), (40, 90, 170), 0.024)
    canvas.line(((x - 0.007, y - 0.08), (x + 0.007, y - 0.08)), (240, 240, 240), 0.012)


def _umbrella(canvas: Canvas, hand: Point) -> None:
    """A folded umbrella carried by its handle, pointing down."""
    x, y = hand
    canvas.polygon(((x - 0.018, y + 0.05), (x + 0.018, y + 0.05), (x + 0.012, y + 0.33),
                    (x, y + 0.4), (x - 0.01, y + 0.33)), (36, 38, 48), edge=70)  # fmt: skip
    canvas.fold(((x - 0.006, y + 0.06), (x - 0.002, y + 0.34)), 160, 0.006)
    canvas.line(((x, y + 0.05), (x, y - 0.03), (x + 0.016, y - 0.042), (x + 0.026, y - 0.026)),
                (122, 82, 50), 0.011)  # fmt: skip


_HELD = {"phone": _phone, "cup": _cup, "book": _book, "bottle": _bottle, "umbrella": _umbrella}
