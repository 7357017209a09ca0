"""Whole pictures and a short video of several people, with the boxes in which they are.

Where a photograph of the data set shows one person, a scene shows a place with people at different
distances, who hide each other and are cut off by the border. The files:

  scene_000.jpg ...   pictures, or
  walk.mp4            a video of people who walk through the picture
  boxes.csv           file,frame,x,y,w,h,track: the boxes file that galleries read
  captions.json       {track: {language: a sentence about this person}}
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
import random
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from data_pipelines.synth_pedes import scene
from data_pipelines.synth_pedes.attributes import Identity, sample_identity
from data_pipelines.synth_pedes.captions import LANGUAGES, caption
from data_pipelines.synth_pedes.renderer import draw_person
from data_pipelines.synth_pedes.view import View, sample_cameras, sample_views

BOXES, CAPTIONS, VIDEO = "boxes.csv", "captions.json", "walk.mp4"
COLUMNS = ("file", "frame", "x", "y", "w", "h", "track")
PLACES = ("street", "park", "plaza", "crossing")  # with ground enough to stand on
FRAMES_PER_SECOND = 10
LEAST_VISIBLE = 0.3  # of a person; who is hidden more has no box
Box = tuple[int, int, int, int]  # left, top, width, height
_HEADROOM = 0.05  # of a person's own canvas above the head, and as much below the feet


@dataclasses.dataclass(frozen=True)
class Walker:
    """Somebody in a scene. Lengths in pixels of the scene.

    Attributes:
      track: their number, from 1.
      identity: who it is.
      foot: (x, y) of where they stand in the first frame.
      height: of the person.
      speed: pixels a frame to the right, negative to the left, 0 for somebody who stands.
      view: how they are drawn.
    """

    track: int
    identity: Identity
    foot: tuple[float, float]
    height: float
    speed: float
    view: View


def write_scenes(
    directory: str | os.PathLike,
    *,
    pictures: int = 4,
    people: int = 5,
    size: tuple[int, int] = (480, 640),
    seed: int = 0,
) -> Path:
    """Writes pictures, everybody in one of them, and returns the path of the boxes file.

    Args:
      directory: made if missing; files in it are replaced.
      pictures, people: how many pictures, and people in each.
      size: (height, width) of a picture in pixels.
      seed: other people and places.

    Raises:
      ValueError: a number below 1, or a picture in which nobody is as large as to be told apart.
    """
    _check(size, pictures=pictures, people=people)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rows, everybody = [], []
    for number in range(pictures):
        rng = random.Random(f"scene/{seed}/{number}")
        place = _place(size, seed, rng)
        walkers = _people(people, number * people, place, seed, rng, walking=False)
        pixels, boxes = _draw(scene.draw_background(place), place, walkers, 0)
        name = f"scene_{number:03}.jpg"
        (directory / name).write_bytes(pixels)
        rows += [(name, "", *box, track) for track, box in boxes]
        everybody += walkers
    return _write_tables(directory, rows, everybody, seed)


def write_sequence(
    directory: str | os.PathLike,
    *,
    frames: int = 40,
    people: int = 4,
    size: tuple[int, int] = (480, 640),
    seed: int = 0,
) -> Path:
    """Writes a video of people who walk, and returns the path of the boxes file; as `write_scenes`.

    size: even numbers, as video codecs need them.

    Raises:
      ModuleNotFoundError: PyAV is not installed (the extra `video`).
    """
    import av

    _check(size, frames=frames, people=people)
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    rng = random.Random(f"sequence/{seed}")
    place = _place(size, seed, rng)
    walkers = _people(people, 0, place, seed, rng, walking=True)
    rows = []
    with av.open(str(directory / VIDEO), "w") as container:
        stream = container.add_stream("mpeg4", rate=FRAMES_PER_SECOND)
        stream.height, stream.width = size
        stream.pix_fmt, stream.bit_rate = "yuv420p", 4_000_000
        for number, (pixels, boxes) in enumerate(_walk(place, walkers, frames)):
            image = np.asarray(Image.open(io.BytesIO(pixels)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
            rows += [(VIDEO, number, *box, track) for track, box in boxes]
        container.mux(stream.encode())
    return _write_tables(directory, rows, walkers, seed)


def _check(size: tuple[int, int], **counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name} is {count}; expected at least 1")
    if size[0] < 160 or size[1] < 160 or size[0] % 2 or size[1] % 2:
        raise ValueError(f"size is {size}; expected (height, width), even and at least 160")


def _place(size: tuple[int, int], seed: int, rng: random.Random) -> View:
    """The view of a whole scene: who is in it does not matter to it."""
    cameras = [camera for camera in sample_cameras(seed) if camera.scene in PLACES]
    (view,) = sample_views((rng.choice(cameras),), 1, size[0], rng)
    # A lens that blurs a person as much as in a photograph, where they fill the height.
    camera = dataclasses.replace(view.camera, blur=0.4 * view.camera.blur)
    return dataclasses.replace(view, camera=camera, height=size[0], width=size[1], occluder="none")


def _people(
    count: int, first: int, place: View, seed: int, rng: random.Random, *, walking: bool
) -> list[Walker]:
    """People at different distances, from far to near: who is lower in the picture is nearer."""
    walkers = []
    for i in range(count):
        depth = (i + rng.uniform(0.2, 0.8)) / count
        foot_y = place.height * (0.7 + 0.26 * depth)
        height = place.height * (0.26 + 0.34 * depth)
        direction = rng.choice((-1, 1))
        start = rng.uniform(-0.1, 0.4) if walking else rng.uniform(0.05, 0.95)
        x = place.width * (start if direction > 0 else 1 - start)
        viewpoint = rng.choice(("front", "back", "left", "right"))
        if walking:
            viewpoint = "right" if direction > 0 else "left"
        view = dataclasses.replace(
            place, viewpoint=viewpoint, scale=1 - 2 * _HEADROOM, offset=(0.5, _HEADROOM),
            height=round(height / (1 - 2 * _HEADROOM)), width=round(height / 1.4),
            stride=rng.uniform(-1, 1), seed=rng.getrandbits(32),
        )  # fmt: skip
        # A step of 0.8 of the own height a second, as people walk.
        speed = direction * 0.8 * height / FRAMES_PER_SECOND * rng.uniform(0.8, 1.2) * walking
        identity = sample_identity(seed, "test", first + i)
        walkers.append(Walker(first + i + 1, identity, (x, foot_y), height, speed, view))
    return walkers


def _walk(
    place: View, walkers: Sequence[Walker], frames: int
) -> Iterator[tuple[bytes, list[tuple[int, Box]]]]:
    background = scene.draw_background(place)
    for number in range(frames):
        grain = dataclasses.replace(place, seed=place.seed + number)
        yield _draw(background.copy(), grain, walkers, number)


def _draw(
    picture: Image.Image, place: View, walkers: Sequence[Walker], number: int
) -> tuple[bytes, list[tuple[int, Box]]]:
    """Paints people over a background, the nearest last; JPEG bytes and who is visible where."""
    owner = np.zeros((place.height, place.width), np.int32)
    whole: dict[int, tuple[int, Box]] = {}
    for walker in walkers:
        view = walker.view
        if walker.speed:
            swing = math.sin(number * 2 * math.pi * 0.9 / FRAMES_PER_SECOND + walker.track)
            view = dataclasses.replace(view, stride=swing)
        person = draw_person(walker.identity, view)
        left = round(walker.foot[0] + number * walker.speed - view.width / 2)
        top = round(walker.foot[1] - view.height * (1 - _HEADROOM))
        mask = _paste(picture, person, view, (left, top))
        owner[mask] = walker.track
        rows, columns = np.nonzero(mask)
        if len(rows):
            x, y = int(columns.min()), int(rows.min())
            box = (x, y, int(columns.max()) - x + 1, int(rows.max()) - y + 1)
            whole[walker.track] = (int(_shape(person).sum()), box)
    visible = [
        (track, box)
        for track, (pixels, box) in whole.items()
        if (owner == track).sum() >= LEAST_VISIBLE * pixels
    ]
    return scene.photograph(np.asarray(picture, np.float32), place), visible


def _paste(
    picture: Image.Image, person: np.ndarray, view: View, corner: tuple[int, int]
) -> np.ndarray:
    """Puts a person with their shadow into the picture; returns where they are, bool [H,W]."""
    left, top = corner
    # Beyond the border the crop is black, and pasting leaves that out again.
    ground = picture.crop((left, top, left + view.width, top + view.height))
    scene.draw_ground_shadow(ground, view)
    alpha = person[..., 3:] / 255
    mixed = np.asarray(ground, np.float32) * (1 - alpha) + person[..., :3] * alpha
    picture.paste(Image.fromarray(mixed.astype(np.uint8)), corner)
    mask = Image.new("L", picture.size)
    mask.paste(Image.fromarray(_shape(person).astype(np.uint8)), corner)
    return np.asarray(mask) > 0


def _shape(person: np.ndarray) -> np.ndarray:
    """Which pixels of a drawn person are more than half covered, bool [H,W]."""
    return person[..., 3] > 128


def _write_tables(
    directory: Path, rows: Sequence[tuple], walkers: Sequence[Walker], seed: int
) -> Path:
    said = {
        walker.track: {
            language: caption(
                walker.identity, walker.view, language, random.Random(f"{seed}/{walker.track}")
            )
            for language in LANGUAGES
        }
        for walker in walkers
    }
    text = json.dumps(said, ensure_ascii=False, indent=1)
    (directory / CAPTIONS).write_text(text + "\n", encoding="utf-8")
    with open(directory / BOXES, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows(rows)
    return directory / BOXES
