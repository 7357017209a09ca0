"""From (identity, view) to JPEG bytes: the order in which a person and a scene are painted."""

from __future__ import annotations

import numpy as np
from PIL import Image

from data_pipelines.synth_pedes import carried, garments, heads, scene
from data_pipelines.synth_pedes.attributes import Identity
from data_pipelines.synth_pedes.body import Body, pose
from data_pipelines.synth_pedes.canvas import Canvas
from data_pipelines.synth_pedes.view import View


def render(identity: Identity, view: View) -> bytes:
    """One photograph as JPEG bytes, `view.height` x `view.width` pixels; deterministic."""
    background = scene.draw_background(view)
    scene.draw_ground_shadow(background, view)
    person = draw_person(identity, view)
    image = np.asarray(background, np.float32)
    alpha = person[..., 3:] / 255
    image = image * (1 - alpha) + person[..., :3] * alpha
    if view.occluder != "none":
        picture = Image.fromarray(image.astype(np.uint8))
        scene.draw_occluder(picture, view)
        image = np.asarray(picture, np.float32)
    return scene.photograph(image, view)


def draw_person(identity: Identity, view: View) -> np.ndarray:
    """The person alone: float32 [H, W, 4], RGB and alpha in 0..255."""
    canvas = Canvas(
        view.width, view.height, view.scale, view.offset,
        mirror=view.viewpoint == "left", light=view.light,
    )  # fmt: skip
    body = pose(identity, view)
    carried.draw_behind(canvas, identity, body)
    if body.facing != "back":
        heads.draw_hair_behind(canvas, identity, body)
    _draw_arms(canvas, identity, body, near=False)
    for leg in sorted(body.legs, key=lambda limb: limb.near):
        garments.draw_leg(canvas, identity, body, leg)
    garments.draw_bottom(canvas, identity, body)
    garments.draw_trunk(canvas, identity, body)
    if body.facing == "back":  # the head is tucked behind collars and hoods, hair falls over them
        heads.draw_scarf(canvas, identity, body)
        heads.draw_head(canvas, identity, body)
        _draw_arms(canvas, identity, body, near=True)
        carried.draw_front(canvas, identity, body)
        return canvas.finish()
    carried.draw_front(canvas, identity, body)
    _draw_arms(canvas, identity, body, near=True)
    heads.draw_head(canvas, identity, body)
    heads.draw_scarf(canvas, identity, body)
    return canvas.finish()


def _draw_arms(canvas: Canvas, identity: Identity, body: Body, *, near: bool) -> None:
    for arm in body.arms:
        if arm.near == near:
            garments.draw_arm(canvas, identity, body, arm)
            carried.draw_in_hand(canvas, identity, body, arm.side)
