"""IVT's word and phrase texts: candidates, the laws of the draws, padding, fallbacks."""

import collections
import dataclasses
import json
import pathlib

import numpy as np
import pytest

from data_pipelines.columns import clauses, draw_all
from data_pipelines.columns.attributes import load_or_write
from data_pipelines.columns.text_levels import LevelTexts
from data_pipelines.datasets.annotations import load_dataset
from tipr_jax.batch import TextLevels
from tipr_jax.text.wordpiece import train

GOLDEN = pathlib.Path(__file__).parents[2] / "golden" / "ivt" / "text_levels.json"
CAPTION = "A man in blue. He has a bag, two shoes"  # 3 phrases, 3 clauses
ATTRIBUTES = {"top": "blue shirt", "bag": "bag", "shoes": "black shoes"}


def draws(texts, n=900, row=0):
    words, phrases = zip(*(texts(np.array([row]), epoch) for epoch in range(n)), strict=True)
    return collections.Counter(w for (w,) in words), collections.Counter(p for (p,) in phrases)


def even(counter, values):
    """Each of the values occurs, about equally often (5 sigma), and nothing else does."""
    n, p = sum(counter.values()), 1 / len(values)
    return set(counter) == set(values) and all(
        abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p)) for count in counter.values()
    )


def test_recorded_join_of_all_attributes():
    joined = json.loads(GOLDEN.read_text())["cuhk_att_all_keys_joined"]
    texts = LevelTexts([CAPTION], [dict(enumerate(joined.split(",")))], seed=0)
    assert joined in draws(texts)[0]


def test_candidates_are_longer_than_five_characters_and_a_leading_space_counts():
    assert clauses.clause_candidates("12345,123456, 2345, 1234") == ["123456"]
    assert clauses.clause_candidates("a, 12345") == ["12345"]


def test_first_of_equally_long_clauses_and_the_outer_commas_of_the_rest():
    assert clauses.phrase_candidates(",abcdef,uvwxyz,") == ["abcdef", "uvwxyz"]


def test_clause_and_phrase_are_drawn_evenly():
    words, phrases = draws(LevelTexts([CAPTION], None, seed=3))
    everything = ["a man in blue", "he has a bag", "two shoes"]
    assert even(words, everything) and even(phrases, everything)


def test_attributes_number_and_order():
    words, phrases = draws(LevelTexts([CAPTION], [ATTRIBUTES], seed=0), n=1500)
    assert even(phrases, ["a man in blue", "he has a bag", "two shoes"])
    told = collections.Counter()
    for text, count in words.items():
        parts = text.split(",")
        assert set(parts) <= set(ATTRIBUTES.values()) and len(set(parts)) == len(parts)
        told[len(parts)] += count
    assert even(told, [1, 2, 3])
    assert len(words) == 3 + 6 + 6  # every subset in every order
    whole = {text: count for text, count in words.items() if text.count(",") == 2}
    assert even(whole, list(whole))


def test_without_attributes_the_word_level_of_cuhk_is_a_phrase_that_keeps_brackets():
    texts = LevelTexts(["[a man in blue"], [{}], seed=0)
    assert texts(np.array([0]), 0) == (["[a man in blue"], ["a man in blue"])


@pytest.mark.parametrize("caption", ["Boy. Cap.", "...", "a, b, c.", "      ,x"])
@pytest.mark.parametrize("attributes", [None, [{}], [{"top": " "}]])
def test_a_caption_without_any_usable_phrase_stands_for_itself(caption, attributes):
    """The released code raises there, or trains on an empty text."""
    texts = LevelTexts([caption], attributes, seed=0)
    assert texts(np.array([0]), 0) == ([caption.lower()], [caption.lower()])


def test_a_draw_depends_on_seed_epoch_and_row_alone():
    captions = [CAPTION] * 40
    texts = LevelTexts(captions, [ATTRIBUTES] * 40, seed=1)
    rows = np.array([7, 3, 39, 7])
    words, phrases = texts(rows, epoch=2)
    assert words[0] == words[3]
    again = LevelTexts(captions, [ATTRIBUTES] * 40, seed=1)
    for i, row in enumerate(rows):
        assert again(np.array([row]), epoch=2) == ([words[i]], [phrases[i]])
    everything = np.arange(40)
    here = texts(everything, 2)
    assert len(set(here[0])) > 8  # rows differ
    assert here != texts(everything, 3)
    assert here != LevelTexts(captions, [ATTRIBUTES] * 40, seed=2)(everything, 2)
    # The phrases of two data sets do not depend on what their words are made of.
    assert here[1] == LevelTexts(captions, None, seed=1)(everything, 2)[1]


def test_a_repeated_pair_has_texts_of_its_own_where_asked(make_source):
    tokenizer = train([CAPTION], 300)
    source = make_source([CAPTION] * 3, tokenizer)
    rows, places = np.zeros(40, int), np.arange(40)  # one pair, again and again
    same = draw_all((TextLevels(),), source)(rows, 0, places)["word_ids"]
    fresh = draw_all((TextLevels(fresh_repeats=True),), source)(rows, 0, places)["word_ids"]
    assert len(np.unique(same, axis=0)) == 1 and len(np.unique(fresh, axis=0)) > 1


def test_attributes_of_other_captions():
    with pytest.raises(ValueError, match="2 attribute entries for 1 captions"):
        LevelTexts([CAPTION], [{}, {}], seed=0)


def test_columns(make_source):
    tokenizer = train([CAPTION], 300)
    source = make_source([CAPTION, CAPTION], tokenizer)
    rows = np.array([1, -1, 0])
    columns = draw_all((TextLevels(),), source)(rows, 5, rows)
    words, phrases = LevelTexts(source.split.caption, None, 0)(rows[rows >= 0], 5)
    assert list(columns) == ["word_ids", "phrase_ids"]
    for ids, strings in zip(columns.values(), (words, phrases), strict=True):
        assert not ids[1].any()
        np.testing.assert_array_equal(ids[[0, 2]], tokenizer(strings, 16))
    only = draw_all((TextLevels(("phrase",)),), source)(rows, 5, rows)
    assert list(only) == ["phrase_ids"]
    np.testing.assert_array_equal(only["phrase_ids"], columns["phrase_ids"])


@pytest.mark.parametrize("name", ["cuhk_pedes", "icfg_pedes", "manifest"])
def test_the_word_level_of_cuhk_pedes_alone_reads_attributes(name, write_layout, make_source):
    root = str(write_layout("cuhk_pedes", images=False))
    train_split = load_dataset("cuhk_pedes", root)["train"]
    known = load_or_write(root, {"train": train_split})["train"]
    seen = []

    def tokenizer(texts, length):
        seen.append(tuple(texts))
        return np.zeros((len(texts), length), np.int32)

    source = make_source((), tokenizer, dataset=name, root=root)
    source = dataclasses.replace(source, split=train_split)
    rows = np.arange(len(train_split.caption))
    draw_all((TextLevels(),), source)(rows, 0, rows)
    attributes = known if name == "cuhk_pedes" else None
    words, phrases = LevelTexts(train_split.caption, attributes, 0)(rows, 0)
    assert seen == [tuple(words), tuple(phrases)]
