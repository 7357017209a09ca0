"""Folders as people have them: what is no photo is skipped, counted and named."""

import os

import numpy as np
import pytest
from PIL import Image

from tipr_jax.gallery.photos import find_photos, told

PIXELS = np.full((24, 10, 3), 90, np.uint8)


@pytest.fixture
def folder(tmp_path):
    place = tmp_path / "photos"
    place.mkdir()
    Image.fromarray(PIXELS).save(place / "person.jpg")
    return place


def write_gif(path):
    Image.fromarray(PIXELS).save(path, "GIF")


def write_tiff(path):
    Image.fromarray(PIXELS).save(path, "TIFF")


OTHERS = {  # what lies in the folder -> (how it is made, kind, words of the reason)
    "web page": (lambda p: p.write_text("<html>404</html>"), "not a photo", "not a readable image"),
    "empty": (lambda p: p.touch(), "not a photo", "empty file"),
    "gif": (write_gif, "not a photo", "a GIF picture"),
    "tiff": (write_tiff, "not a photo", "a TIFF picture"),
    "iphone": (lambda p: p.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40)), "not a photo", "HEIC"),
    "video": (
        lambda p: p.write_bytes(b"\0\0\0\x18ftypisom" + bytes(40)),
        "video",
        "--detect=nanodet",
    ),
    "zip": (lambda p: p.write_bytes(b"PK\3\4" + bytes(40)), "not a photo", "not a readable image"),
    "dead link": (lambda p: p.symlink_to("nowhere.jpg"), "dead link", "nowhere.jpg"),
    "circle": (lambda p: p.symlink_to(p.name), "dead link", "links to"),
    "pipe": (lambda p: os.mkfifo(p), "not a file", "pipe"),
}


@pytest.mark.parametrize("what", OTHERS)
@pytest.mark.parametrize("name", ["zz.jpg", "aa", "mit Leerzeichen.PNG"])
def test_what_is_no_photo_is_named(folder, what, name):
    make, kind, words = OTHERS[what]
    make(folder / name)
    photos = find_photos(folder)
    assert photos.paths == [str(folder / "person.jpg")]
    (skipped,) = photos.skipped
    assert (skipped.path, skipped.kind) == (str(folder / name), kind)
    assert words in skipped.reason and name in skipped.reason
    assert told(photos.skipped)[0] == "skipped 1 file:"


@pytest.mark.parametrize("name", ["._person.jpg", ".DS_Store", ".thumbnails"])
def test_hidden_files_are_counted_only(folder, name):
    if name == ".thumbnails":
        (folder / name).mkdir()
        Image.fromarray(PIXELS).save(folder / name / "small.jpg")
    else:
        (folder / name).write_bytes(b"\0\5\x16\7")
    photos = find_photos(folder)
    assert len(photos.paths) == 1
    assert [item.kind for item in photos.skipped] == ["hidden"]


@pytest.mark.parametrize("name", ["photo", "photo.txt", "photo.JPEG", b"\xd5\xd5.jpg"])
def test_content_decides_and_not_the_suffix(folder, name):
    name = os.fsdecode(name)
    Image.fromarray(PIXELS).save(folder / name, "PNG")
    assert str(folder / name) in find_photos(folder).paths


def test_a_directory_called_like_a_photo_is_walked(folder):
    (folder / "x.jpg").mkdir()
    Image.fromarray(PIXELS).save(folder / "x.jpg" / "inside.png")
    assert len(find_photos(folder).paths) == 2


def test_links_are_followed_and_circles_end(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    Image.fromarray(PIXELS).save(elsewhere / "linked.png")
    (folder / "album").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(folder)
    (folder / "one.png").symlink_to(elsewhere / "linked.png")
    names = [os.path.basename(path) for path in find_photos(folder).paths]
    assert names == ["linked.png", "one.png", "person.jpg"]


def test_one_file_is_taken(folder):
    assert find_photos(folder / "person.jpg").paths == [str(folder / "person.jpg")]


def test_a_folder_that_is_not_there_is_answered_with_the_near_name(folder):
    with pytest.raises(FileNotFoundError, match=r"no such folder or photo; did you mean .*/photos"):
        find_photos(folder.with_name("Photo"))


def test_nothing_left(folder):
    (folder / "person.jpg").write_text("not a photo")
    with pytest.raises(ValueError, match=r"(?s)no photo \(JPEG.*person.jpg"):
        find_photos(folder)


def test_many_of_a_kind_are_cut_in_the_account(folder):
    for number in range(9):
        (folder / f"{number}.txt").write_text("a caption")
    lines = told(find_photos(folder).skipped)
    assert lines[:2] == ["skipped 9 files:", "  not a photo: 9"]
    assert lines[-1] == "    ... and 4 more"
    assert told([]) == []
