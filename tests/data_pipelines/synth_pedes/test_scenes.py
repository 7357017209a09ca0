"""Generated scenes and sequences: the boxes are where the people are."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from data_pipelines.synth_pedes import scenes
from data_pipelines.synth_pedes.captions import LANGUAGES
from data_pipelines.synth_pedes.scenes import write_scenes, write_sequence

SMALL = {"people": 4, "size": (240, 320)}


def rows_of(path):
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def box_of(row):
    return tuple(int(row[name]) for name in "xywh")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return write_scenes(tmp_path_factory.mktemp("scenes"), pictures=3, **SMALL)


@pytest.fixture(scope="module")
def sequence(tmp_path_factory):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'tipr_jax[video]'")
    return write_sequence(tmp_path_factory.mktemp("sequence"), frames=20, **SMALL)


def test_files_boxes_and_captions_go_together(pictures):
    rows = rows_of(pictures)
    folder = pictures.parent
    assert {row["file"] for row in rows} == {path.name for path in folder.glob("*.jpg")}
    assert {Image.open(path).size for path in folder.glob("*.jpg")} == {(320, 240)}
    assert all(row["frame"] == "" for row in rows)
    said = json.loads((folder / "captions.json").read_text(encoding="utf-8"))
    assert len(said) == 3 * SMALL["people"]
    assert {row["track"] for row in rows} <= set(said)
    assert all(set(texts) == set(LANGUAGES) and all(texts.values()) for texts in said.values())
    # Some may be hidden by others, but not many.
    assert 0.6 * len(said) <= len(rows) == len({row["track"] for row in rows})


def test_boxes_are_tight_around_what_was_drawn(monkeypatch, tmp_path):
    """The same scene without one person differs within that person's box, and out to its edges."""
    found = {}

    def all_but(left_out):
        people = scenes._people

        def some(*args, **options):
            return [w for w in people(*args, **options) if w.track != left_out]

        with monkeypatch.context() as patch:
            patch.setattr(scenes, "_people", some)
            # No shadows, noise or compression, which reach beyond people.
            patch.setattr(scenes.scene, "draw_ground_shadow", lambda *_: None)
            patch.setattr(scenes.scene, "photograph", _lossless)
            path = write_scenes(tmp_path / str(left_out), pictures=1, **SMALL)
        picture = Image.open(path.parent / "scene_000.jpg")
        return np.asarray(picture).astype(int), rows_of(path)

    whole, rows = all_but(None)
    for row in rows:
        without, _ = all_but(int(row["track"]))
        changed = np.abs(whole - without).max(axis=-1) > 0
        x, y, width, height = box_of(row)
        inside = np.zeros_like(changed)
        inside[max(0, y - 1) : y + height + 1, max(0, x - 1) : x + width + 1] = True  # soft edges
        assert not (changed & ~inside).any(), row
        found[row["track"]] = changed.sum()
    assert len(found) >= 3 and all(count > 200 for count in found.values())


def _lossless(image, view):
    import io

    buffer = io.BytesIO()
    Image.fromarray(image.astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_people_walk_steadily_through_the_frames(sequence):
    rows = rows_of(sequence)
    assert {row["file"] for row in rows} == {"walk.mp4"}
    assert {int(row["frame"]) for row in rows} <= set(range(20))
    tracks = {}
    for row in rows:
        tracks.setdefault(row["track"], []).append((int(row["frame"]), box_of(row)))
    assert len(tracks) >= 3
    moved = []
    for seen in tracks.values():
        inside = [(n, b) for n, b in seen if 2 < b[0] and b[0] + b[2] < 318]
        if len(inside) < 3:
            continue
        (first, a), (last, b) = inside[0], inside[-1]
        moved.append((b[0] + b[2] / 2 - a[0] - a[2] / 2) / (last - first))
        assert all(abs(box[1] + box[3] - a[1] - a[3]) < 12 for _, box in inside)  # feet on a line
    assert len(moved) >= 2 and all(2 < abs(speed) < 20 for speed in moved)


def test_the_video_has_as_many_frames_as_asked_for_and_shows_the_people(sequence):
    import av

    with av.open(str(sequence.parent / "walk.mp4")) as container:
        frames = [f.to_ndarray(format="rgb24") for f in container.decode(video=0)]
    assert len(frames) == 20 and frames[0].shape == (240, 320, 3)
    still = np.median(frames, axis=0)
    for row in rows_of(sequence)[::7]:
        x, y, width, height = box_of(row)
        change = np.abs(frames[int(row["frame"])] - still).mean(axis=-1)
        assert change[y : y + height, x : x + width].mean() > 2 * change.mean()


def test_same_seed_same_files_and_another_seed_other_people(tmp_path, pictures):
    again = write_scenes(tmp_path / "again", pictures=3, **SMALL)
    for path in pictures.parent.iterdir():
        assert path.read_bytes() == (again.parent / path.name).read_bytes()
    other = write_scenes(tmp_path / "other", pictures=3, seed=1, **SMALL)
    assert other.read_bytes() != pictures.read_bytes()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"pictures": 0}, "pictures is 0; expected at least 1"),
        ({"people": 0}, "people is 0"),
        ({"size": (241, 320)}, r"size is \(241, 320\); expected"),
        ({"size": (100, 320)}, "at least 160"),
    ],
)
def test_bad_parameters(tmp_path, wrong, message):
    with pytest.raises(ValueError, match=message):
        write_scenes(tmp_path / "new", **(SMALL | wrong))
    assert not (tmp_path / "new").exists()
