"""Which vocabulary a run gets, and which ones do not fit its model."""

import numpy as np
import pytest

from data_pipelines.datasets.split import Split
from data_pipelines.vocabulary import TRAINERS, open_tokenizer
from tipr_jax.text import save_tokenizer, wordpiece, xlm_roberta
from tipr_jax.text.clip_bpe import ClipTokenizer

EN = ("a man in a blue shirt", "a woman with a red bag") * 5
ZH = ("一名穿蓝色衬衫的男子", "一名背红色包的女子") * 5


@pytest.fixture
def train_split():
    ids = np.arange(len(EN), dtype=np.int32)
    return Split("train", ("/x.png",) * len(EN), ids, EN, ids, "en", {"zh": ZH})


def test_the_vocabulary_of_the_package_needs_nothing(train_split):
    assert isinstance(open_tokenizer("clip_bpe", "", 49408, train_split, ()), ClipTokenizer)


def test_one_is_made_from_the_captions_of_all_languages(train_split):
    tokenizer = open_tokenizer("xlm_roberta", "train", 300, train_split, ())
    assert 3 not in tokenizer([*EN, *ZH], 40)  # no unknown pieces
    assert tokenizer.vocab_size <= 300


@pytest.mark.parametrize("name", TRAINERS)
def test_that_of_the_run_comes_first(train_split, tmp_path, name):
    kept = TRAINERS[name]([*EN, *ZH], 220)
    save_tokenizer(kept, tmp_path / "run")
    places = (tmp_path / "new", tmp_path / "run")
    found = open_tokenizer(name, "train", 1000, train_split, places)  # smaller than the model's
    np.testing.assert_array_equal(found(EN, 30), kept(EN, 30))
    assert found.vocab_size == kept.vocab_size < 1000
    room = kept.vocab_size - 1
    with pytest.raises(ValueError, match=f"has {room + 1} pieces, model.vocab_size is {room};"):
        open_tokenizer(name, "train", room, train_split, places)


@pytest.mark.parametrize("tokenizer", [wordpiece, xlm_roberta])
def test_one_of_the_user_has_the_size_of_the_model(train_split, tmp_path, tokenizer):
    name = tokenizer.__name__.rsplit(".", 1)[-1]
    given = tokenizer.train([*EN, *ZH], 220)
    given.save(tmp_path)
    size = given.vocab_size
    assert open_tokenizer(name, str(tmp_path), size, train_split, ()).vocab_size == size
    for expected in (size - 1, size + 1):
        message = f"{size} pieces, model.vocab_size is {expected}; set --config.model.vocab_size="
        with pytest.raises(ValueError, match=message) as error:
            open_tokenizer(name, str(tmp_path), expected, train_split, ())
        assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "file"), [("wordpiece", "vocab.txt"), ("xlm_roberta", "sentencepiece.bpe.model")]
)
def test_without_any(train_split, tmp_path, name, file):
    with pytest.raises(ValueError, match=f"data.vocab is empty: .*{file} or tokenizer.json"):
        open_tokenizer(name, "", 300, train_split, (tmp_path,))
    with pytest.raises(FileNotFoundError, match=f"expected .*{file}"):
        open_tokenizer(name, str(tmp_path / "nowhere"), 300, train_split, ())
