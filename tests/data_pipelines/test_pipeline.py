"""Batches of numpy arrays from files."""

import itertools
import pathlib
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from machine import HANGS

from data_pipelines import pipeline
from data_pipelines.datasets import annotations  # noqa: E402
from tipr_jax import batch as batch_contract  # noqa: E402
from tipr_jax.preprocess import image as preprocess  # noqa: E402


def tokenizer(texts, length):
    """Stands in for the real one: character codes."""
    ids = np.zeros((len(texts), length), np.int32)
    for row, text in zip(ids, texts, strict=True):
        codes = [ord(letter) for letter in text[-length:]]
        row[: len(codes)] = codes
    return ids


@pytest.fixture
def splits(write_layout):
    return annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes")))


def train_batches(split, data_cfg, count, **options):
    iterator = pipeline.make_train_iter(split, tokenizer, data_cfg, seed=3, **options)
    return list(itertools.islice(iterator, count))


def assert_equal(batches, expected):
    assert len(batches) == len(expected)
    for batch, want in zip(batches, expected, strict=True):
        assert batch.keys() == want.keys()
        for key in want:
            np.testing.assert_array_equal(batch[key], want[key], err_msg=key)


@pytest.mark.parametrize("cache", [False, True])
def test_train_batches_keep_the_contract(splits, data_cfg, cache):
    data_cfg.cache = cache
    split = splits["train"]
    assert pipeline.steps_per_epoch(split, data_cfg) == 5  # 20 captions
    seen = []
    for batch in train_batches(split, data_cfg, 5):
        batch_contract.validate(batch, batch_contract.abstract_batch(4, (16, 8), 6))
        for row in range(4):
            image_id, person = batch["image_id"][row], batch["person_id"][row]
            assert person == split.image_person_id[image_id]
            pixels = preprocess.decode(split.image_path[image_id])
            np.testing.assert_array_equal(batch["image"][row], preprocess.resize(pixels, (16, 8)))
            captions = [
                split.caption[i] for i in np.flatnonzero(split.caption_image_id == image_id)
            ]
            assert batch["text_ids"][row].tolist() in tokenizer(captions, 6).tolist()
            seen.append((image_id, tuple(batch["text_ids"][row])))
        assert batch["valid"].all()
    every = zip(split.caption_image_id, map(tuple, tokenizer(split.caption, 6)), strict=True)
    assert sorted(seen) == sorted(every)


def test_every_epoch_has_the_same_rows_in_another_order(splits, data_cfg):
    batches = train_batches(splits["train"], data_cfg, 10)
    first, second = (
        np.concatenate([batch["image_id"] for batch in half]) for half in (batches[:5], batches[5:])
    )
    assert sorted(first) == sorted(second)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("sampler", ["random", "identity"])
def test_resuming_equals_the_uninterrupted_stream(splits, data_cfg, sampler):
    data_cfg.sampler = sampler
    whole = train_batches(splits["train"], data_cfg, 12)
    assert_equal(train_batches(splits["train"], data_cfg, 5, start_step=7), whole[7:])


def test_rows_are_read_in_the_order_asked_for(splits, data_cfg):
    whole = train_batches(splits["train"], data_cfg, 6)
    rows = np.array([3, 0, 1])
    some = train_batches(splits["train"], data_cfg, 6, rows=rows)
    assert_equal(some, [{key: value[rows] for key, value in batch.items()} for batch in whole])


@pytest.mark.parametrize("cache", [False, True])
def test_drawn_columns_are_told_row_epoch_and_place(splits, data_cfg, cache):
    data_cfg.cache, data_cfg.batch_size = cache, 8  # 3 steps per epoch, 4 rows of padding

    def drawn(rows, epoch, places):
        return {"row": rows, "epoch": np.full(len(rows), epoch), "place": places}

    options = dict(start_step=2, rows=np.array([5, 0, 7]), drawn=drawn)
    batches = train_batches(splits["train"], data_cfg, 3, **options)
    assert [batch["place"].tolist() for batch in batches] == [[21, 16, 23], [5, 0, 7], [13, 8, 15]]
    assert [batch["epoch"].tolist() for batch in batches] == [[0] * 3, [1] * 3, [1] * 3]
    assert batches[0]["row"][[0, 2]].tolist() == [-1, -1]
    split = splits["train"]
    for batch in batches:
        here = batch["valid"]
        image_id = split.caption_image_id[batch["row"][here]]
        np.testing.assert_array_equal(image_id, batch["image_id"][here])


def test_padding_rows_are_marked(splits, data_cfg):
    data_cfg.batch_size = 8  # 20 captions: the third batch has 4 rows
    last = train_batches(splits["train"], data_cfg, 3)[-1]
    assert last["valid"].tolist() == [True] * 4 + [False] * 4
    for key, value in (("person_id", -1), ("image_id", -1), ("text_ids", 0), ("image", 0)):
        assert (last[key][4:] == value).all()
        assert (last[key][:4] != value).any()


@pytest.mark.parametrize("sampler", ["random", "identity"])
def test_the_cache_gives_the_batches_of_tf_data(splits, data_cfg, sampler):
    data_cfg.sampler, data_cfg.batch_size = sampler, 6  # 20 captions: a padded batch
    readers = {
        "train": lambda: train_batches(splits["train"], data_cfg, 9, start_step=2),
        "gallery": lambda: list(pipeline.make_image_iter(splits["test"], data_cfg, 3)),
    }
    from_files = {name: read() for name, read in readers.items()}
    data_cfg.cache = True
    for name, read in readers.items():
        assert_equal(read(), from_files[name])


def test_batches_from_the_cache_are_the_caller_s_own(splits, data_cfg):
    data_cfg.cache = True
    expected = train_batches(splits["train"], data_cfg, 12)
    iterator = pipeline.make_train_iter(splits["train"], tokenizer, data_cfg, seed=3)
    kept = []
    for batch in itertools.islice(iterator, 12):
        kept.append({key: column.copy() for key, column in batch.items()})
        for column in batch.values():
            column[...] = 0
    assert_equal(kept, expected)


def test_the_cache_prepares_only_a_few_batches_ahead(splits, data_cfg, monkeypatch):
    data_cfg.cache = True
    asked = []
    real = pipeline.epoch_batches
    monkeypatch.setattr(
        pipeline, "epoch_batches", lambda *args: asked.append(args[-1]) or real(*args)
    )
    iterator = pipeline.make_train_iter(splits["train"], tokenizer, data_cfg, seed=3)
    next(iterator)
    time.sleep(0.2)
    assert set(asked) == {0}  # of an endless stream, with five batches an epoch


def test_image_iter_visits_every_image_in_order(splits, data_cfg):
    split = splits["train"]
    batches = list(pipeline.make_image_iter(split, data_cfg, 4))
    valid = np.concatenate([batch["valid"] for batch in batches])
    assert len(batches) == 4 and valid.tolist() == [True] * 15 + [False]
    image_id = np.concatenate([batch["image_id"] for batch in batches])[valid]
    assert image_id.tolist() == list(range(15))
    person_id = np.concatenate([batch["person_id"] for batch in batches])[valid]
    np.testing.assert_array_equal(person_id, split.image_person_id)
    image = np.concatenate([batch["image"] for batch in batches])
    last = preprocess.resize(preprocess.decode(split.image_path[14]), (16, 8))
    np.testing.assert_array_equal(image[14], last)


def test_text_iter_visits_every_caption_in_order(splits, data_cfg):
    split = splits["test"]
    halves = [
        list(pipeline.make_text_iter(split, tokenizer, data_cfg, 4, rows=rows))
        for rows in (np.arange(2), np.arange(2, 4))
    ]
    assert [len(half) for half in halves] == [2, 2] and len(split.caption) == 6
    batches = [half[i] for i in range(2) for half in halves]
    text_ids = np.concatenate([batch["text_ids"] for batch in batches])
    np.testing.assert_array_equal(text_ids[:6], tokenizer(split.caption, 6))
    assert np.concatenate([batch["valid"] for batch in batches]).sum() == 6
    person_id = np.concatenate([batch["person_id"] for batch in batches])[:6]
    np.testing.assert_array_equal(person_id, split.caption_person_id)


def test_evaluation_iterators_of_an_empty_split_are_empty(splits, data_cfg, write_layout):
    entries = [{"split": "train", "id": 1, "file_path": "cam_0/1_0.png", "captions": ["only one"]}]
    empty = annotations.load_dataset("cuhk_pedes", str(write_layout("cuhk_pedes", entries)))["val"]
    assert list(pipeline.make_image_iter(empty, data_cfg, 4)) == []
    assert list(pipeline.make_text_iter(empty, tokenizer, data_cfg, 4)) == []


def bomb() -> bytes:
    """A bitmap header of 20000 x 20000 pixels."""
    header = b"BM" + (54).to_bytes(4, "little") + bytes(4) + (54).to_bytes(4, "little")
    size = (20000).to_bytes(4, "little")
    return header + (40).to_bytes(4, "little") + size * 2 + b"\1\0\x18\0" + bytes(24)


@pytest.mark.parametrize("cache", [False, True])
@pytest.mark.parametrize(
    ("content", "kind", "message"),
    [
        (None, FileNotFoundError, "no such image file"),
        (b"", ValueError, "empty image file"),
        (b"\xff\xd8\xff rubbish", ValueError, "not a readable image"),
        (bomb(), ValueError, "use a smaller image"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_a_bad_image_is_an_error_that_names_the_file(
    splits, data_cfg, content, kind, message, cache
):
    data_cfg.cache = cache
    path = pathlib.Path(splits["train"].image_path[6])
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(kind) as caught:
        train_batches(splits["train"], data_cfg, 5)
    assert str(caught.value).startswith(f"{path}: ") and message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cache", [False, True])
def test_allow_truncated_accepts_a_file_that_ends_early(splits, data_cfg, cache):
    data_cfg.cache = cache
    path = pathlib.Path(splits["train"].image_path[6])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="damaged image"):
        train_batches(splits["train"], data_cfg, 5)
    data_cfg.allow_truncated = True
    assert len(train_batches(splits["train"], data_cfg, 5)) == 5


@pytest.mark.parametrize("cache", [False, True])
def test_a_program_ends_with_an_iterator_still_prefetching(splits, data_cfg, write_layout, cache):
    data_cfg.cache = cache
    root = write_layout("cuhk_pedes")
    program = f"""
import types, numpy as np
from data_pipelines import pipeline
from data_pipelines.datasets import annotations
split = annotations.load_dataset("cuhk_pedes", {str(root)!r})["train"]
tokenizer = lambda texts, length: np.zeros((len(texts), length), np.int32)
iterator = pipeline.make_train_iter(
    split, tokenizer, types.SimpleNamespace(**{vars(data_cfg)!r}), seed=0
)
print(len(next(iterator)["image"]))
"""
    repository = pathlib.Path(pipeline.__file__).parents[1]
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=repository,
        capture_output=True,
        text=True,
        timeout=HANGS,
    )
    assert (done.returncode, done.stdout) == (0, "4\n"), done.stderr
    assert "Exception ignored" not in done.stderr
