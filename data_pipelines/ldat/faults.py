"""Faults put into true translations on purpose, to measure a scorer: which captions, which kind.

Everything is a pure function of (seed, caption), so that the truth can be computed again.
"""

import random
import re

from data_pipelines.ldat import glossary
from data_pipelines.ldat.interfaces import Caption

KINDS = ("word_drops", "wrong_colour", "wrong_person", "echo", "mixed_language")
_DROPPED = 0.3  # the share of words, of characters in pairs where there are no spaces


def kind_of(caption: Caption, rate: float, seed: int) -> str:
    """The fault of a caption, "" for none; `rate` is the share of captions that have one."""
    rng = random.Random(f"{seed}/{caption.image}/{caption.text}")
    return rng.choice(KINDS) if rng.random() < rate else ""


def spoil(kind: str, source: str, text: str, language: str, seed: str) -> str:
    """A true translation with a fault of a kind; "wrong_person" is up to the caller.

    A text without a colour keeps all of it under "wrong_colour".
    """
    rng = random.Random(seed)
    match kind:
        case "word_drops":
            words = _words(text, language)
            kept = [word for word in words if rng.random() >= _DROPPED]
            return _joined(kept if len(kept) < len(words) else words[1:], language)
        case "wrong_colour":
            return _other_colour(text, language, rng)
        case "echo":
            return source
        case "mixed_language":
            words, theirs = _words(text, language), source.split()
            half = words[: len(words) // 2]
            return f"{_joined(half, language)} {' '.join(theirs[len(theirs) // 2 :])}"
    return text


def _words(text: str, language: str) -> list[str]:
    return re.findall(r"..?", text) if language in glossary.NO_SPACES else text.split()


def _joined(words: list[str], language: str) -> str:
    return ("" if language in glossary.NO_SPACES else " ").join(words)


def _other_colour(text: str, language: str, rng: random.Random) -> str:
    """One colour exchanged for another one; endings are not adapted."""
    vocabulary = glossary.vocabulary(language)
    colours = [m for m in vocabulary.mentions(text) if glossary.COLOUR in m.kinds]
    if not colours:
        return text
    mention = rng.choice(colours)
    others = [
        word
        for concept, row in enumerate(vocabulary.rows)
        if row["kind"] == glossary.COLOUR and concept not in mention.concepts
        for word in vocabulary.words(frozenset((concept,)))[:1]
    ]
    return text[: mention.start] + rng.choice(others).rstrip("*") + text[mention.end :]
