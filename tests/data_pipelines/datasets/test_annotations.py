"""Reading the official annotation files, and what is said about wrong ones."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines.datasets import annotations


def test_dtypes_and_empty_split(write_layout, tiny_entries):
    entries = [entry for entry in tiny_entries("icfg_pedes") if entry["split"] != "val"]
    splits = annotations.load_dataset("icfg_pedes", str(write_layout("icfg_pedes", entries)))
    for split in splits.values():
        assert split.image_person_id.dtype == split.caption_image_id.dtype == np.int32
    assert splits["val"].image_path == () and splits["val"].num_persons == 0


@pytest.mark.parametrize(
    "spelling, split",
    [("Train", "train"), (" TEST", "test"), ("dev", "val"), ("Validation", "val"), ("Val", "val")],
)
def test_usual_spellings_of_splits(write_layout, tiny_entries, spelling, split, caplog):
    """The released IRRA takes every word but train and test for val."""
    entries = [
        e | {"split": {split: spelling}.get(e["split"], e["split"])}
        for e in tiny_entries("rstp_reid")
    ]
    splits = annotations.load_dataset("rstp_reid", str(write_layout("rstp_reid", entries)))
    plain = annotations.load_dataset("rstp_reid", str(write_layout("rstp_reid")))
    assert splits[split].image_path == plain[split].image_path
    assert f"splits called {spelling!r} are read as {split!r}" in caplog.text


def test_an_unknown_split_is_refused(write_layout, tiny_entries):
    entries = [entry | {"split": "holdout"} for entry in tiny_entries("rstp_reid")]
    root = write_layout("rstp_reid", entries, images=False)
    message = error_of(ValueError, "rstp_reid", root)
    assert "entry 0: split must be one of train, val, test, found 'holdout'" in message


def test_paths_captions_and_encodings_of_other_tools(write_layout, tiny_entries, caplog):
    """A byte order mark, back-slashes and captions as strings; each is told once."""
    plain = tiny_entries("cuhk_pedes")
    for entry in plain:
        entry["captions"] = entry["captions"][:1]
    expected = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes", plain)))
    entries = [
        entry
        | {"file_path": entry["file_path"].replace("/", "\\"), "captions": entry["captions"][0]}
        for entry in plain
    ]
    root = write_layout("cuhk_pedes", plain)
    file = root / "CUHK-PEDES" / "reid_raw.json"
    file.write_text(json.dumps(entries), encoding="utf-8-sig")
    found = annotations.load_dataset("cuhk_pedes", str(root))
    for split in expected:
        assert found[split].image_path == expected[split].image_path
        assert found[split].caption == expected[split].caption
    assert f"{len(plain)} paths with" in caplog.text and "captions are a string" in caplog.text
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "encoding, named",
    [
        ("utf-16", "UTF-16"),
        ("utf-32", "UTF-32"),
        ("gbk", "not encoded in UTF-8"),
        ("latin-1", "UTF-8"),
    ],
)
def test_another_encoding_is_named(write_layout, tiny_entries, encoding, named):
    root = write_layout("cuhk_pedes", images=False)
    text = json.dumps(tiny_entries("cuhk_pedes"), ensure_ascii=False)
    text = text.replace("person", "男子" if encoding != "latin-1" else "garçon")
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(text, encoding=encoding)
    message = error_of(ValueError, "cuhk_pedes", root)
    assert named in message and "save it as UTF-8" in message


def test_icfg_is_found_under_both_file_names(write_layout):
    root = write_layout("icfg_pedes")
    directory = root / "ICFG-PEDES"
    (directory / "ICFG-PEDES.json").rename(directory / "ICFG_PEDES.json")
    assert len(annotations.load_dataset("icfg_pedes", str(root))["train"].image_path) == 15


def error_of(kind: type[Exception], name: str, root: pathlib.Path) -> str:
    with pytest.raises(kind) as caught:
        annotations.load_dataset(name, str(root))
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_missing_root_says_where_to_get_the_data(tmp_path):
    message = error_of(FileNotFoundError, "cuhk_pedes", tmp_path / "nowhere")
    for part in (
        str(tmp_path / "nowhere" / "CUHK-PEDES"),
        "https://github.com/ShuangLI59/",
        "--config.data.root",
        "$TIPR_DATA",
        ":quickstart",
    ):
        assert part in message


def test_root_that_is_the_data_set_itself(write_layout):
    root = write_layout("cuhk_pedes")
    message = error_of(FileNotFoundError, "cuhk_pedes", root / "CUHK-PEDES")
    assert "pass the directory above it" in message


def test_missing_image_directory(tmp_path):
    (tmp_path / "RSTPReid").mkdir()
    message = error_of(FileNotFoundError, "rstp_reid", tmp_path)
    assert f"expected {tmp_path}/RSTPReid/imgs" in message


def test_missing_annotation_file(tmp_path):
    (tmp_path / "ICFG-PEDES" / "imgs").mkdir(parents=True)
    message = error_of(FileNotFoundError, "icfg_pedes", tmp_path)
    assert "ICFG-PEDES.json or " in message and "ICFG_PEDES.json" in message


def test_unknown_name(tmp_path):
    assert "use one of cuhk_pedes, icfg" in error_of(ValueError, "cuhk", tmp_path)


@pytest.mark.parametrize("content", ["", '[{"split": "train", "id": 1, "file_p', "\x00\x01"])
def test_truncated_or_damaged_json(write_layout, content):
    root = write_layout("cuhk_pedes")
    (root / "CUHK-PEDES" / "reid_raw.json").write_text(content)
    message = error_of(ValueError, "cuhk_pedes", root)
    assert "reid_raw.json: not valid JSON" in message and "truncated or damaged" in message


@pytest.mark.parametrize("entries", [{"images": []}, [], 3])
def test_json_that_is_not_a_list_of_entries(write_layout, entries):
    root = write_layout("cuhk_pedes", entries, images=False)
    assert "expected a JSON list" in error_of(ValueError, "cuhk_pedes", root)


def test_annotation_file_of_another_data_set(write_layout, tiny_entries):
    root = write_layout("cuhk_pedes", tiny_entries("rstp_reid"), images=False)
    message = error_of(ValueError, "cuhk_pedes", root)
    assert "that of RSTPReid" in message and "--config.data.name=rstp_reid" in message


def train_ids_of(root, name="cuhk_pedes"):
    return annotations.load_dataset(name, str(root))["train"].image_person_id.tolist()


@pytest.mark.parametrize(
    "rename, told",
    [
        (lambda person: person - 1, "0 comes where 1 should"),
        (lambda person: person * 10, "10 comes where 1 should"),
        (lambda person: person + (person > 3), "5 comes where 4 should"),
        (str, "ids are numbers in quotes"),
        (lambda person: f"p_{person:04}", "person ids are names"),
        (lambda person: f"p_{person}" if person > 2 else person, "person ids are names"),
    ],
    ids=["from zero", "gaps", "one gap", "quotes", "names", "mixed"],
)
def test_ids_of_other_tools(write_layout, tiny_entries, caplog, rename, told):
    """The persons stay who they are; only their numbers change, and a line says so."""
    expected = train_ids_of(write_layout("cuhk_pedes"))
    entries = [entry | {"id": rename(entry["id"])} for entry in tiny_entries("cuhk_pedes")]
    assert train_ids_of(write_layout("cuhk_pedes", entries)) == expected
    assert told in caplog.text
    splits = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes", entries)))
    assert splits["test"].num_persons == splits["val"].num_persons == 2


def test_cuhk_file_under_the_name_of_icfg(write_layout, tiny_entries, caplog):
    train_ids_of(write_layout("icfg_pedes", tiny_entries("cuhk_pedes"), images=False), "icfg_pedes")
    assert "if this is another data set, set --config.data.name" in caplog.text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"id": " "}, "id must be an integer, found ' '"),
        ({"id": 7.0}, "id must be an integer, found 7.0"),
        ({"id": True}, "id must be an integer"),
        ({"id": -1}, "id -1 is outside"),
        ({"id": 2**40}, "is outside 0 .. 2**31 - 1"),
        ({"split": 1}, "split must be one of train, val, test, found 1"),
        ({"captions": {"en": "a man"}}, "captions must be a list"),
        ({"captions": []}, "captions must be a list of at least one string"),
        ({"captions": ["ok", "\ud83d half"]}, "caption 1 has no whole character at place 0"),
        ({"file_path": "\ud83d.png"}, "cannot be the name of a file"),
        ({"captions": [None]}, "caption 0 must be a string"),
        ({"file_path": 5}, "file_path must be a path"),
        ({"file_path": ""}, "file_path must be a path"),
        ({"file_path": "a\0.png"}, "file_path must be a path"),
        ({"file_path": "/etc/passwd"}, "leaves imgs/"),
        ({"file_path": "cam/../../x.png"}, "leaves imgs/"),
        ({"file_path": "..\\x.png"}, "leaves imgs/"),
        ({"file_path": "C:\\x.png"}, "leaves imgs/"),
    ],
)
def test_bad_entry_is_named(write_layout, tiny_entries, change, expected):
    entries = tiny_entries("cuhk_pedes")
    entries[4] |= change
    message = error_of(ValueError, "cuhk_pedes", write_layout("cuhk_pedes", entries, images=False))
    assert "reid_raw.json: entry 4: " in message and expected in message


def test_empty_captions_are_counted_or_refused(write_layout, tiny_entries, caplog):
    entries = tiny_entries("cuhk_pedes")
    entries[4]["captions"] = ["ok", " \n"]
    root = str(write_layout("cuhk_pedes", entries, images=False))
    splits = annotations.load_dataset("cuhk_pedes", root)
    assert "1 captions are empty and kept (first: entry 4: caption 1 is empty)" in caplog.text
    assert " \n" in [caption for split in splits.values() for caption in split.caption]
    with pytest.raises(ValueError, match="reid_raw.json: entry 4: caption 1 is empty"):
        annotations.load_dataset("cuhk_pedes", root, empty_captions="error")
    with pytest.raises(ValueError, match="empty_captions is 'drop'"):
        annotations.load_dataset("cuhk_pedes", root, empty_captions="drop")


def test_entry_that_is_not_an_object(write_layout):
    root = write_layout("cuhk_pedes", [["train", 1]], images=False)
    assert "entry 0: expected an object" in error_of(ValueError, "cuhk_pedes", root)


def test_entry_without_captions(write_layout, tiny_entries):
    entries = tiny_entries("cuhk_pedes")
    del entries[0]["captions"]
    root = write_layout("cuhk_pedes", entries, images=False)
    assert "entry 0: has no 'captions'" in error_of(ValueError, "cuhk_pedes", root)
