"""Tiny data sets in the official layouts."""

import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.annotations import LAYOUTS

WriteLayout = Callable[..., pathlib.Path]


def _tiny_entries(name: str) -> list[dict[str, Any]]:
    """5 train persons x 3 images, 2 val x 2, 2 test x 2; 1-2 captions per image; splits mixed."""
    layout = LAYOUTS[name]
    first = layout.first_train_id
    persons = [("train", first + i, 3) for i in range(5)]
    persons += [("val", 100, 2), ("test", 200, 2), ("val", 101, 2), ("test", 201, 2)]
    entries = [
        {
            "split": split,
            "id": person,
            layout.path_key: f"cam_{k}/{person}_{k}.png",
            "captions": [f"person {person} seen by {k}", f"number {person}, view {k}"][: 1 + k % 2],
        }
        for split, person, images in persons
        for k in range(images)
    ]
    return entries[::2] + entries[1::2]


@pytest.fixture
def tiny_entries() -> Callable[[str], list[dict[str, Any]]]:
    """tiny_entries(name) -> the annotation entries that write_layout writes by default."""
    return _tiny_entries


@pytest.fixture
def write_layout(tmp_path: pathlib.Path) -> WriteLayout:
    """write_layout(name, entries=None, images=True) -> the data root it wrote to."""

    def write(name: str, entries: Any = None, *, images: bool = True) -> pathlib.Path:
        entries = _tiny_entries(name) if entries is None else entries
        layout = LAYOUTS[name]
        directory = tmp_path / layout.directory
        (directory / "imgs").mkdir(parents=True, exist_ok=True)
        (directory / layout.annotation_files[0]).write_text(json.dumps(entries))
        rng = np.random.default_rng(0)
        for entry in entries if images else []:
            path = directory / "imgs" / entry[layout.path_key]
            path.parent.mkdir(exist_ok=True)
            Image.fromarray(rng.integers(0, 256, (20, 9, 3), dtype=np.uint8)).save(path)
        return tmp_path

    return write


@pytest.fixture
def data_cfg(tmp_path: pathlib.Path) -> types.SimpleNamespace:
    """The fields of config.data that the pipeline reads; image files, no cache."""
    return types.SimpleNamespace(
        name="cuhk_pedes",
        image_size=(16, 8),
        text_length=6,
        batch_size=4,
        sampler="random",
        num_instances=2,
        last_batch="pad",
        tfds_dir="",
        cache=False,
        cache_dir=str(tmp_path / "cache"),
        allow_truncated=False,
        train_resize="bilinear",
    )
