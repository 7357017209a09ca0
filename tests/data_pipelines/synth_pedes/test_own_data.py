"""Generated people as own data: a manifest, and a vocabulary that nobody else has."""

import csv
import dataclasses
import random
import re

import numpy as np
import pytest

from data_pipelines.check import check_dataset
from data_pipelines.manifest.load import load_manifest
from data_pipelines.synth_pedes import __main__ as command
from data_pipelines.synth_pedes.attributes import COLOURS, FESTIVAL_COLOURS, sample_identity
from data_pipelines.synth_pedes.captions import caption
from data_pipelines.synth_pedes.festival import FESTIVAL
from data_pipelines.synth_pedes.own_data import write_own_data
from data_pipelines.synth_pedes.renderer import draw_person
from data_pipelines.synth_pedes.view import sample_cameras, sample_views

CLOTHES = ("top", "top_colour", "bottom", "bottom_colour", "shoes_colour")


def words_of(path) -> set[str]:
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    text = " ".join(row[name] for row in rows for name in row if name.startswith("caption"))
    return set(re.findall(r"[a-z-]+", text.lower()))


def test_a_hundred_people_of_three_photos_are_split_by_person(tmp_path, capsys):
    command.main([f"--manifest={tmp_path}", "--vocabulary=festival", "--height=64"])
    assert "manifest.csv is ready" in capsys.readouterr().out
    splits = load_manifest(str(tmp_path))
    assert [split.num_persons for split in splits.values()] == [60, 20, 20]
    assert [len(split.image_path) for split in splits.values()] == [180, 60, 60]
    assert check_dataset("manifest", str(tmp_path)).ok
    with pytest.raises(SystemExit, match="manifest.csv exists; move it away"):
        command.main([f"--manifest={tmp_path}"])


def test_the_festival_has_its_own_clothes_colours_and_words(tmp_path):
    people = [sample_identity(0, "festival", i, FESTIVAL) for i in range(200)]
    usual = [sample_identity(0, "train", i) for i in range(200)]
    for field in CLOTHES:
        ours, theirs = ({getattr(p, field) for p in group} for group in (people, usual))
        assert ours and not ours & theirs
    assert not COLOURS.keys() & FESTIVAL_COLOURS.keys()
    words = [
        words_of(write_own_data(tmp_path / name, people=60, vocabulary=name, height=64))
        for name in ("street", "festival")
    ]
    assert {"poncho", "kilt", "turquoise", "zigzags", "jersey", "teal"} <= words[1] - words[0]
    assert not words[1] & {"jacket", "jeans", "trousers", "blue", "green", "purple"}


def test_festival_clothes_are_drawn_from_every_side():
    cameras = sample_cameras(0)
    views = sample_views(cameras, 6, 64, random.Random(0))
    for i in range(40):
        person = sample_identity(3, "festival", i, FESTIVAL)
        for view in views:
            alpha = draw_person(person, view)[..., 3]
            assert 0.08 < (alpha > 128).mean() < 0.65
    plain, zigzag = (
        draw_person(dataclasses.replace(person, pattern=pattern), views[0])
        for pattern in ("plain", "zigzag")
    )
    assert (np.abs(plain - zigzag).max(axis=-1) > 8).sum() > 20


def test_the_same_parameters_give_the_same_files_and_languages_their_columns(tmp_path):
    paths = [
        write_own_data(tmp_path / name, people=2, languages=("en", "ch"), height=64)
        for name in "ab"
    ]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert paths[0].read_text().splitlines()[0] == (
        "file,person_id,caption_en,caption_en_2,caption_zh,caption_zh_2"
    )
    photos = [sorted((path.parent / "photos").iterdir()) for path in paths]
    assert [p.read_bytes() for p in photos[0]] == [p.read_bytes() for p in photos[1]]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"vocabulary": "beach"}, "vocabulary is 'beach'; expected one of street, festival"),
        ({"vocabulary": "festival", "languages": ["en", "zh"]}, "is worded in en alone"),
        ({"people": 0}, "0 people with 3 images each; expected at least 1"),
        ({"languages": ["it"]}, "language 'it' is unknown"),
    ],
)
def test_bad_parameters(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_own_data(tmp_path / "own", **wrong)
    assert not (tmp_path / "own").exists()


def test_captions_of_the_festival_have_the_usual_form():
    (view,) = sample_views(sample_cameras(0), 1, 96, random.Random(1))
    for i in range(200):
        person = sample_identity(0, "festival", i, FESTIVAL)
        text = caption(person, view, "en", random.Random(i))
        assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |none|_", text), text
