"""IVT's three texts per pair: some words, a phrase and the sentence (spec ivt §3.2).

The sentence is the caption. Word and phrase are drawn anew in every epoch, row by row: a function
of (seed, epoch, row), so that neither resuming nor the number of processes changes them.
"""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.annotations import Split

LEVELS = ("word", "phrase")
MIN_CHARACTERS = 6  # of a candidate, the space in front of it included
_STREAM = 1  # no other draws share numbers with these
Attributes = dict[str, str]


def phrase_candidates(caption: str) -> list[str]:
    """Per sentence: its longest clause, and the rest of it."""
    return _longest_and_rest(_bare(caption))


def clause_candidates(caption: str) -> list[str]:
    """Every clause, between full stops and commas: the word level of ICFG-PEDES and RSTPReid."""
    clauses = [clause for piece in _bare(caption).split(".") for clause in piece.split(",")]
    return _long_enough(clauses)


def unnamed_candidates(caption: str) -> list[str]:
    """The word level of CUHK-PEDES without attributes: phrases, but brackets stay."""
    return _longest_and_rest(caption.lower().strip("."))


def _bare(caption: str) -> str:
    return caption.lower().strip(".").strip("[").strip("]")


def _longest_and_rest(text: str) -> list[str]:
    candidates = []
    for piece in text.split("."):
        clauses = piece.split(",")
        longest = max(clauses, key=len)
        clauses.remove(longest)
        candidates += [longest, ",".join(clauses).strip(",")]
    return _long_enough(candidates)


def _long_enough(candidates: Sequence[str]) -> list[str]:
    return [text.strip(" ") for text in candidates if len(text) >= MIN_CHARACTERS]


class LevelTexts:
    """Draws the word and phrase texts of captions.

    A caption without a candidate stands for itself (the released code raises, or trains on "").

    Args:
      split: usually the train split; a row is one of its captions.
      attributes: of each caption (CUHK-PEDES, see `attributes.py`), from which the word level
        samples; None: the word level is a clause (ICFG-PEDES, RSTPReid).
      seed: of the draws.

    Raises:
      ValueError: not as many attributes as captions.
    """

    def __init__(self, split: Split, attributes: Sequence[Attributes] | None, seed: int):
        if attributes is not None and len(attributes) != len(split.caption):
            raise ValueError(
                f"{len(attributes)} attribute entries for {len(split.caption)} captions of the "
                f"{split.name} split; expected one for each"
            )
        self.caption, self.attributes, self.seed = split.caption, attributes, seed

    def __call__(self, rows: np.ndarray, epoch: int) -> tuple[list[str], list[str]]:
        """(words, phrases) of `rows` int [b]; the padding row -1 gets two empty texts."""
        pairs = [self._draw(row, epoch) for row in rows.tolist()]
        return [word for word, _ in pairs], [phrase for _, phrase in pairs]

    def _draw(self, row: int, epoch: int) -> tuple[str, str]:
        if row < 0:
            return "", ""
        rng = np.random.default_rng([self.seed, epoch, row, _STREAM])
        caption = self.caption[row].lower()
        phrase = _choose(phrase_candidates(caption), rng)  # first, so that attributes change no row
        if self.attributes is None:
            word = _choose(clause_candidates(caption), rng)
        elif attributes := self.attributes[row]:
            word = _some(list(attributes.values()), rng)
        else:
            word = _choose(unnamed_candidates(caption), rng)
        return word.strip(" ,") and word or caption, phrase or caption


def _choose(candidates: list[str], rng: np.random.Generator) -> str:
    return candidates[int(rng.random() * len(candidates))] if candidates else ""


def _some(values: list[str], rng: np.random.Generator) -> str:
    """1 to all of the values, each number as likely, in random order."""
    count = 1 + int(rng.random() * len(values))
    chosen = np.argsort(rng.random(len(values)))[:count]
    return ",".join(values[i] for i in chosen)


class LevelColumns:
    """The extra batch columns of IVT's levels, on top of the caption itself.

    Args:
      texts: draws them.
      tokenizer: (texts, length) -> int32 [N, length].
      length: L, tokens per text.
      levels: those of LEVELS to make; a model trained without a level need not pay for it.
    """

    def __init__(
        self,
        texts: LevelTexts,
        tokenizer: Callable[[Sequence[str], int], np.ndarray],
        length: int,
        levels: Sequence[str] = LEVELS,
    ):
        self.texts, self.tokenizer, self.length, self.levels = texts, tokenizer, length, levels

    def __call__(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """{"word_ids", "phrase_ids"} int32 [b, L] of `rows` int [b]; padding rows (-1) are 0."""
        texts = dict(zip(LEVELS, self.texts(rows, epoch), strict=True))
        there = (rows >= 0)[:, None]
        return {
            f"{level}_ids": self.tokenizer(texts[level], self.length) * there
            for level in LEVELS
            if level in self.levels
        }
