"""People in whole pictures: boxes become items, another detector reads the files again."""

import numpy as np
import pytest
from PIL import Image

from tipr_jax.gallery import Retriever
from tipr_jax.gallery.pictures import in_its_frame, picture_of
from tipr_jax.gallery.sheet import draw


@pytest.fixture
def folder(tmp_path):
    """Three whole pictures; two people in the first, one in the second."""
    place = tmp_path / "photos"
    place.mkdir()
    rng = np.random.default_rng(0)
    for name in "abc":
        pixels = rng.integers(0, 255, (120, 200, 3), np.uint8)
        Image.fromarray(pixels).save(place / f"{name}.png")
    return place


@pytest.fixture
def boxes(folder):
    path = folder.parent / "boxes.csv"
    path.write_text(
        "file,x,y,w,h\nphotos/a.png,10,20,30,60\nphotos/a.png,100,20,30,60\nphotos/b.png,50,0,40,80\n"
    )
    return path


def items_of(retriever):
    return retriever.store.items(retriever.store.select())


def test_every_box_is_an_item(model, folder, boxes):
    retriever = Retriever.in_memory(model)
    done = retriever.add(folder, detect=f"file:{boxes}", camera="gate")
    items = items_of(retriever)
    assert sorted((item.path[-5:], item.box.x) for item in items) == [
        ("a.png", 10), ("a.png", 100), ("b.png", 50),
    ]  # fmt: skip
    assert {item.camera for item in items} == {"gate"}
    assert [(s.path, s.kind) for s in done.skipped] == [(str(folder / "c.png"), "nobody found")]
    cut = np.asarray(Image.open(folder / "b.png"))[0:80, 50:90]
    best = retriever.search_by_image(cut, 1)[0]
    assert best.item.path.endswith("b.png") and best.score == pytest.approx(1, abs=1e-3)
    np.testing.assert_array_equal(picture_of(best.item), cut)


def test_a_rescan_keeps_the_detector_and_reads_nothing_again(model, folder, boxes):
    retriever = Retriever.in_memory(model)
    retriever.add(folder, detect=f"file:{boxes}")
    assert retriever.add(folder)[:4] == (0, 0, 3, 0) and len(items_of(retriever)) == 3


@pytest.mark.parametrize("first, second", [("none", "file"), ("file", "none")])
def test_another_detector_reads_again(model, folder, boxes, first, second):
    specs = {"none": "none", "file": f"file:{boxes}"}
    retriever = Retriever.in_memory(model)
    retriever.add(folder, detect=specs[first])
    retriever.add(folder, detect=specs[second])
    items = items_of(retriever)
    assert all((item.box is None) == (second == "none") for item in items) and len(items) == 3
    assert len(retriever.search("a man", 9)) == 3


def test_more_boxes_are_read_when_their_file_changes(model, folder, boxes):
    retriever = Retriever.in_memory(model)
    retriever.add(folder, detect=f"file:{boxes}")
    boxes.write_text(boxes.read_text() + "photos/c.png,20,20,30,60\n")
    retriever.add(folder, detect=f"file:{boxes}")
    assert len(items_of(retriever)) == 4


def test_what_is_drawn(model, folder, boxes, tmp_path):
    retriever = Retriever.in_memory(model)
    retriever.add(folder, detect=f"file:{boxes}")
    matches = retriever.search("a man", 3)
    framed = in_its_frame(next(m.item for m in matches if m.item.box.x == 100))
    assert framed.shape == (90, 60, 3), (
        "half a box to the left and right, a quarter above and below"
    )
    draw("a man", matches, tmp_path / "sheet.png")
    (folder / "a.png").unlink()
    draw("a man", matches, tmp_path / "without.png")
    assert (tmp_path / "without.png").stat().st_size > 1000


def test_a_box_outside_of_its_picture_costs_that_picture_alone(model, folder, boxes):
    boxes.write_text(boxes.read_text() + "photos/c.png,500,20,30,60\n")
    retriever = Retriever.in_memory(model)
    done = retriever.add(folder, detect=f"file:{boxes}")
    assert [s.path for s in done.skipped] == [str(folder / "c.png")]
    assert len(items_of(retriever)) == 3
