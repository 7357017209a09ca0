"""Large manifests: what is kept of a row, and how the work grows with the rows."""

import sys
import tracemalloc

import pytest

from data_pipelines.manifest.load import load_manifest


def write_many(folder, rows: int) -> str:
    """A manifest of `rows` rows over 100 photos (empty files), one caption each."""
    (folder / "p").mkdir(exist_ok=True)
    for number in range(100):
        (folder / "p" / f"{number}.jpg").touch()
    path = folder / f"{rows}.csv"
    with open(path, "w") as file:
        file.write("file,caption,person_id,split,box\n")
        for row in range(rows):
            split = ("train", "train", "val", "test")[row // 4 % 4]
            file.write(f"p/{row % 100}.jpg,A man with {row} bags.,id{row},{split},\n")
    return str(path)


def test_different_people_of_one_photo_are_problems_not_time(tmp_path):
    path = write_many(tmp_path, 2000)
    with pytest.raises(ValueError, match=r"line 102: person_id is 'id100', .* \(and 1899 more"):
        load_manifest(path)


def calls_of(path: str) -> int:
    """How many functions of Python a load calls."""
    count = 0

    def profile(frame, event, argument) -> None:
        nonlocal count
        count += event == "call"

    sys.setprofile(profile)
    try:
        load_manifest(path)
    finally:
        sys.setprofile(None)
    return count


def write_distinct(folder, rows: int) -> str:
    (folder / "p").mkdir(exist_ok=True)
    path = folder / f"{rows}.csv"
    with open(path, "w") as file:
        file.write("file,caption,person_id\n")
        for row in range(rows):
            (folder / "p" / f"{row}.jpg").touch()
            file.write(f"p/{row}.jpg,A man with {row} bags and a long red coat.,id{row // 4}\n")
    return str(path)


def test_work_and_memory_grow_with_the_rows_alone(tmp_path):
    small, large = (write_distinct(tmp_path, rows) for rows in (1000, 4000))
    assert calls_of(large) < 4.2 * calls_of(small)
    assert calls_of(large) < 40 * 4000
    tracemalloc.start()
    splits = load_manifest(large)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sum(len(split.caption) for split in splits.values()) == 4000
    assert peak < 2000 * 4000  # bytes a row, so that a million stay below 2 GB
