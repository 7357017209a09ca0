"""Captions exchanged on purpose: the released pairs, a copy that every reader reads, mistakes."""

import json
from pathlib import Path

import numpy as np
import pytest

from data_pipelines import noise
from data_pipelines.check import check_dataset
from data_pipelines.datasets.annotations import load_dataset


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("count", [0, 1, 7, 1000])
def test_index_is_an_exchange(rate, count):
    index = noise.caption_index(count, rate, seed=4)
    np.testing.assert_array_equal(np.sort(index), np.arange(count))
    moved = np.count_nonzero(index != np.arange(count))
    assert moved <= int(rate * count)
    if count == 1000 and rate:
        assert moved > 0.95 * rate * count
    np.testing.assert_array_equal(index, noise.caption_index(count, rate, seed=4))


def test_seeds_differ():
    one, two = (noise.caption_index(100, 0.5, seed) for seed in (1, 2))
    assert np.any(one != two)


def run(root: Path, output: Path, *more: str) -> int:
    return noise.main([f"--root={root}", f"--output={output}", *more])


def test_copy_holds_the_exchanged_captions(tiny_root, tmp_path, capsys):
    assert run(tiny_root, tmp_path / "copy", "--rate=0.5") == 0
    directory = tmp_path / "copy" / "CUHK-PEDES"
    index = np.load(directory / noise.INDEX)
    old, new = (load_dataset("cuhk_pedes", str(r)) for r in (tiny_root, tmp_path / "copy"))
    assert new["train"].caption == tuple(old["train"].caption[i] for i in index)
    moved = np.count_nonzero(index != np.arange(len(index)))
    assert (
        0 < moved <= len(index) // 2 and f"{moved:,} of {len(index):,}" in capsys.readouterr().out
    )
    for split in ("train", "val", "test"):
        np.testing.assert_array_equal(old[split].image_person_id, new[split].image_person_id)
        np.testing.assert_array_equal(old[split].caption_image_id, new[split].caption_image_id)
    for split in ("val", "test"):
        assert old[split].caption == new[split].caption
    assert check_dataset("cuhk_pedes", str(tmp_path / "copy")).ok


def test_stored_index_gives_the_same_copy(tiny_root, tmp_path):
    run(tiny_root, tmp_path / "a", "--rate=0.4", "--seed=9")
    stored = tmp_path / "a" / "CUHK-PEDES" / noise.INDEX
    run(tiny_root, tmp_path / "b", f"--index={stored}")
    files = [tmp_path / name / "CUHK-PEDES" / "reid_raw.json" for name in "ab"]
    assert files[0].read_bytes() == files[1].read_bytes()


def test_processed_tokens_do_not_stay():
    entries = [
        {"split": split, "captions": ["a b"], "processed_tokens": [["a", "b"]], "id": 1}
        for split in ("train", "val")
    ]
    train, val = noise.exchange(entries, np.array([0]))
    assert "processed_tokens" not in train and "processed_tokens" in val
    assert "processed_tokens" in entries[0]


def save(path: Path, values) -> Path:
    np.save(path, values)
    return path


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["--rate=1.5"], "between 0 and 1"),
        (["--rate=nan"], "between 0 and 1"),
        (["--index=short.npy"], "the index has 3 numbers, but the train split has"),
        (["--index=twice.npy"], "each once"),
        (["--index=table.npy"], "each once"),
        (["--index=text.npy"], "is not an .npy file"),
        (["--index=none.npy"], "none.npy"),
        (["--rate=0.5", "--name=icfg_pedes"], "ICFG-PEDES not found"),
        (["--rate=0.5", "--name=ufine_bench"], "UFineBench"),
    ],
)
def test_mistakes_are_one_line(tiny_root, tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "short.npy", np.arange(3))
    save(tmp_path / "twice.npy", np.array([0, 0, 1]))
    save(tmp_path / "table.npy", np.zeros((2, 2)))
    (tmp_path / "text.npy").write_text("0 1 2")
    assert run(tiny_root, tmp_path / "copy", *arguments) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not list((tmp_path / "copy").glob("**/*"))  # nothing half-written stays


def test_an_existing_copy_is_kept(tiny_root, tmp_path, capsys):
    run(tiny_root, tmp_path, "--rate=0.5")
    before = (tmp_path / "CUHK-PEDES" / "reid_raw.json").read_bytes()
    assert run(tiny_root, tmp_path, "--rate=0.2") == 2
    assert "exists and is kept" in capsys.readouterr().err
    assert (tmp_path / "CUHK-PEDES" / "reid_raw.json").read_bytes() == before


def test_the_data_set_itself_is_not_overwritten(tiny_root, capsys):
    before = json.loads((tiny_root / "CUHK-PEDES" / "reid_raw.json").read_text())
    assert run(tiny_root, tiny_root, "--rate=0.5") == 2
    assert json.loads((tiny_root / "CUHK-PEDES" / "reid_raw.json").read_text()) == before
