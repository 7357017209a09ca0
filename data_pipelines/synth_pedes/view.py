"""How a person is photographed: fixed cameras, and the view of one image (pose, framing, light)."""

from __future__ import annotations

import dataclasses
import random

SCENES = ("street", "corridor", "park", "plaza", "wall", "shop", "crossing")
VIEWPOINTS = ("front", "back", "left", "right")
NUM_CAMERAS = 15


@dataclasses.dataclass(frozen=True)
class Camera:
    """A place and an optical chain; `gain` is the white balance per RGB channel."""

    number: int
    scene: str
    gain: tuple[float, float, float]
    contrast: float
    blur: float  # Gaussian radius as a fraction of the image height
    noise: float  # standard deviation in grey levels
    quality: int  # JPEG quality


@dataclasses.dataclass(frozen=True)
class View:
    """One photograph: who sees what is decided by `viewpoint` (see VIEWPOINTS)."""

    camera: Camera
    viewpoint: str
    width: int
    height: int
    scale: float  # person height as a fraction of the image height
    offset: tuple[float, float]  # body centre and top of the head, fractions of width and height
    stride: float  # -1..1, which leg is in front and how far
    light: float  # -1..1, where the light comes from
    exposure: float
    occluder: str  # none | pole | passer_by | barrier
    seed: int  # everything else that varies: folds, clutter, noise

    @property
    def feet_visible(self) -> bool:
        return self.occluder != "barrier"

    @property
    def from_side(self) -> bool:
        return self.viewpoint in ("left", "right")


def sample_cameras(seed: int) -> tuple[Camera, ...]:
    """The cameras of one data set."""
    rng = random.Random(f"cameras/{seed}")
    cameras = []
    for number in range(NUM_CAMERAS):
        warmth, tint = rng.gauss(0, 0.06), rng.gauss(0, 0.025)
        cameras.append(
            Camera(
                number=number,
                scene=SCENES[number % len(SCENES)],
                gain=(1 + warmth, 1 + tint, 1 - warmth),
                contrast=rng.uniform(0.78, 1.12),
                blur=rng.choice((0.0, 0.0, 0.003, 0.004, 0.006)),
                noise=rng.uniform(1.5, 7.0),
                quality=rng.randint(45, 92),
            )
        )
    return tuple(cameras)


def sample_views(
    cameras: tuple[Camera, ...], count: int, height: int, rng: random.Random
) -> list[View]:
    """`count` views of one person, each from another camera while there are enough of them."""
    order: list[Camera] = []
    while len(order) < count:
        order += rng.sample(cameras, len(cameras))
    return [_sample_view(camera, height, rng) for camera in order[:count]]


def _sample_view(camera: Camera, height: int, rng: random.Random) -> View:
    height = round(height * rng.uniform(0.92, 1.08))
    scale = rng.uniform(0.84, 0.95)
    return View(
        camera=camera,
        viewpoint=rng.choices(VIEWPOINTS, (4, 3, 1.5, 1.5))[0],
        width=round(height / rng.uniform(2.4, 3.0)),
        height=height,
        scale=scale,
        offset=(0.5 + rng.uniform(-0.05, 0.05), rng.uniform(0.01, 0.98 - scale)),
        stride=rng.choice((-1, 1)) * rng.uniform(0.25, 1.0),
        light=rng.choice((-1, 1)) * rng.uniform(0.4, 1.0),
        exposure=rng.uniform(0.8, 1.18),
        occluder=rng.choices(("none", "pole", "passer_by", "barrier"), (80, 7, 7, 6))[0],
        seed=rng.getrandbits(32),
    )
