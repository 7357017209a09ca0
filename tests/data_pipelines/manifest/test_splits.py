"""People drawn into splits: by person, by content alone, in shares."""

import random

import pytest

from data_pipelines.manifest.load import load_manifest, read_manifest


def manifest_of(people: list[str], seed: int = 0) -> str:
    rows = [f"photos/{i}.png,Number {i}.,{person}\n" for i, person in enumerate(people)]
    random.Random(seed).shuffle(rows)
    return "file,caption,person_id\n" + "".join(rows)


def split_of_person(path: str) -> dict[str, str]:
    return {
        picture.person or picture.path: picture.split for picture in read_manifest(path).pictures
    }


def test_all_photos_of_a_person_are_in_one_split_and_shares_hold(write):
    path = write(manifest_of([f"p{i % 6}" for i in range(12)]))
    splits = load_manifest(path)
    assert [splits[name].num_persons for name in ("train", "val", "test")] == [4, 1, 1]
    assert [len(splits[name].image_path) for name in ("train", "val", "test")] == [8, 2, 2]
    (told,) = read_manifest(path).findings.notes[
        "no column split: people are drawn, by a hash of their names"
    ]
    assert told == "4 of 6 people to train, 1 to val, 1 to test; the same each time"


@pytest.mark.parametrize("people", [[f"p{i}" for i in range(12)], [""] * 12])
def test_the_draw_depends_on_the_people_alone(people, write, tmp_path):
    first = split_of_person(write(manifest_of(people, 0)))
    other = split_of_person(write(manifest_of(people, 1).replace("Number", "Somebody"), "b.csv"))
    assert first == other and len(set(first.values())) == 3


def test_three_people_are_enough(write):
    splits = load_manifest(write(manifest_of(["a", "b", "c", "a"])))
    assert [split.num_persons for split in splits.values()] == [1, 1, 1]


def test_another_folder_with_the_same_photos_draws_alike(write, tmp_path):
    path = write(manifest_of([""] * 12))
    here = [picture.split for picture in read_manifest(path).pictures]
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "photos").rename(moved / "photos")
    (tmp_path / "manifest.csv").rename(moved / "manifest.csv")
    assert here == [picture.split for picture in read_manifest(str(moved)).pictures]


def test_given_splits_stay_and_an_evaluation_without_val_is_possible(write):
    rows = "photos/0.png,x,train\nphotos/1.png,y,test\n"
    splits = load_manifest(write("file,caption,split\n" + rows))
    assert [len(split.caption) for split in splits.values()] == [1, 0, 1]
