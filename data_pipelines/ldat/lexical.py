"""Quality of a translation from its words alone: no model, no network.

Quality is a product of three numbers in 0..1:

  agreement   of the clothes, colours and people that the glossary finds on both sides: of all
              mentions, the share that has a counterpart on the other side (Dice's coefficient),
              squared, so that one wrong colour among ten things costs as much as it matters
  length      of the text, against what is usual between the languages; within a factor of 1.6 it
              is 1
  language    the share of the text that is written in the target language: by its script, or by
              the words that also stand in the source although the glossary translates them

It sees no order of words and no word outside of the glossary; an invented garment that the
glossary lacks passes.
"""

import collections
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import regex

from data_pipelines.ldat import glossary
from data_pipelines.ldat.glossary import Mention
from data_pipelines.ldat.interfaces import Translation
from data_pipelines.ldat.journal import content_key

VERSION = 1  # to be raised when the same pair would get another quality
# Characters of a text that says the same, relative to English; means over generated captions.
RELATIVE_LENGTH = {"en": 1.0, "zh": 0.33, "fr": 1.03, "de": 1.11}
_FREE_FACTOR = 1.6  # of the usual length, longer or shorter
_OWN_SCRIPT = {"zh": r"\p{Han}"}  # of languages that share their script with no other one here


class LexicalScorer:
    """A `QualityScorer`. Raises ValueError for a language without glossary."""

    def __init__(self, source: str, target: str):
        self._source, self._target = source, target
        self._words = {name: glossary.vocabulary(name) for name in (source, target)}
        self.settings: Mapping[str, Any] = {
            "version": VERSION,
            "source": source,
            "glossary": content_key(glossary.rows()),
        }

    def score(self, translations: Sequence[Translation]) -> list[float]:
        """Qualities, rounded to 4 digits."""
        return [round(self._quality(t.caption.text, t.text), 4) for t in translations]

    def _quality(self, source: str, translation: str) -> float:
        if not translation.strip():
            return 0.0
        here = self._words[self._source].mentions(source)
        there = self._words[self._target].mentions(translation)
        return (
            agreement(here, there) ** 2
            * length_share(source, translation, self._source, self._target)
            * language_share(source, translation, self._target)
        )


def agreement(source: Sequence[Mention], translation: Sequence[Mention]) -> float:
    """Dice's coefficient of the mentions, 0..1; 1 where neither side has any.

    A mention counts as often as it is there, but a person once, whom languages name differently
    often. Mentions with several meanings agree where they have one in common.
    """
    here, there = _counted(source), _counted(translation)
    if not here and not there:
        return 1.0
    left = list(there)
    matched = 0
    for concepts in here:
        found = next((other for other in left if other & concepts), None)
        if found is not None:
            left.remove(found)
            matched += 1
    return 2 * matched / (len(here) + len(there))


def length_share(source: str, translation: str, source_name: str, target_name: str) -> float:
    """1 for a usual length, less for a text that is more than 1.6 times too long or too short."""
    usual = len(source) * RELATIVE_LENGTH[target_name] / RELATIVE_LENGTH[source_name]
    factor = len(translation) / max(usual, 1.0)
    return min(1.0, _FREE_FACTOR * min(factor, 1 / max(factor, 1e-9)))


def language_share(source: str, translation: str, target: str) -> float:
    """The share of a text that is in the target language, 0..1."""
    if target in _OWN_SCRIPT:
        own = len(regex.findall(_OWN_SCRIPT[target], translation))
        foreign = len(regex.findall(r"\p{L}+", regex.sub(_OWN_SCRIPT[target], " ", translation)))
        # A foreign word says as much as two characters; one, as in T恤, is part of the language.
        return own / max(own + 2 * max(foreign - 1, 0), 1)
    theirs = {word.lower() for word in re.findall(r"\w+", source)}
    usual = _target_words(target)
    # Words of one or two letters, as a, on and in, are words of several languages.
    words = [word for word in re.findall(r"\w+", translation.lower()) if len(word) > 2]
    foreign = sum(word in theirs and word not in usual for word in words)
    return 1 - foreign / max(len(words), 1)


def _counted(mentions: Sequence[Mention]) -> list[frozenset[int]]:
    counts = collections.Counter(mention.concepts for mention in mentions)
    persons = {mention.concepts for mention in mentions if glossary.PERSON in mention.kinds}
    return [c for c, number in counts.items() for _ in range(1 if c in persons else number)]


@functools.cache
def _target_words(target: str) -> frozenset[str]:
    """Every word of the glossary's terms in a language, in lower case."""
    vocabulary = glossary.vocabulary(target)
    terms = vocabulary.words(frozenset(range(len(vocabulary.rows))))
    return frozenset(word for term in terms for word in re.findall(r"\w+", term.lower()))
