"""Masked words for masked-language modelling, in spans, drawn on the host (spec ivt §8)."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

IGNORED = -100  # label of unused places
_STREAM = 2  # no other draws share numbers with these


@dataclasses.dataclass(frozen=True)
class MaskingLaw:
    """How many tokens are hidden, and by what; the defaults are IVT's pre-training."""

    share: float = 0.25  # of the tokens, [CLS] included
    max_masks: int = 8
    span_probability: float = 0.2  # of starting a span of 2 or 3 tokens; else one token
    mask_probability: float = 0.8  # a hidden token becomes the mask token ...
    random_probability: float = 0.1  # ... or any token of the vocabulary; else it stays


def masked_positions(
    length: int, continues: np.ndarray, law: MaskingLaw, rng: np.random.Generator
) -> np.ndarray:
    """Draws which of `length` tokens to hide; never token 0.

    Positions 1.. are visited in random order; one that is not hidden yet starts a token or span,
    extended to whole words on both sides, until round(share * length) are hidden (half to even; at
    least 1, at most max_masks). What is too much leaves again at random.

    Args:
      length: number of tokens, padding excluded.
      continues: bool [>= length], tokens that go on with the word before them.

    Returns:
      int [M], M <= max_masks, distinct; none for a text of one token.
    """
    wanted = min(law.max_masks, max(1, round(law.share * length)))
    chosen: dict[int, None] = {}  # in order of drawing
    for start in (1 + rng.permutation(length - 1)).tolist():
        if len(chosen) >= wanted:
            break
        if start in chosen:
            continue
        stop = start + 1
        if rng.random() < law.span_probability:
            stop = min(start + 2 + (rng.random() < 0.5), length)
        while start > 1 and continues[start]:
            start -= 1
        while stop < length and continues[stop]:
            stop += 1
        chosen.update(dict.fromkeys(range(start, stop)))
    positions = np.array(list(chosen), np.int64)
    if len(positions) > wanted:
        positions = rng.permutation(positions)[:wanted]
    return positions


class MaskedColumns:
    """The extra batch columns of masked-language modelling, a function of (seed, epoch, row).

    Args:
      captions: of every row.
      tokenizer: (texts, length) -> int32 [N, length] with padding id 0, and `vocab_size`,
        `mask_id`, `continues_word` as `WordPieceTokenizer` has them.
      length: L, tokens per text.
      seed: of the draws.
    """

    def __init__(
        self,
        captions: Sequence[str],
        tokenizer: Callable[[Sequence[str], int], np.ndarray],
        length: int,
        seed: int,
        law: MaskingLaw | None = None,
    ):
        self.captions, self.tokenizer, self.length, self.seed = captions, tokenizer, length, seed
        self.law = law or MaskingLaw()
        self.continues_word = tokenizer.continues_word

    def __call__(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Masked copies of the captions of `rows` int [b].

        Returns:
          mlm_ids int32 [b, L]; mlm_positions int32 [b, M], the hidden places, filled up by 0;
          mlm_labels int32 [b, M], the true ids there, filled up by -100; M = max_masks. All of it
          padding in padding rows (-1).
        """
        there = rows >= 0
        ids = self.tokenizer([self.captions[row] for row in rows[there].tolist()], self.length)
        mlm_ids = np.zeros((len(rows), self.length), np.int32)
        positions = np.zeros((len(rows), self.law.max_masks), np.int32)
        labels = np.full_like(positions, IGNORED)
        for place, text in zip(np.flatnonzero(there), ids, strict=True):
            rng = np.random.default_rng([self.seed, epoch, int(rows[place]), _STREAM])
            continues = self.continues_word[text]
            hidden = masked_positions(np.count_nonzero(text), continues, self.law, rng)
            positions[place, : len(hidden)] = hidden
            labels[place, : len(hidden)] = text[hidden]
            mlm_ids[place] = self._hide(text, hidden, rng)
        return {"mlm_ids": mlm_ids, "mlm_positions": positions, "mlm_labels": labels}

    def _hide(self, text: np.ndarray, hidden: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        draw, law = rng.random(len(hidden)), self.law
        anything = (rng.random(len(hidden)) * self.tokenizer.vocab_size).astype(np.int32)
        is_random = draw < law.mask_probability + law.random_probability
        replacement = np.where(is_random, anything, text[hidden])
        out = text.copy()
        out[hidden] = np.where(draw < law.mask_probability, self.tokenizer.mask_id, replacement)
        return out
