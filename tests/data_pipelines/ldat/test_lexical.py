"""The scorer without a model, and the faults that it is measured with."""

import pytest

from data_pipelines.ldat import answers, faults, glossary
from data_pipelines.ldat.interfaces import Caption, Translation
from data_pipelines.ldat.lexical import LexicalScorer, agreement, language_share, length_share
from tests.data_pipelines.ldat.conftest import generated_entries

SOURCE = "A man with short black hair wears a grey jacket and dark blue jeans. He has a backpack."
TRUE = {
    "zh": "一名留着黑色短发的男子穿着灰色夹克和深蓝色牛仔裤，背着背包。",
    "fr": "Un homme aux cheveux noirs courts porte une veste grise, un jean bleu marine "
    "et un sac à dos.",
    "de": "Ein Mann mit kurzen schwarzen Haaren trägt eine graue Jacke, eine dunkelblaue "
    "Jeans und einen Rucksack.",
}


def quality(text, target, source=SOURCE):
    return LexicalScorer("en", target).score([Translation(Caption("", "a", 1, source), text)])[0]


@pytest.mark.parametrize("target", TRUE)
def test_a_true_translation_is_perfect_and_every_fault_is_worse(target):
    assert quality(TRUE[target], target) == 1
    for kind in ("word_drops", "wrong_colour", "echo", "mixed_language"):
        spoilt = faults.spoil(kind, SOURCE, TRUE[target], target, "seed")
        assert spoilt != TRUE[target] and quality(spoilt, target) < 0.9, (kind, spoilt)


@pytest.mark.parametrize("text", ["", "  ", "\n", "。", "???", "🙂" * 30])
def test_what_is_no_sentence_is_worthless(text):
    assert all(quality(text, target) < 0.1 for target in TRUE)


def test_the_source_need_not_be_english():
    scorer = LexicalScorer("zh", "de")
    assert scorer.score([Translation(Caption("", "a", 1, TRUE["zh"]), TRUE["de"])]) == [1]


def test_a_caption_without_known_words_is_not_punished():
    assert quality("一只在街上的猫。", "zh", source="There is a cat in the street.") == 1


@pytest.mark.parametrize("target", TRUE)
def test_true_captions_of_the_generator_score_high(target):
    pairs = [
        Translation(Caption("", "a", 1, here), there)
        for a, b in zip(
            generated_entries("train", "en"), generated_entries("train", target), strict=True
        )
        for here, there in zip(a["captions"], b["captions"], strict=True)
    ]
    scores = LexicalScorer("en", target).score(pairs)
    assert len(scores) == 160
    assert sum(scores) / len(scores) > 0.95 and min(scores) > 0.7


@pytest.mark.parametrize("target", TRUE)
def test_no_true_caption_of_the_generator_is_refused_as_an_answer(target):
    for a, b in zip(
        generated_entries("train", "en"), generated_entries("train", target), strict=True
    ):
        for here, there in zip(a["captions"], b["captions"], strict=True):
            assert answers.problem(here, there, "en", target) == "", there


def mentions(text, language):
    return glossary.vocabulary(language).mentions(text)


@pytest.mark.parametrize(
    "language, text, words",
    [
        ("en", "dark blue t-shirts and BLUE boots", ["dark blue", "t-shirts", "blue", "boots"]),
        ("en", "dressed in rags, scarface, a reddish topcoat", []),
        ("de", "schwarzen Lederschuhen, Rotwein", ["schwarz*"]),
        ("fr", "vert foncé, ouvert", ["vert"]),
        ("zh", "深蓝色T恤", ["深蓝色", "t恤"]),
    ],
)
def test_words_are_found_whole_and_the_longest_first(language, text, words):
    assert [m.word for m in mentions(text, language)] == words


def test_agreement_counts_mentions_and_knows_ambiguous_words():
    assert agreement(mentions("a dress", "en"), mentions("裙子", "zh")) == 1
    assert agreement(mentions("a skirt", "en"), mentions("裙子", "zh")) == 1
    assert agreement(mentions("a coat", "en"), mentions("裙子", "zh")) == 0
    assert agreement(mentions("red boots, red cap", "en"), mentions("红色靴子", "zh")) == 2 / 3
    assert agreement(mentions("The man. The guy", "en"), mentions("男子", "zh")) == 1
    assert agreement(mentions("a woman", "en"), mentions("男子", "zh")) == 0


def test_shares():
    assert length_share("x" * 100, "y" * 33, "en", "zh") == 1
    assert length_share("x" * 100, "y" * 10, "en", "zh") < 0.6
    assert length_share("x" * 100, "y" * 100, "en", "zh") < 0.6
    assert language_share("a t-shirt", "一件T恤", "zh") == 1
    assert language_share("a red t-shirt here", "一件 red t-shirt here", "zh") < 0.6
    assert language_share("The man wears it", "The man wears it", "fr") == 0


def test_every_concept_has_a_word_in_every_language_and_every_word_finds_itself():
    for row in glossary.rows():
        assert None not in row.values() and len(row) == 5, row
        for language in ("en", "zh", "fr", "de"):
            for word in row[language].split("|"):
                assert word and word == word.strip(), row
                (found,) = mentions(word.rstrip("*"), language)
                assert found.word == word.lower(), word


def test_faults_are_a_function_of_seed_and_caption_at_the_given_rate():
    captions = [Caption("train", f"{n}.png", n, SOURCE) for n in range(2000)]
    kinds = [faults.kind_of(caption, 0.2, 1) for caption in captions]
    assert kinds == [faults.kind_of(caption, 0.2, 1) for caption in captions]
    assert kinds != [faults.kind_of(caption, 0.2, 2) for caption in captions]
    assert 0.17 < sum(map(bool, kinds)) / 2000 < 0.23 and set(kinds) == {"", *faults.KINDS}
    assert not any(faults.kind_of(caption, 0, 1) for caption in captions)


def test_a_language_without_glossary_is_refused():
    with pytest.raises(ValueError, match="'es'; add a column"):
        glossary.Vocabulary("es")
