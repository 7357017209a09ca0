"""Lists of image-text pairs for pre-training: cleaning, ids, errors."""

import json
import pathlib

import numpy as np
import pytest

from data_pipelines.datasets import image_text_pairs
from data_pipelines.synth_pedes.generate import generate

PAIR = {"image": "a/1.jpg", "caption": "A man, walking."}


@pytest.fixture
def write(tmp_path):
    def write(content, name="list.json"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


@pytest.mark.parametrize(
    ("caption", "want"),
    [
        ("<PERSON> and/or a well-known <person>'s dog!", "person and or a well known persons dog"),
        (' "So" (he; said): #1 *ok* ~?\n\tend ', "so he said 1 ok end"),
        (" ".join(f"w{i}" for i in range(60)), " ".join(f"w{i}" for i in range(50))),
    ],
)
def test_cleaning(caption, want):
    assert image_text_pairs.clean_caption(caption) == want


def test_several_lists_become_one_split(write, tmp_path):
    first = write([PAIR, PAIR])
    second = write([{"image": "2.jpg", "caption": "Two"}], "other/list.json")
    split = image_text_pairs.load_image_text_pairs([first, second])
    assert split.name == "train" and split.num_persons == 3
    assert split.image_path == (
        *2 * (str(tmp_path / "a/1.jpg"),),
        str(tmp_path / "other" / "2.jpg"),
    )
    assert split.caption == ("a man walking", "a man walking", "two")
    for ids in (split.image_person_id, split.caption_image_id, split.caption_person_id):
        assert ids.dtype == np.int32 and ids.tolist() == [0, 1, 2]
    elsewhere = image_text_pairs.load_image_text_pairs([second], image_root="/photos")
    assert elsewhere.image_path == ("/photos/2.jpg",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "not valid JSON"),
        ([], "found an empty list"),
        ({"train": []}, "expected a JSON list of annotation entries, found dict"),
        ([PAIR, "x"], "entry 1: expected an object with image and caption, found str"),
        ([{"image": "x.jpg"}], "entry 0: has no 'caption'"),
        ([PAIR, {"file_path": "x.jpg", "caption": "x"}], "entry 1: has no 'image'"),
        ([PAIR | {"caption": ["x"]}], r"entry 0: caption must be a string, found \['x'\]"),
        ([PAIR | {"caption": "?!"}], "entry 0: nothing is left of caption '\\?!'"),
        ([PAIR | {"image": 3}], "entry 0: image must be a path relative to .*, found 3"),
        ([PAIR | {"image": "/etc/x.jpg"}], "entry 0: image '/etc/x.jpg' leaves"),
        ([PAIR | {"image": "../x.jpg"}], "entry 0: image '../x.jpg' leaves"),
    ],
)
def test_bad_lists(write, content, message):
    path = write(content)
    with pytest.raises(ValueError, match=message) as error:
        image_text_pairs.load_image_text_pairs([path])
    assert str(error.value).startswith(path) and "\n" not in str(error.value)


def test_missing_lists(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.json does not exist"):
        image_text_pairs.load_image_text_pairs([tmp_path / "nothing.json"])
    with pytest.raises(ValueError, match="no pre-training list given"):
        image_text_pairs.load_image_text_pairs([])


@pytest.mark.parametrize("layout", ["cuhk_pedes", "rstp_reid"])
def test_generated_list(tmp_path, layout):
    directory = generate(tmp_path, layout, train_ids=2, val_ids=1, test_ids=1, height=64)
    split = image_text_pairs.load_image_text_pairs([directory / "pretrain.json"])
    assert len(split.caption) == 2 * (8 if layout == "cuhk_pedes" else 10)
    assert all(pathlib.Path(path).is_file() for path in split.image_path)
