"""Manifests as pairs for pre-training: cleaning, ids, errors."""

import pathlib

import numpy as np
import pytest

from data_pipelines.manifest.cleaning import clean_caption
from data_pipelines.manifest.pairs import load_pairs
from data_pipelines.synth_pedes.generate import generate


@pytest.mark.parametrize(
    ("caption", "want"),
    [
        ("<PERSON> and/or a well-known <person>'s dog!", "person and or a well known persons dog"),
        (' "So" (he; said): #1 *ok* ~?\n\tend ', "so he said 1 ok end"),
        (" ".join(f"w{i}" for i in range(60)), " ".join(f"w{i}" for i in range(50))),
    ],
)
def test_cleaning(caption, want):
    assert clean_caption(caption) == want


def test_every_caption_is_a_pair_whatever_ids_and_splits_say(write, tmp_path):
    rows = '"A man, walking.",Two!,a,test\n'
    first = write("file,caption,caption_2,person_id,split\nphotos/0.png," + rows)
    second = write('[{"image": "../photos/1.png", "caption": "Three"}]', "photos/list.json")
    split = load_pairs([first, second])
    assert split.name == "train" and split.num_persons == 3 and split.image_box is None
    assert split.image_path == (
        *2 * (str(tmp_path / "photos/0.png"),),
        str(tmp_path / "photos/1.png"),
    )
    assert split.caption == ("a man walking", "two", "three")
    for ids in (split.image_person_id, split.caption_image_id, split.caption_person_id):
        assert ids.dtype == np.int32 and ids.tolist() == [0, 1, 2]
    elsewhere = load_pairs([second], image_root=str(tmp_path / "photos"))
    assert elsewhere.image_path == (str(tmp_path / "photos/1.png"),)


def test_what_cannot_be_a_pair(write, lines):
    path = write("file,caption\n" + lines(3) + "photos/5.png,?!\n")
    with pytest.raises(ValueError, match="line 5: nothing is left of caption '\\?!' after"):
        load_pairs([path])
    with pytest.raises(ValueError, match="line 2: .*nothing.png: no such file"):
        load_pairs([write("file,caption\nnothing.png,x\n")])
    with pytest.raises(FileNotFoundError, match="none.json: no such manifest"):
        load_pairs([path.replace("manifest.csv", "none.json")])


@pytest.mark.parametrize("layout", ["cuhk_pedes", "rstp_reid"])
def test_generated_list(tmp_path, layout):
    directory = generate(tmp_path, layout, train_ids=2, val_ids=1, test_ids=1, height=64)
    split = load_pairs([str(directory / "pretrain.json")])
    assert len(split.caption) == 2 * (8 if layout == "cuhk_pedes" else 10)
    assert all(pathlib.Path(path).is_file() for path in split.image_path)
