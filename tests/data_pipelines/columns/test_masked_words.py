"""The law of masked spans: how many, which, and what replaces them."""

import collections
import random

import numpy as np
import pytest

from data_pipelines.columns import draw_all
from data_pipelines.columns.masked_words import masked_positions
from tipr_jax.batch import MaskedWords
from tipr_jax.text.wordpiece import SPECIAL, WordPieceTokenizer

WORDS = [f"w{chr(97 + i)}" for i in range(20)]
TOKENIZER = WordPieceTokenizer([*SPECIAL, *WORDS, "##s"])
LAW = MaskedWords()  # of IVT


def near(count, n, p):
    return abs(count - n * p) < 5 * np.sqrt(n * p * (1 - p))


def positions(length, continues=(), n=1, law=LAW):
    rng = random.Random(0)
    return [np.array(masked_positions(length, law, rng, continues), int) for _ in range(n)]


@pytest.mark.parametrize(
    ("length", "count"), [(2, 1), (3, 1), (6, 2), (10, 2), (14, 4), (29, 7), (30, 8), (50, 8)]
)
def test_number_of_masks(length, count):
    """round(length / 4), half to even, from 1 to 8."""
    for drawn in positions(length, n=50):
        assert len(set(drawn)) == len(drawn) == count
        assert drawn.min() >= 1 and drawn.max() < length


def test_an_empty_text_has_no_masks():
    assert not len(positions(1)[0])


def test_every_token_is_hidden_about_equally_often():
    drawn = np.concatenate(positions(40, law=MaskedWords(span_probability=0), n=2000))
    counts = np.bincount(drawn, minlength=40)
    assert counts[0] == 0 and all(near(c, 2000, 8 / 39) for c in counts[1:])


@pytest.mark.parametrize(("probability", "longest", "share"), [(0.0, 3, 0), (1, 3, 0.5), (1, 2, 0)])
def test_spans(probability, longest, share):
    """Three hidden in a row are one span of 3: others are followed by a start far away."""
    law = MaskedWords(3 / 400, max_masks=3, span_probability=probability, span_max=longest)
    runs = sum(np.ptp(drawn) == 2 for drawn in positions(400, n=1500, law=law))
    assert near(runs, 1500, share) if share else runs < 30


def test_spans_stop_at_the_end():
    law = MaskedWords(share=0.5, span_probability=1.0)
    for drawn in positions(4, n=300, law=law):
        assert set(drawn) <= {1, 2, 3} and len(drawn) == 2


def test_whole_words_are_hidden():
    """Token 2 goes on with 1, and 5 and 6 with 4: with room, words are hidden as a whole."""
    continues = [False, False, True, False, False, True, True, False]
    law = MaskedWords(share=3 / 8, span_probability=0)
    seen = collections.Counter(tuple(sorted(d)) for d in positions(8, continues, 2000, law))
    whole = {frozenset(w) for w in ((1, 2), (3,), (4, 5, 6), (7,))}
    for drawn in seen:
        parts = [w & set(drawn) for w in whole]
        broken = [w for w, part in zip(whole, parts, strict=True) if part and part != w]
        assert len(drawn) == 3
        # Only trimming breaks words; what was drawn before trimming had more than 3 tokens.
        if broken:
            assert len(set().union(*(w for w in whole if w & set(drawn)))) > 3
    assert (4, 5, 6) in seen and (1, 2, 3) in seen


@pytest.fixture
def columns(make_source):
    """columns(captions, rows, length=16, epoch=0, language="")."""

    def draw(captions, rows, length=16, epoch=0, language=""):
        source = make_source(captions, TOKENIZER, text_length=length, language=language)
        return draw_all((LAW,), source)(np.array(rows), epoch, np.array(rows))

    return draw


def test_columns_of_a_batch(columns):
    captions = [" ".join(WORDS), "was", "wa wb wc"]
    rows = [2, -1, 0, 1]
    batch = columns(captions, rows, epoch=1)
    clean = TOKENIZER([captions[row] for row in rows if row >= 0], 16)
    for place, text in zip((0, 2, 3), clean, strict=True):
        labels, at = batch["mlm_labels"][place], batch["mlm_positions"][place]
        used = labels != -100
        assert used.sum() == max(1, round(np.count_nonzero(text) / 4))
        assert np.all(at[used] > 0) and np.all(at[~used] == 0)
        np.testing.assert_array_equal(labels[used], text[at[used]])
        changed = batch["mlm_ids"][place] != text
        assert set(np.flatnonzero(changed)) <= set(at[used])
    assert not batch["mlm_ids"][1].any() and not batch["mlm_positions"][1].any()
    assert np.all(batch["mlm_labels"][1] == -100)


def test_a_split_with_a_language_draws_from_a_stream_of_the_language(columns):
    captions = [" ".join(WORDS)] * 9
    one, en, fr = (columns(captions, range(9), language=name) for name in ("", "en", "fr"))
    for first, second in ((one, en), (en, fr)):
        assert not np.array_equal(first["mlm_positions"], second["mlm_positions"])


def test_what_replaces_masked_tokens(columns):
    """80 % mask, 10 % any token of the vocabulary, 10 % unchanged."""
    batch = columns([" ".join(WORDS)] * 3000, range(3000), length=21)
    at, labels = batch["mlm_positions"], batch["mlm_labels"]
    used = labels != -100
    new = np.take_along_axis(batch["mlm_ids"], at, axis=1)[used]
    n, same = used.sum(), labels[used] == new
    assert near((new == TOKENIZER.mask_id).sum(), n, 0.8 + 0.1 / TOKENIZER.vocab_size)
    assert near(same.sum(), n, 0.1 + 0.1 / TOKENIZER.vocab_size)
    random = new[~same & (new != TOKENIZER.mask_id)]
    counts = np.bincount(random, minlength=TOKENIZER.vocab_size)
    others = np.delete(counts, TOKENIZER.mask_id)
    assert others.min() > 0 and near(counts[0], n, 0.1 / TOKENIZER.vocab_size)
