"""Proportions and pose: where the joints of one person are in one view (body units, see canvas)."""

from __future__ import annotations

import dataclasses
import math

from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.canvas import Point
from data_pipelines.synth_pedes.view import View

# The right hand carries the bag and the left hand the small object. Seen from the front the right
# side of the body is at negative x; in a side view (facing positive x) one side is near.
RIGHT, LEFT = "right", "left"


@dataclasses.dataclass(frozen=True)
class Limb:
    """Three joints from the trunk outwards; `near` limbs are drawn over the trunk."""

    joints: tuple[Point, Point, Point]
    side: str
    near: bool


@dataclasses.dataclass(frozen=True)
class Body:
    """Half-widths and joints of a person; `facing` is front | back | side."""

    facing: str
    near_side: str  # the side of the body the camera sees in a side view
    shoulder: float
    waist: float
    hip: float
    arm: float
    leg: float
    bust: float
    head: Point
    arms: tuple[Limb, Limb]
    legs: tuple[Limb, Limb]

    def limb(self, kind: str, side: str) -> Limb:
        return next(limb for limb in getattr(self, kind) if limb.side == side)

    @property
    def is_side(self) -> bool:
        return self.facing == "side"


def pose(identity: Identity, view: View) -> Body:
    """The walking pose of `identity` in `view`."""
    woman = identity.gender == "woman"
    girth = {"slim": 0.9, "average": 1.0, "heavy": 1.2}[identity.build]
    carries = {
        RIGHT: identity.bag in ("handbag", "shopping_bag", "suitcase"),
        LEFT: identity.held in ("phone", "cup", "book", "bottle"),
    }
    side = view.from_side
    shoulder = (0.104 if woman else 0.121) * (0.5 + 0.5 * girth)
    near_side = LEFT if view.viewpoint == "left" else RIGHT
    joints = _side_joints if side else _front_joints
    arms, legs = joints(view, shoulder, 0.046 * girth if woman else 0.044 * girth, carries)
    return Body(
        facing="side" if side else view.viewpoint,
        near_side=near_side,
        shoulder=shoulder,
        waist=(0.072 if woman else 0.088) * girth,
        hip=(0.096 if woman else 0.091) * girth,
        arm=(0.023 if woman else 0.028) * (0.4 + 0.6 * girth),
        leg=(0.044 if woman else 0.046) * (0.35 + 0.65 * girth),
        bust=0.018 if woman else 0.006,
        head=(0.012 if side else 0.004 * view.stride, 0.074),
        arms=arms,
        legs=legs,
    )


def _front_joints(view: View, shoulder: float, hip: float, carries: dict[str, bool]):
    arms, legs = [], []
    right_x = -1 if view.viewpoint == "front" else 1
    for side, x in ((RIGHT, right_x), (LEFT, -right_x)):
        swing = view.stride * x  # > 0: this side's leg is behind, its arm in front
        top = (x * (shoulder - 0.02), 0.2)
        if side == LEFT and carries[LEFT]:
            elbow, hand = (x * (shoulder + 0.028), 0.335), (x * (shoulder - 0.045), 0.315)
        elif carries[side]:
            elbow, hand = (x * (shoulder + 0.022), 0.34), (x * (shoulder + 0.034), 0.485)
        else:
            elbow = (x * (shoulder + 0.03), 0.335 - 0.008 * swing)
            hand = (x * (shoulder + 0.03 - 0.02 * swing), 0.475 - 0.024 * swing)
        hidden = view.viewpoint == "back" and side == LEFT and carries[LEFT]
        arms.append(Limb((top, elbow, hand), side, near=not hidden))
        step = -0.028 * swing if swing > 0 else -0.006 * swing
        knee = (x * (hip + 0.006), 0.735 + 0.4 * step)
        legs.append(Limb(((x * hip, 0.5), knee, (x * (hip + 0.008), 0.95 + step)), side, swing < 0))
    return tuple(arms), tuple(legs)


def _side_joints(view: View, shoulder: float, hip: float, carries: dict[str, bool]):
    del shoulder, hip
    arms, legs = [], []
    near_side = LEFT if view.viewpoint == "left" else RIGHT
    for side in (RIGHT, LEFT):
        near = side == near_side
        swing = view.stride * (1 if near else -1)
        top = (-0.004, 0.2)
        if side == LEFT and carries[LEFT]:
            arm = (top, (0.0, 0.34), (0.105, 0.325))
        else:
            amplitude = 0.12 if carries[side] else 0.5
            upper = -amplitude * swing
            elbow = _along(top, upper, 0.145)
            arm = (top, elbow, _along(elbow, upper + 0.28, 0.14))
        arms.append(Limb(arm, side, near))
        thigh = 0.42 * swing
        bend = 0.1 + 0.28 * max(0.0, -swing)
        knee = _along((0.0, 0.5), thigh, 0.235)
        legs.append(Limb(((0.0, 0.5), knee, _along(knee, thigh - bend, 0.222)), side, near))
    return tuple(arms), tuple(legs)


def _along(start: Point, angle: float, length: float) -> Point:
    """The point `length` from `start`, `angle` radians forward of straight down."""
    return start[0] + length * math.sin(angle), start[1] + length * math.cos(angle)
