"""Captions in a target language: contents, the choice of a target, masked words."""

import collections

import numpy as np
import pytest

from data_pipelines.columns import draw_all
from tipr_jax.batch import MaskedWords, Translations
from tipr_jax.text.xlm_roberta import train

EN = [f"a man number {i} in a blue shirt and with a red bag" for i in range(40)]
ZH = [f"一名男子{i}穿着蓝色衬衫背着红色的包" for i in range(40)]
FR = [f"un homme {i} avec une chemise bleue et un sac rouge" for i in range(40)]
CAPTIONS = {"en": EN, "zh": ZH, "fr": FR}
TOKENIZER = train(EN + ZH + FR, 400)
LENGTH = 24
WORDS = MaskedWords(share=0.4, max_masks=4, whole_words=False)
ROWS = np.array([7, 3, 39, 0])


@pytest.fixture
def draw(make_source):
    """draw(specs, *targets)(rows, epoch)."""

    def make(specs, *targets, translation=None):
        source = make_source(
            EN,
            TOKENIZER,
            language="en",
            translation=translation or {name: CAPTIONS[name] for name in targets},
            languages=("en", *targets),
            text_length=LENGTH,
        )
        return lambda rows, epoch: draw_all(specs, source)(rows, epoch, rows)

    return make


def test_contents(draw):
    got = draw((WORDS, Translations(WORDS)), "zh")(ROWS, 3)
    assert got["target_language"].tolist() == [1] * 4
    for prefix, captions in (("", EN), ("target_", ZH)):
        clean = TOKENIZER([captions[row] for row in ROWS], LENGTH)
        at, labels, ids = (got[f"{prefix}mlm_{name}"] for name in ("positions", "labels", "ids"))
        if prefix:
            np.testing.assert_array_equal(got["target_ids"], clean)
        for text, masked, places, words in zip(clean, ids, at, labels, strict=True):
            used = words != -100
            tokens = np.count_nonzero(text != TOKENIZER.pad_id)
            assert used.sum() == min(4, round(0.4 * tokens))
            assert len(set(places[used])) == used.sum()
            assert np.all(places[used] > 0) and not places[~used].any()
            np.testing.assert_array_equal(text[places[used]], words[used])
            assert set(np.flatnonzero(text != masked)) <= set(places[used])
            assert np.all(masked[tokens:] == TOKENIZER.pad_id)
        assert np.any(ids == TOKENIZER.mask_id)


def test_without_masked_words_the_same_translations(draw):
    got = draw((Translations(),), "zh", "fr")(ROWS, 3)
    assert list(got) == ["target_ids", "target_language"]
    whole = draw((Translations(WORDS),), "zh", "fr")(ROWS, 3)
    for name, column in got.items():
        np.testing.assert_array_equal(column, whole[name])


def test_languages_are_masked_independently(draw):
    got = draw((WORDS, Translations(WORDS)), "zh", translation={"zh": EN})(np.arange(40), 0)
    assert not np.array_equal(got["mlm_positions"], got["target_mlm_positions"])


def test_each_row_draws_a_target_evenly(draw):
    columns, rows = draw((Translations(),), "zh", "fr"), np.arange(40)
    counts = collections.Counter()
    for epoch in range(30):
        got = columns(rows, epoch)
        counts.update(got["target_language"].tolist())
        captions = [(EN, ZH, FR)[k][row] for row, k in enumerate(got["target_language"])]
        np.testing.assert_array_equal(got["target_ids"], TOKENIZER(captions, LENGTH))
    assert set(counts) == {1, 2} and abs(counts[1] - 600) < 5 * np.sqrt(300)
