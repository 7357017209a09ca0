"""How specs are fulfilled: registered functions, padding rows, errors; every kind of column."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.columns import draw_all, draw_columns
from tipr_jax.batch import (
    IGNORED,
    Column,
    MaskedPatches,
    MaskedWords,
    PairIndex,
    TextLevels,
    Translations,
    Values,
    abstract_batch,
)
from tipr_jax.text import wordpiece

EN = [f"a man number {i} in blue, with a red bag. He has two shoes" for i in range(40)]
FR = [f"un homme numero {i} avec une chemise bleue et un sac" for i in range(40)]
TOKENIZER = wordpiece.train(EN + FR, 300)
WORDS = MaskedWords(max_masks=5)
SPECS = (
    TextLevels(),
    WORDS,
    Translations(dataclasses.replace(WORDS, whole_words=False)),
    MaskedPatches("block", (6, 4), 0.5, row_group=4),
    PairIndex(),
)
ROWS = np.array([7, -1, 3, 39, 0])
PLACES = np.array([5, 6, 4, 7, 1])


@dataclasses.dataclass(frozen=True)
class CaptionLength:
    """A spec of the user: characters of the caption, times a factor."""

    factor: int = 1

    def arrays(self, text_length):
        return {"length": Column((), np.int32, Values.NUMBER, (0, 1000), padding=-7)}


@draw_columns.register
def _(spec: CaptionLength, source):
    def draw(rows, epoch, places):
        lengths = [len(source.split.caption[row]) for row in rows]
        return {"length": np.array(lengths, np.int32) * spec.factor}

    return draw


@pytest.fixture
def source(make_source):
    languages = ("en", "fr", "de")
    translation = {"fr": FR, "de": FR}
    return make_source(EN, TOKENIZER, language="en", translation=translation, languages=languages)


@pytest.mark.parametrize("spec", [*SPECS, CaptionLength()], ids=lambda spec: type(spec).__name__)
def test_columns_are_what_the_spec_says(spec, source):
    got = draw_all((spec,), source)(ROWS, 0, PLACES)
    whole = abstract_batch(len(ROWS), (1, 1), source.text_length, (spec,))
    assert got.keys() == spec.arrays(source.text_length).keys()
    for name, column in got.items():
        assert (column.shape, column.dtype) == (whole[name].shape, whole[name].dtype), name
        padding = spec.arrays(source.text_length)[name].padding
        assert np.all(column[1] == padding), name
        assert not np.all(column == padding), name
    empty = draw_all((spec,), source)(np.array([-1, -1]), 0, np.array([0, 1]))
    for name, column in empty.items():
        assert len(column) == 2 and np.all(column == got[name][1]), name


def test_padding_of_todays_columns(source):
    """Written down, because runs of before must continue with the same batches."""
    columns = {name: c for spec in SPECS for name, c in spec.arrays(16).items()}
    special = {
        "mlm_labels": IGNORED,
        "target_mlm_labels": IGNORED,
        "target_language": 1,
        "pair_id": -1,
    }
    assert {name: c.padding for name, c in columns.items()} == {
        name: special.get(name, 0) for name in columns
    }


@pytest.mark.parametrize("spec", [*SPECS[:3], PairIndex()], ids=lambda spec: type(spec).__name__)
def test_a_row_is_drawn_alone_as_in_a_batch(spec, source):
    whole = draw_all((spec,), source)(ROWS, 2, PLACES)
    for i, row in enumerate(ROWS):
        one = draw_all((spec,), source)(np.array([row]), 2, np.array([99 + i]))
        for name, column in one.items():
            np.testing.assert_array_equal(column[0], whole[name][i], err_msg=name)


@pytest.mark.parametrize("spec", SPECS[:4], ids=lambda spec: type(spec).__name__)
def test_epochs_and_seeds_differ(spec, source):
    rows = places = np.arange(40)
    here = draw_all((spec,), source)(rows, 2, places)
    other_seed = dataclasses.replace(source, seed=5)
    for other in (
        draw_all((spec,), source)(rows, 3, places),
        draw_all((spec,), other_seed)(rows, 2, places),
    ):
        assert any(not np.array_equal(other[name], here[name]) for name in here)


def test_several_specs_do_not_change_each_other(source):
    specs = (*SPECS, CaptionLength(3))
    together = draw_all(specs, source)(ROWS, 1, PLACES)
    alone = {}
    for spec in specs:
        alone |= draw_all((spec,), source)(ROWS, 1, PLACES)
    assert together.keys() == alone.keys()
    for name in alone:
        np.testing.assert_array_equal(together[name], alone[name], err_msg=name)
    assert together["length"].tolist() == [
        -7 if row < 0 else 3 * len(EN[row]) for row in ROWS.tolist()
    ]
    assert together["pair_id"].tolist() == ROWS.tolist()


def test_no_specs_no_columns(source):
    assert draw_all((), source)(ROWS, 0, PLACES) == {}


def test_a_spec_that_nobody_draws(source):
    class Unknown:
        def arrays(self, text_length):
            return {}

    with pytest.raises(ValueError, match="no function draws the columns Unknown; write one"):
        draw_all((Unknown(),), source)


def test_a_column_asked_for_twice(source):
    with pytest.raises(ValueError, match=r"\['length'\] are asked for twice"):
        draw_all((CaptionLength(), CaptionLength(2)), source)


def test_a_function_that_draws_something_else(source):
    @dataclasses.dataclass(frozen=True)
    class Wrong:
        def arrays(self, text_length):
            return {"right": Column((), np.int32, Values.NUMBER)}

    draw_columns.register(Wrong, lambda spec, source: lambda rows, epoch, places: {"wrong": rows})
    with pytest.raises(ValueError, match=r"\['wrong'\] were drawn, expected \['right'\]"):
        draw_all((Wrong(),), source)(ROWS, 0, PLACES)


@pytest.mark.parametrize(
    ("spec", "fields", "message"),
    [
        (Translations(), {"languages": ()}, "the data has one language; set --config.data.source"),
        (MaskedPatches("star", (2, 2), 0.5), {}, "'star', use one of .*block.*random.*grid"),
        (TextLevels(("letter",)), {}, r"\['letter'\] are unknown, use some of .*word.*phrase"),
    ],
)
def test_what_cannot_be_drawn_is_refused_before_the_first_batch(source, spec, fields, message):
    with pytest.raises(ValueError, match=message) as caught:
        draw_all((spec,), dataclasses.replace(source, **fields))
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_mask_token_or_words(source):
    def simple(texts, length):
        return np.ones((len(texts), length), np.int32)

    with pytest.raises(ValueError, match="function has no mask token"):
        draw_all((WORDS,), dataclasses.replace(source, tokenizer=simple))(ROWS, 0, PLACES)
    simple.pad_id, simple.mask_id, simple.vocab_size = 0, 2, 9
    with pytest.raises(ValueError, match="does not say which pieces continue a word"):
        draw_all((WORDS,), dataclasses.replace(source, tokenizer=simple))(ROWS, 0, PLACES)
    single = dataclasses.replace(WORDS, whole_words=False)
    draw_all((single,), dataclasses.replace(source, tokenizer=simple))(ROWS, 0, PLACES)
