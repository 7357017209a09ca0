"""The words that choose a detector, and people of photos and videos through a boxes file."""

import re

import numpy as np
import pytest

from tipr_jax.gallery import tracks
from tipr_jax.gallery.boxes_file import BoxesFile
from tipr_jax.gallery.detect import make_detector
from tipr_jax.gallery.detection import Detection, Frame, is_a_person
from tipr_jax.gallery.people import cut_out
from tipr_jax.gallery.store import Box


def test_none_is_no_detector():
    assert make_detector("none") is None


@pytest.mark.parametrize(
    "word", ["", "None", "yolo", "file", "file:", "onnx:", "nanodet:x", "none:"]
)
def test_an_unknown_word(word):
    want = f"--detect={word}: expected none, nanodet, file:BOXES.csv or onnx:MODEL.onnx"
    with pytest.raises(ValueError, match=re.escape(want)):
        make_detector(word)


@pytest.mark.parametrize(("kind", "what"), [("file", "boxes file"), ("onnx", "model file")])
def test_a_file_that_is_not_there(tmp_path, kind, what):
    (tmp_path / "boxes.csv").touch()
    with pytest.raises(FileNotFoundError, match=f"no such {what}; did you mean .*boxes.csv"):
        make_detector(f"{kind}:{tmp_path / 'boxs.csv'}")
    with pytest.raises(FileNotFoundError, match=f"no such {what}"):
        make_detector(f"{kind}:{tmp_path}")
    with pytest.raises(ValueError, match="an address"):
        make_detector(f"{kind}:gs://bucket/boxes.csv")


def test_without_the_weights_the_script_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"scripts/get_detector.sh") as error:
        make_detector("nanodet")
    assert "\n" not in str(error.value)


def test_who_is_large_enough_and_stands():
    assert is_a_person(Box(0, 0, 20, 40)) and is_a_person(Box(0, 0, 40, 40))
    assert not is_a_person(Box(0, 0, 20, 39)) and not is_a_person(Box(0, 0, 60, 59))


class Fixed:
    """A detector that sees one person in every frame."""

    name, every = "fixed", 0.0

    def detect(self, frames):
        return [[Detection(Box(40, 40, 20, 20), 0.75)] for _ in frames]


def test_people_are_cut_out_in_the_shape_of_the_model():
    pixels = np.arange(100 * 100 * 3, dtype=np.uint32).reshape(100, 100, 3).astype(np.uint8)
    person = cut_out(Frame(pixels), Detection(Box(40, 40, 20, 20), 0.75), 2.0)
    assert person.box == Box(40, 30, 20, 40) and person.score == 0.75
    assert person.seconds is None and person.track is None
    np.testing.assert_array_equal(person.pixels, pixels[30:70, 40:60])


def test_a_detector_sees_frames_in_batches_and_people_of_a_video_have_tracks(monkeypatch):
    seen = []

    class Counting(Fixed):
        every = 0.5

        def detect(self, frames):
            seen.append(len(frames))
            return super().detect(frames)

    def frames(path, every):
        assert every == 0.5
        for n in range(19):
            yield Frame(np.zeros((100, 100, 3), np.uint8), path, n, n / 10)

    monkeypatch.setattr(tracks.video, "frames", frames)
    monkeypatch.setattr(tracks.video, "duration", lambda path: None)
    (person,) = tracks.people_in_video(Counting(), "a.mp4", 2.0)
    assert seen == [8, 8, 3]
    assert person.track == 1 and person.box == Box(40, 30, 20, 40)


def test_scenes_with_their_boxes_end_to_end(tmp_path):
    """Everybody of a drawn picture comes out, by the boxes file that was written with it."""
    from data_pipelines.synth_pedes.scenes import write_scenes
    from tipr_jax.preprocess.image import decode

    detector = make_detector(
        f"file:{write_scenes(tmp_path, pictures=2, people=3, size=(240, 320))}"
    )
    assert isinstance(detector, BoxesFile)
    counts = []
    for path in sorted(tmp_path.glob("*.jpg")):
        frame = Frame(decode(path), str(path))
        (found,) = detector.detect([frame])
        counts.append(len(found))
        assert all(cut_out(frame, person, 3.0).pixels.std() > 5 for person in found)
    assert len(counts) == 2 and 4 <= sum(counts) <= 6


def test_a_video_with_its_boxes_end_to_end(tmp_path):
    pytest.importorskip("av", reason="PyAV is not installed: pip install 'tipr_jax[video]'")
    from data_pipelines.synth_pedes.scenes import write_sequence
    from tipr_jax.gallery import video

    boxes = write_sequence(tmp_path, frames=12, people=3, size=(240, 320))
    path = tmp_path / "walk.mp4"
    people = list(tracks.people_in_video(make_detector(f"file:{boxes}"), path, 2.0))
    rows = [line.split(",") for line in boxes.read_text().splitlines()[1:]]
    assert sorted(p.track for p in people) == sorted({int(row[-1]) for row in rows})
    for person in people:
        whole = video.frame_at(path, person.seconds)
        x, y, width, height = person.box
        np.testing.assert_array_equal(whole[y : y + height, x : x + width], person.pixels)
