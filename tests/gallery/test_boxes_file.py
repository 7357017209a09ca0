"""Boxes from a file: what is read, and that a line which cannot be is named."""

import json
import re

import numpy as np
import pytest

from tipr_jax.gallery.boxes_file import BoxesFile
from tipr_jax.gallery.detection import Detection, Frame
from tipr_jax.gallery.store import Box

PIXELS = np.zeros((100, 200, 3), np.uint8)
HEADER = "file,x,y,w,h\n"


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.jpg").touch()
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.jpg").touch()
    (tmp_path / "walk.mp4").touch()
    return tmp_path


def load(folder, text, name="boxes.csv"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return BoxesFile.load(path)


def frame(folder, name="a.jpg", number=None, seconds=None):
    return Frame(PIXELS, str(folder / name), number, seconds)


def test_boxes_of_photos_come_best_first(folder):
    boxes = load(
        folder,
        "file,x,y,w,h,score\na.jpg,1,2,30,40,0.5\nsub/b.jpg,5,5,5,5,\na.jpg,50.4,2.6,30,40,0.75\n",
    )
    a, b, none = boxes.detect(
        [frame(folder), frame(folder, "sub/../sub/b.jpg"), frame(folder, "walk.mp4")]
    )
    assert a == [Detection(Box(50, 3, 30, 40), 0.75), Detection(Box(1, 2, 30, 40), 0.5)]
    assert b == [Detection(Box(5, 5, 5, 5), 1.0)]
    assert none == []


def test_absolute_paths_links_and_a_byte_order_mark(folder):
    (folder / "link.jpg").symlink_to(folder / "a.jpg")
    text = f"\ufeffh, w ,y,x,file\r\n40,30,2,1,{folder / 'a.jpg'}\r\n"
    boxes = load(folder, text)
    for name in ("a.jpg", "link.jpg"):
        assert boxes.detect([frame(folder, name)]) == [[Detection(Box(1, 2, 30, 40), 1.0)]]


def test_boxes_are_cut_at_the_border(folder):
    (found,) = load(folder, HEADER + "a.jpg,-10,90,30,40\n").detect([frame(folder)])
    assert found == [Detection(Box(0, 90, 20, 10), 1.0)]


def test_frames_by_number_and_by_time(folder):
    by_number = load(
        folder, "file,frame,x,y,w,h,track\nwalk.mp4,0,1,1,9,9,4\nwalk.mp4,2,5,1,9,9,4\n"
    )
    frames = [frame(folder, "walk.mp4", n, n / 30) for n in range(3)]
    want = [[Detection(Box(1, 1, 9, 9), 1.0, 4)], [], [Detection(Box(5, 1, 9, 9), 1.0, 4)]]
    assert by_number.detect(frames) == want
    by_time = load(
        folder, "file,seconds,x,y,w,h,track\nwalk.mp4,0,1,1,9,9,4\nwalk.mp4,.067,5,1,9,9,4\n"
    )
    assert by_time.detect(frames) == want


def test_json_lines_say_the_same(folder):
    rows = [
        {"file": "a.jpg", "x": 1, "y": 2, "w": 30, "h": 40, "score": 0.5},
        {"file": "walk.mp4", "frame": 1, "x": 1, "y": 2, "w": 3, "h": 4, "track": None},
    ]
    boxes = load(folder, "\n\n".join(map(json.dumps, rows)), "boxes.jsonl")
    assert boxes.detect([frame(folder), frame(folder, "walk.mp4", 1, 0.1)]) == [
        [Detection(Box(1, 2, 30, 40), 0.5)],
        [Detection(Box(1, 2, 3, 4), 1.0)],
    ]


def test_the_name_changes_with_the_boxes(folder):
    one = load(folder, HEADER + "a.jpg,1,2,3,4\n").name
    assert one == load(folder, HEADER + "a.jpg,1,2,3,4\n", "other.csv").name
    assert one != load(folder, HEADER + "a.jpg,1,2,3,5\n").name
    assert len(one) < 20


ROW = "a.jpg,1,2,3,4\n"
BAD = {
    "no header": (ROW, "line 1: found the columns a.jpg, 1, 2, 3, 4; expected file, x, y, w, h"),
    "empty": ("", "line 1: found the columns nothing"),
    "misspelt": ("file,x,y,w,h,trak\n", "line 1: found the columns file, x, y, w, h, trak"),
    "column twice": ("file,x,y,w,h,x\n", "line 1"),
    "too few": (HEADER + ROW + "a.jpg,1,2,3\n", "line 3: expected 5 values"),
    "too many": (HEADER + "a.jpg,1,2,3,4,5\n", "line 2: expected 5 values"),
    "word": (HEADER + "a.jpg,1,2,3,four\n", "line 2: h is 'four', expected a number"),
    "empty number": (HEADER + "a.jpg,,2,3,4\n", "line 2: x is '', expected a number"),
    "not a number": (HEADER + "a.jpg,nan,2,3,4\n", "line 2: x is 'nan', expected a number"),
    "infinite": (HEADER + "a.jpg,1,inf,3,4\n", "line 2: y is 'inf'"),
    "no width": (HEADER + "a.jpg,1,2,0,4\n", "line 2: the box is 0 wide and 4 high"),
    "negative height": (HEADER + ROW + "a.jpg,1,2,3,-4\n", "line 3: the box is 3 wide and -4 high"),
    "no file": (HEADER + ",1,2,3,4\n", "line 2: file is ''"),
    "NUL": (HEADER + "a\0.jpg,1,2,3,4\n", "line 2"),
    "half a frame": ("file,frame,x,y,w,h\nwalk.mp4,1.5,1,2,3,4\n", "line 2: frame is 1.5"),
    "negative frame": ("file,frame,x,y,w,h\nwalk.mp4,-1,1,2,3,4\n", "line 2: frame, seconds or"),
    "both": ("file,frame,seconds,x,y,w,h\nwalk.mp4,1,1,1,2,3,4\n", "line 2: frame and seconds are"),
    "score": ("file,x,y,w,h,score\na.jpg,1,2,3,4,91\n", "line 2: score is 91, expected 0 to 1"),
    "some tracks": (
        "file,frame,x,y,w,h,track\nwalk.mp4,0,1,2,3,4,1\nwalk.mp4,1,1,2,3,4,\n",
        "line 3: lines 2 and 3 are of one file, but only one of them has a track",
    ),
    "track twice": (
        "file,frame,x,y,w,h,track\nwalk.mp4,0,1,2,3,4,1\nwalk.mp4,0,9,2,3,4,1\n",
        "line 3: track 1 is in line 2 already",
    ),
    "not text": (b"file\xff\xfe", "not a text file in UTF-8"),
}


@pytest.mark.parametrize("what", BAD)
def test_a_line_that_cannot_be_is_named(folder, what):
    text, words = BAD[what]
    with pytest.raises(ValueError, match=re.escape(words)) as error:
        load(folder, text)
    assert str(error.value).startswith(str(folder / "boxes.csv"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{'file': 1}", "line 1: not JSON"),
        ("\n[1, 2]", "line 2: expected an object"),
        ('{"file": "a.jpg"}', "line 1: found the columns file; expected file, x, y, w, h"),
        ('{"file": 3, "x": 1, "y": 1, "w": 1, "h": 1}', "line 1: file is 3, expected a path"),
        ('{"file": "a.jpg", "x": true, "y": 1, "w": 1, "h": 1}', "x is True, expected a number"),
        ('{"file": "a.jpg", "x": [1], "y": 1, "w": 1, "h": 1}', "x is [1], expected a number"),
    ],
)
def test_json_that_cannot_be(folder, text, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        load(folder, text, "boxes.jsonl")


def test_what_only_the_picture_tells(folder):
    outside = load(folder, HEADER + ROW + "a.jpg,300,2,3,4\n")
    with pytest.raises(
        ValueError, match=r"line 3: the box lies outside .*a.jpg, which has 200 x 100"
    ):
        outside.detect([frame(folder)])
    timed = load(folder, "file,frame,x,y,w,h\na.jpg,0,1,2,3,4\nwalk.mp4,,1,2,3,4\n")
    with pytest.raises(ValueError, match="line 2: .*a.jpg is a photo, so frame and seconds stay"):
        timed.detect([frame(folder)])
    with pytest.raises(ValueError, match="line 3: .*walk.mp4 is a video, so say which frame"):
        timed.detect([frame(folder, "walk.mp4", 0, 0.0)])


def test_a_file_of_another_folder(folder):
    with pytest.raises(
        FileNotFoundError, match=r"line 2: .*a.jpeg: no such photo or video; did you"
    ):
        load(folder, HEADER + "a.jpeg,1,2,3,4\n")
    assert load(folder, HEADER).detect([frame(folder)]) == [[]]
