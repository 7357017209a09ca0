"""The gallery's commands: what they print, what they do, and one line for every mistake."""

import json
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.gallery.conftest import random_model
from tipr_jax.gallery import commands
from tipr_jax.gallery.__main__ import main
from tipr_jax.gallery.adding import Adder
from tipr_jax.gallery.calibrate import Line
from tipr_jax.gallery.retriever import Match
from tipr_jax.gallery.store import Item
from tipr_jax.inference import model as inference


@pytest.fixture(scope="module")
def models():
    """Two models of random weights by the name of their directory."""
    return {name: random_model(seed, name) for seed, name in enumerate(("run", "better"))}


@pytest.fixture
def place(models, monkeypatch, tmp_path):
    """A directory with photos/ and the two models."""
    for name, model in models.items():
        (tmp_path / name).mkdir()
        model.directory = str(tmp_path / name)
    load = lambda directory, language="": models[os.path.basename(directory)]  # noqa: E731
    monkeypatch.setattr(inference, "load", load)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))  # programs of models, see `keep`
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for name in "abc":
        pixels = rng.integers(0, 255, (48, 20, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{name}.png")
    return tmp_path


@pytest.fixture
def command(place, capsys):
    """Runs a command on my.gallery; returns what it printed, or the message it ended with."""

    def run(*words, gallery="my.gallery"):
        try:
            main([*words, f"--gallery={gallery}"])
            end = ""
        except SystemExit as error:
            end = error.code if isinstance(error.code, str) else ""
        printed = capsys.readouterr()
        return printed.out + printed.err + end

    return run


def as_json(text: str):
    return json.loads(text)


def test_from_photos_to_an_answer(command, place):
    (place / "photos" / "notes.txt").write_text("not a photo")
    printed = command("add", "photos", "--model=run")
    assert "my.gallery: 3 files added; it holds 3 items" in printed
    assert "skipped 1 file" in printed and "notes.txt" in printed
    assert "nothing to do, 3 files unchanged" in command("add", "photos")
    printed = command("search", "a man in a red coat", "--picture=new/folder/answer")
    assert '"a man in a red coat" among 3 items:' in printed and "b.png" in printed
    assert (place / "new" / "folder" / "answer.png").stat().st_size > 1000
    assert "my.gallery: 3 items of 3 files" in command("stats")
    assert "run" in command("stats") and "searched" in command("stats")


def test_pages_filters_and_words(command):
    command("add", "photos/a.png", "--model=run", "--camera=gate", "--meta", "floor=2")
    command("add", "photos", "--camera=hall", "--tag=vip")
    pages = [
        as_json(command("search", "a man", "--json", "--top=2", f"--page={page}"))
        for page in (1, 2, 3)
    ]
    ranks = [[match["rank"] for match in page["matches"]] for page in pages]
    assert ranks == [[1, 2], [3], []]
    assert "none on this page" in command("search", "a man", "--page=9")
    found = as_json(command("search", "a man", "--json", "--where", "floor=2", "--explain"))
    (match,) = found["matches"]
    assert found["among"] == 1 and match["camera"] == "gate" and match["meta"] == {"floor": 2}
    assert [word for word, _ in match["words"]] == ["a", "man"]
    assert "no item passes" in command("search", "a man", "--where", "camera=roof")
    assert " man " in command("search", "a man", "--explain")
    listed = as_json(command("list", "--json", "--where", "tag=vip"))
    assert [item["camera"] for item in listed["items"]] == ["hall", "hall"]
    assert "3 items, page 2 of 2" in command("list", "--top=2", "--page=2")


def test_a_picture_as_the_question(command, place):
    command("add", "photos", "--model=run")
    printed = command("search", "--like=photos/c.png", "--top=1")
    assert "c.png" in printed and "1.000" in printed and (place / "search.png").exists()


def test_delete(command):
    command("add", "photos", "--model=run", "--camera=gate")
    assert "1 item deleted, 2 left" in command("delete", "--id=1")
    assert "0 items deleted" in command("delete", "--where", "added<2020-01-01")
    assert as_json(command("delete", "--json", "--where", "camera=gate"))["items"] == 0
    assert "gallery is empty" in command("search", "a man")


def test_another_model(command, place):
    command("add", "photos", "--model=run")
    assert "vectors of another model" in command("search", "a man", "--model=better")
    assert "reindex" in command("add", "photos", "--model=better")
    (place / "photos" / "b.png").unlink()
    printed = command("reindex", "--model=better")
    assert "2 items embedded; searches use better now" in printed and "b.png" in printed
    assert "among 2 items" in command("search", "a man")


def test_a_model_that_was_moved(command, place):
    """The machine that added photos keeps the model's programs and goes on; another one asks."""
    command("add", "photos", "--model=run")
    os.rename("run", "elsewhere")
    assert "among 3 items" in command("search", "a man")
    shutil.rmtree("cache")
    assert "is not there; say where it is, as in --model=RUN" in command("search", "a man")


MISTAKES = {
    ("search", ""): "describe the person",
    ("search", "a man", "--top=0"): "'0' is not a whole number of at least 1",
    ("search", "a man", "--topp=3"): "unknown argument '--topp=3', did you mean --top?",
    ("search", "a man", "--picture=answer.xyz"): "expected a name ending in .png",
    ("search", "a man", "--like=nowhere.png"): "nowhere.png: no such photo",
    ("search", "a man", "--model=gone"): "gone: no such run or model directory",
    ("search", "a man", "--where", "camera"): "expected FIELD=VALUE",
    ("search", "a man", "--where", "colour=red"): "no item has such a field",
    ("search", "a man", "--rerank=5"): "no matching head",
    ("search", "a man", "--language=zh"): "'zh' is not one of the model's",
    ("add", "nowhere"): "nowhere: no such folder or photo",
    ("add", "gs://bucket/photos"): "an address",
    ("add", "photos", "--meta", "floor"): "expected FIELD=VALUE",
    ("add", "photos", "--meta", "camera=x"): "has a meaning of its own",
    ("add", "photos", "--detect=yolo"): "--detect=yolo: expected none, nanodet",
    ("add", "photos", "--detect=file:boxs.csv"): "boxs.csv: no such boxes file",
    ("delete",): "say what to delete",
    ("delete", "--id=one"): "expected the numbers that `list` shows",
    ("reindex",): "--model",
    ("list", "--page=0"): "at least 1",
    ("serch", "a man"): "invalid choice: 'serch'",
}


@pytest.mark.parametrize("words", MISTAKES, ids=" ".join)
def test_mistakes_are_one_line_before_any_photo_is_read(command, monkeypatch, words):
    command("add", "photos", "--model=run")
    monkeypatch.setattr(Adder, "__call__", lambda *args: pytest.fail("photos were read"))
    printed = command(*words)
    assert MISTAKES[words] in printed and len(printed.splitlines()) == 1, printed


@pytest.mark.parametrize(
    "words", [("search", "a man"), ("list",), ("stats",), ("delete", "--id=1")]
)
def test_a_gallery_that_is_not_there_is_answered_with_the_near_name(command, words):
    command("add", "photos", "--model=run")
    assert "no such gallery; did you mean" in command(*words, gallery="my.galery")


def test_a_new_gallery_needs_a_model(command):
    assert "is new, so say which model" in command("add", "photos")


@pytest.mark.parametrize(
    "name", ["add", "search", "list", "delete", "reindex", "calibrate", "stats"]
)
def test_help_shows_a_call(name, capsys):
    with pytest.raises(SystemExit):
        main([name, "--help"])
    assert f"python -m tipr_jax.gallery {name}" in capsys.readouterr().out


@pytest.fixture
def labelled(place):
    """A data set in the official layout, whose test photos are drawn people."""
    from data_pipelines.synth_pedes.generate import generate

    generate(place / "data", "cuhk_pedes", train_ids=2, val_ids=4, test_ids=2, images_per_id=2)
    return "--root=data"


def test_calibrate(command, labelled):
    command("add", "photos", "--model=run")
    printed = command("calibrate", "--name=cuhk_pedes", labelled)
    assert "8 photos of cuhk_pedes val: AUC" in printed and "false alarms" in printed
    found = as_json(command("search", "a man", "--json", "--where", "path=*/a.png"))
    assert found["line"]["photos"] == 8 and 0 <= found["line"]["misses"] <= 1
    command("reindex", "--model=better")
    assert as_json(command("search", "a man", "--json"))["line"] is None


def test_an_answer_to_a_picture_has_no_line(command, labelled):
    command("add", "photos", "--model=run")
    command("calibrate", "--name=cuhk_pedes", labelled)
    for like in (["--like=photos/a.png"], ["a man", "--like=photos/a.png"]):
        assert as_json(command("search", *like, "--json"))["line"] is None


def test_an_approximate_answer_says_how_much_it_found(command):
    command("add", "photos", "--model=run")
    told = "approximate: 3 of the exact answer's 3 matches, recall 1.000"
    assert told in command("search", "a man", "--approximate")
    found = as_json(command("search", "a man", "--approximate", "--json"))
    assert told in found["notes"] and len(found["matches"]) == 3
    assert "recall" not in command("search", "a man")


def test_the_recall_of_what_was_found():
    matches = [Match(Item("", f"{n}.png", id=n), 0.5) for n in range(4)]
    assert commands._recall(matches[1:3], matches).endswith(
        "2 of the exact answer's 4 matches, recall 0.500"
    )
    assert commands._recall([], []).endswith("recall 1.000")


@pytest.mark.parametrize(("score", "place"), [(0.9, 0), (0.6, 1), (0.4, 2), (0.1, 3)])
def test_the_line_stands_where_scores_pass_it(capsys, score, place):
    matches = [Match(Item("", f"{n}.png", id=n), 0.7 - 0.2 * n) for n in range(3)]
    line = Line(score, 0.05, 0.4, auc=0.7, reliable=False, photos=400, data="val")
    commands._print_ranking(matches, 10, line, {})
    lines = capsys.readouterr().out.splitlines()
    assert [n for n, text in enumerate(lines) if text.startswith("---")] == [place][: place < 3]
    assert len([text for text in lines if ".png" in text]) == 3, "nothing is hidden"
    if place < 3:
        assert "5 % false alarms, 40 % misses; not reliable (AUC 0.70)" in lines[place]


@pytest.mark.parametrize(
    ("option", "words"),
    [("--false-alarms=5", "expected 0 to 1"), ("--rerank=4", "no matching head")],
)
def test_what_cannot_be_calibrated(command, labelled, option, words):
    command("add", "photos", "--model=run")
    assert words in command("calibrate", "--name=cuhk_pedes", labelled, option)
