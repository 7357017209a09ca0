"""The data check: counts, problems, exit status."""

import dataclasses
import json
import pathlib
import shutil

import pytest

from data_pipelines import check
from data_pipelines.datasets.layouts import LAYOUTS, NO_ENTRIES, Counts
from tipr_jax.preprocess import image as preprocess


@pytest.fixture
def root(write_layout) -> pathlib.Path:
    return write_layout("cuhk_pedes")


@pytest.fixture
def images(root) -> pathlib.Path:
    return root / "CUHK-PEDES" / "imgs"


def test_a_sound_data_set_passes(root, capsys):
    report = check.check_dataset("cuhk_pedes", str(root))
    assert report.ok
    assert report.counts == {"train": (5, 15, 20), "val": (2, 4, 6), "test": (2, 4, 6)}
    assert check.main(["--name=cuhk_pedes", f"--root={root}"]) == 0
    printed = capsys.readouterr().out
    assert "train          5       15        20\n" in printed
    assert printed.endswith("OK: no problems\n") and "published" not in printed


def test_every_problem_is_reported_and_fails_the_check(write_layout, tiny_entries, capsys):
    entries = tiny_entries("cuhk_pedes")
    root = write_layout("cuhk_pedes", entries)
    train = [entry["file_path"] for entry in entries if entry["split"] == "train"]
    test = [entry["file_path"] for entry in entries if entry["split"] == "test"]
    images = root / "CUHK-PEDES" / "imgs"
    (images / train[0]).unlink()
    (images / train[1]).write_bytes(b"")
    (images / train[2]).write_bytes(b"rubbish")
    with open(images / train[3], "r+b") as file:
        file.truncate(preprocess.MAX_BYTES + 1)
    shutil.copy(images / train[4], images / test[0])
    changed = [dict(entry) for entry in entries]
    changed[-1]["captions"] = [7]
    changed[-2]["captions"] = [" "]
    changed = [entry for entry in changed if entry["id"] != 4]
    write_layout("cuhk_pedes", changed, images=False)

    report = check.check_dataset("cuhk_pedes", str(root))
    assert {kind: len(found) for kind, found in report.problems.items()} == {
        "missing image": 1,
        "zero-byte image": 1,
        "undecodable image": 1,
        "oversized image": 1,
        "image in several splits": 1,
        "bad annotation entry": 1,
    }
    assert len(report.notes["persons are numbered anew"]) == 1
    assert len(report.notes["empty captions"]) == 1
    assert train[0] in report.problems["missing image"][0]
    assert test[0] in report.problems["image in several splits"][0]
    assert check.main(["--name=cuhk_pedes", f"--root={root}"]) == 1
    assert "FAILED: 6 problems" in capsys.readouterr().out


def test_duplicates_inside_a_split_and_shared_captions_are_notes(write_layout, tiny_entries):
    entries = tiny_entries("cuhk_pedes")
    train = [entry for entry in entries if entry["split"] == "train"]
    test = [entry for entry in entries if entry["split"] == "test"]
    test[0]["captions"] = train[0]["captions"]
    root = write_layout("cuhk_pedes", entries)
    images = root / "CUHK-PEDES" / "imgs"
    shutil.copy(images / train[0]["file_path"], images / train[1]["file_path"])
    report = check.check_dataset("cuhk_pedes", str(root))
    assert report.ok
    assert len(report.notes["image listed or stored twice"]) == 1
    shared = [f"test+train: {caption}" for caption in train[0]["captions"]]
    assert report.notes["caption in several splits"] == shared


def test_a_split_without_entries(write_layout, tiny_entries):
    for split in ("train", "test"):
        entries = [e for e in tiny_entries("cuhk_pedes") if e["split"] != split]
        report = check.check_dataset("cuhk_pedes", str(write_layout("cuhk_pedes", entries)))
        assert f"{split} has no sound entry" in report.problems["empty split"][0]


def test_one_image_under_two_persons(write_layout, tiny_entries):
    entries = tiny_entries("cuhk_pedes")
    one, other = [e for e in entries if e["split"] == "train" and e["id"] in (1, 2)][::5]
    other["file_path"] = one["file_path"]
    report = check.check_dataset("cuhk_pedes", str(write_layout("cuhk_pedes", entries)))
    (line,) = report.notes["image of several persons"]
    assert one["file_path"] in line and "ids 1, 2" in line


def test_captions_that_are_cut_are_counted_with_their_ends(write_layout, tiny_entries, capsys):
    entries = tiny_entries("cuhk_pedes")
    for number, entry in enumerate(entries[:3]):
        entry["captions"] = ["a man " * 40 + f"and hat {number}"]
    root = write_layout("cuhk_pedes", entries)
    assert check.main([f"--root={root}"]) == 0
    printed = capsys.readouterr().out
    assert "note: captions of more than 77 tokens: 3" in printed and "and hat 2" in printed


def test_long_lists_are_cut(root, images):
    for path in images.rglob("*.png"):
        path.unlink()
    report = check.check_dataset("cuhk_pedes", str(root))
    assert len(report.problems["missing image"]) == 23
    assert "... and 13 more" in str(report)


def test_published_counts_are_shown_beside_similar_ones(root, monkeypatch):
    published = {"train": Counts(5, 16, 20), "val": Counts(2, 4, 6), "test": Counts(2, 4, 6)}
    layout = dataclasses.replace(LAYOUTS["cuhk_pedes"], published=published)
    monkeypatch.setitem(LAYOUTS, "cuhk_pedes", layout)
    report = check.check_dataset("cuhk_pedes", str(root))
    assert report.ok and "counts differ from the published ones" in report.notes
    assert "5/16/20" in str(report)
    published["train"] = Counts(5, 15, 20)
    assert not check.check_dataset("cuhk_pedes", str(root)).notes


def test_languages_are_counted_one_by_one(write_languages, capsys):
    root = write_languages().parent
    report = check.check_dataset("cuhk_pedes", str(root), ("en", "zh"))
    assert report.ok and not report.notes
    assert report.counts == {
        "train en": (5, 15, 20), "train zh": (5, 15, 20), "val en": (2, 4, 6),
        "val zh": (2, 4, 6), "test en": (2, 4, 6), "test zh": (2, 4, 6),
    }  # fmt: skip
    for path in root.glob("*/val_*"):
        path.unlink()
    assert check.main(["--name=cuhk_pedes", f"--root={root}", "--languages=en,ch"]) == 0
    printed = capsys.readouterr().out
    assert "test zh          2        4         6\n" in printed and "val" not in printed


def test_every_misaligned_entry_is_reported(write_languages, capsys):
    directory = write_languages()
    path = directory / "train_reid_ch.json"
    entries = json.loads(path.read_text())
    entries[1]["id"] = 99
    entries[4]["file_path"], entries[5]["file_path"] = "x.png", "y.png"
    entries[7]["captions"] = []
    path.write_text(json.dumps(entries[:-1]))
    (directory / "imgs" / "cam_0" / "1_0.png").unlink()
    report = check.check_dataset("cuhk_pedes", str(directory.parent), ("en", "zh"))
    found = report.problems["bad entry, or not that of the source"]
    assert [line.split(",")[0].split("(")[0] for line in found] == [
        "train_reid_ch.json: entry 7: captions must be a list of at least one string",
        "train_reid_ch.json: has 14 entries",
        "train_reid_ch.json: entry 1: id is 99",
        "train_reid_ch.json: entry 4: file_path is 'x.png'",
        "train_reid_ch.json: entry 5: file_path is 'y.png'",
    ]
    assert len(report.problems["missing image"]) == 1
    assert report.counts["train zh"][1] == 13
    assert check.main([f"--root={directory.parent}", "--languages=en,zh"]) == 1
    assert "FAILED: 6 problems" in capsys.readouterr().out


def test_captions_without_a_counterpart_are_a_note(write_languages):
    directory = write_languages()
    path = directory / "test_reid_ch.json"
    entries = json.loads(path.read_text())
    entries[2]["captions"].append("one more")
    path.write_text(json.dumps(entries))
    report = check.check_dataset("cuhk_pedes", str(directory.parent), ("en", "zh"))
    (line,) = report.notes["captions of different number, the last ones unused"]
    assert report.ok and line.startswith("entry 2: ") and "in test_reid_ch.json" in line


def test_published_counts_of_languages(write_languages, monkeypatch):
    published = {"train": Counts(None, 15, 20), "val": NO_ENTRIES, "test": Counts(2, 4, 6)}
    layout = dataclasses.replace(LAYOUTS["ufine_bench"], published=published)
    monkeypatch.setitem(LAYOUTS, "ufine_bench", layout)
    directory = write_languages("ufine_bench")
    for path in directory.glob("val_*"):
        path.unlink()
    report = check.check_dataset("ufine_bench", str(directory.parent), ("en", "zh"))
    assert report.ok and not report.notes
    assert "train zh         5       15        20   -/15/20" in str(report)
    published["test"] = Counts(2, 4, 7)
    report = check.check_dataset("ufine_bench", str(directory.parent), ("en", "zh"))
    assert report.ok and "counts differ from the published ones" in report.notes


def test_a_missing_language_is_one_line_and_status_2(write_languages, capsys):
    root = write_languages().parent
    assert check.main([f"--root={root}", "--languages=en,fr"]) == 2
    error = capsys.readouterr().err
    assert "no train captions in fr" in error and error.count("\n") == 1


def test_no_data_set_is_one_line_and_status_2(tmp_path, capsys):
    assert check.main(["--name=rstp_reid", f"--root={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: RSTPReid not found") and error.count("\n") == 1
