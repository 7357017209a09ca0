"""Captions in a target language, clean and with masked words."""

from collections.abc import Callable, Sequence

import numpy as np

from data_pipelines.annotations import Split
from data_pipelines.draws import generator
from data_pipelines.span_masking import mask_texts, spread
from tipr_jax.batch import Translations


class TranslatedColumns:
    """Target captions and their masked words; with several targets each row draws one, per epoch.

    A function of (seed, epoch, row).

    Args:
      split: with the translations of the target languages.
      tokenizer: as `span_masking.mask_texts` asks for.
      length: L, tokens per text.
      seed: of the draws.
      languages: of the run, the source first.
      spec: what is asked for.

    Raises:
      ValueError: no target language.
    """

    def __init__(
        self,
        split: Split,
        tokenizer: Callable,
        length: int,
        seed: int,
        languages: Sequence[str],
        spec: Translations,
    ):
        self.targets = languages[1:]
        if not self.targets:
            raise ValueError(
                "this method reads captions in two languages, but the data has one; set "
                "--config.data.source and --config.data.target"
            )
        self.split, self.tokenizer, self.length, self.seed = split, tokenizer, length, seed
        self.spec = spec

    def __call__(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """The columns of `Translations` for `rows` int [b]."""
        is_row = rows >= 0
        there = rows[is_row].tolist()
        places = [self._target(row, epoch) for row in there]
        pairs = [(row, self.targets[place - 1]) for row, place in zip(there, places, strict=True)]
        captions = [self.split.translation[language][row] for row, language in pairs]
        ids = self.tokenizer(captions, self.length)
        columns = {"target_ids": ids, "target_language": np.array(places, np.int32)}
        if self.spec.masked_words:
            rngs = [generator("mask words", self.seed, epoch, *pair) for pair in pairs]
            masked = mask_texts(ids, rngs, self.tokenizer, self.spec.masked_words)
            columns |= {f"target_{name}": column for name, column in masked.items()}
        return spread(columns, self.spec.arrays(self.length), is_row)

    def _target(self, row: int, epoch: int) -> int:
        """Index of a target among all languages."""
        return generator("choose target", self.seed, epoch, row).randint(1, len(self.targets))
