"""Tiny data sets in the official layouts."""

import json
import pathlib
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from data_pipelines.datasets.layouts import LAYOUTS
from data_pipelines.datasets.multilingual import file_name

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


def _write_images(directory: pathlib.Path, paths: list[str]) -> None:
    rng = np.random.default_rng(0)
    for path in paths:
        file = directory / "imgs" / path
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 9, 3), dtype=np.uint8)).save(file)


@pytest.fixture
def write_layout(tmp_path: pathlib.Path) -> WriteLayout:
    """write_layout(name, entries=None, images=True) -> the data root it wrote to."""

    def write(name: str, entries: Any = None, *, images: bool = True) -> pathlib.Path:
        entries = _tiny_entries(name) if entries is None else entries
        layout = LAYOUTS[name]
        directory = tmp_path / layout.directory
        (directory / "imgs").mkdir(parents=True, exist_ok=True)
        (directory / layout.annotation_files[0]).write_text(json.dumps(entries))
        if images:
            _write_images(directory, [entry[layout.path_key] for entry in entries])
        return tmp_path

    return write


@pytest.fixture
def write_languages(tmp_path: pathlib.Path) -> Callable[..., pathlib.Path]:
    """write_languages(name="cuhk_pedes", languages=("en", "zh")) -> the data set's directory.

    Entries and images of write_layout("cuhk_pedes"), captions "zh: person 1 seen by 0".
    """

    def write(
        name: str = "cuhk_pedes", languages: tuple[str, ...] = ("en", "zh"), *, images: bool = True
    ) -> pathlib.Path:
        entries = _tiny_entries("cuhk_pedes")
        directory = tmp_path / LAYOUTS[name].directory
        (directory / "imgs").mkdir(parents=True, exist_ok=True)
        if images:
            _write_images(directory, [entry["file_path"] for entry in entries])
        for split in ("train", "val", "test"):
            for language in languages:
                translated = [
                    {
                        "file_path": entry["file_path"],
                        "id": entry["id"],
                        "captions": [f"{language}: {caption}" for caption in entry["captions"]],
                    }
                    for entry in entries
                    if entry["split"] == split
                ]
                (directory / file_name(split, language)).write_text(json.dumps(translated))
        return directory

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
        test_resize="bilinear",
    )
