"""IVT's shorter texts about the person of a caption: attributes and a phrase (`batch.TextLevels`).

IVT (Shu et al., ECCVW 2022), section 3.2, as in datasets/bases.py and processor/processor.py of the
released code. Its third level, the sentence, is the caption itself. Word and phrase are drawn anew
in every epoch, as a function of (seed, epoch, row); with `fresh_repeats` of (seed, epoch, place).
"""

from collections.abc import Mapping, Sequence

import numpy as np

from data_pipelines.columns.clauses import (
    clause_candidates,
    phrase_candidates,
    phrase_candidates_with_brackets,
)
from data_pipelines.columns.source import ColumnSource, DrawnColumns
from data_pipelines.datasets.layouts import LAYOUTS
from tipr_jax.batch import TextLevels

LEVELS = ("word", "phrase")
_STREAM = 1  # no other draws share numbers with these


def draw(spec: TextLevels, source: ColumnSource) -> DrawnColumns:
    """word_ids and phrase_ids int32 [b, L], or the one of them that the spec names.

    Raises:
      ValueError: an unknown level, or as `attributes.load_or_write`.
      FileNotFoundError: as `attributes.load_or_write`.
    """
    if unknown := sorted(set(spec.levels) - set(LEVELS)):
        raise ValueError(f"the text levels {unknown} are unknown, use some of {list(LEVELS)}")
    texts = LevelTexts(source.split.caption, _attributes(source), source.seed)

    def columns(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        draws = places if spec.fresh_repeats else rows
        drawn: dict[str, list[str]] = dict(zip(LEVELS, texts(rows, epoch, draws), strict=True))
        return {
            f"{level}_ids": source.tokenizer(drawn[level], source.text_length)
            for level in spec.levels
        }

    return columns


def _attributes(source: ColumnSource) -> Sequence[Mapping[str, str]] | None:
    """The attributes of every caption, in data sets that have such a file."""
    # Imported here, because `python -m data_pipelines.columns.attributes` runs that module as a
    # program: Python warns if the package has imported it before.
    from data_pipelines.columns.attributes import load_or_write

    if source.dataset not in LAYOUTS or not LAYOUTS[source.dataset].attribute_file:
        return None
    splits = {source.split.name: source.split}
    return load_or_write(source.root, splits)[source.split.name]


class LevelTexts:
    """Draws the word and phrase texts of captions.

    A caption without a candidate stands for itself (the released code raises, or trains on "").

    Args:
      captions: of every row.
      attributes: of every caption, from which the word level samples; None: the word level is a
        clause.
      seed: of the draws.

    Raises:
      ValueError: not as many attributes as captions.
    """

    def __init__(
        self,
        captions: Sequence[str],
        attributes: Sequence[Mapping[str, str]] | None,
        seed: int,
    ):
        if attributes is not None and len(attributes) != len(captions):
            raise ValueError(
                f"{len(attributes)} attribute entries for {len(captions)} captions; expected one "
                "for each"
            )
        self.captions, self.attributes, self.seed = captions, attributes, seed

    def __call__(
        self, rows: np.ndarray, epoch: int, draws: np.ndarray | None = None
    ) -> tuple[list[str], list[str]]:
        """(words, phrases) of `rows` int [b]; draws: numbers of the draws, by default the rows."""
        draws = rows if draws is None else draws
        pairs = [
            self._draw(row, epoch, draw)
            for row, draw in zip(rows.tolist(), draws.tolist(), strict=True)
        ]
        return [word for word, _ in pairs], [phrase for _, phrase in pairs]

    def _draw(self, row: int, epoch: int, draw: int) -> tuple[str, str]:
        rng = np.random.default_rng([self.seed, epoch, draw, _STREAM])
        caption = self.captions[row].lower()
        # The phrase first: so it does not depend on what the word level is made of.
        phrase = _choose(phrase_candidates(caption), rng)
        if self.attributes is None:
            word = _choose(clause_candidates(caption), rng)
        elif attributes := self.attributes[row]:
            word = _some(list(attributes.values()), rng)
        else:
            word = _choose(phrase_candidates_with_brackets(caption), rng)
        return word.strip(" ,") and word or caption, phrase or caption


def _choose(candidates: list[str], rng: np.random.Generator) -> str:
    return candidates[int(rng.random() * len(candidates))] if candidates else ""


def _some(values: list[str], rng: np.random.Generator) -> str:
    """1 to all of the values, each number as likely as another, in random order."""
    count = 1 + int(rng.random() * len(values))
    chosen = np.argsort(rng.random(len(values)))[:count]
    return ",".join(values[i] for i in chosen)
