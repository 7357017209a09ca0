"""Masked words for masked-language modelling, in spans, drawn on the host.

One law for IVT's pre-training (spec ivt §8: whole words) and Bi-IRRA (spec bi_irra §3.4). Python's
generator is asked in the order of the released code, so that a seed gives the released masks.
"""

import random
from collections.abc import Callable, Mapping, Sequence

import numpy as np

from data_pipelines.draws import generator
from tipr_jax.batch import IGNORED, Column, MaskedWords


def masked_positions(
    length: int, law: MaskedWords, rng: random.Random, continues: Sequence[bool] = ()
) -> list[int]:
    """Draws which of `length` tokens to hide; never token 0.

    Positions 1.. are visited in random order; one that is not hidden yet starts a token or span,
    until round(share * length) are hidden (half to even; at least 1, at most max_masks). What is
    too much leaves again at random.

    Args:
      length: number of tokens, padding excluded.
      continues: bool [length], tokens that go on with the word before them, if words are to be
        hidden as a whole.

    Returns:
      distinct positions, at most max_masks; none for a text of one token. Their order is that of
      the released code: of a Python set, or of the last shuffle.
    """
    wanted = min(law.max_masks, max(1, round(law.share * length)))
    candidates = list(range(1, length))
    rng.shuffle(candidates)
    chosen: set[int] = set()
    for start in candidates:
        if len(chosen) >= wanted:
            break
        if start in chosen:
            continue
        stop = start + 1
        if law.span_probability > 0 and rng.random() < law.span_probability:
            stop = min(start + rng.randint(2, law.span_max), length)
        if continues:
            start, stop = _whole_words(start, stop, continues)
        chosen.update(range(start, stop))
    positions = list(chosen)
    if len(positions) > wanted:
        rng.shuffle(positions)
    return positions[:wanted]


def _whole_words(start: int, stop: int, continues: Sequence[bool]) -> tuple[int, int]:
    while start > 1 and continues[start]:
        start -= 1
    while stop < len(continues) and continues[stop]:
        stop += 1
    return start, stop


def hidden_tokens(
    tokens: Sequence[int], law: MaskedWords, rng: random.Random, mask_id: int, vocab_size: int
) -> list[int]:
    """What stands in the place of each token to hide: mask, any of the vocabulary, or itself."""
    out = []
    for token in tokens:
        if rng.random() < law.mask_probability:
            token = mask_id
        elif rng.random() < law.random_probability:
            token = rng.randint(0, vocab_size - 1)
        out.append(token)
    return out


def mask_texts(
    text_ids: np.ndarray, rngs: Sequence[random.Random], tokenizer: Callable, law: MaskedWords
) -> dict[str, np.ndarray]:
    """Hides tokens of texts.

    Args:
      text_ids: int32 [T, L].
      rngs: one per text.
      tokenizer: with `pad_id`, `mask_id`, `vocab_size`; for whole words also `continues_word`,
        bool [V].

    Returns:
      mlm_ids int32 [T, L]; mlm_positions int32 [T, M], the hidden places, filled up by 0;
      mlm_labels int32 [T, M], the true ids there, filled up by -100; M = max_masks.
    """
    mlm_ids = text_ids.copy()
    positions = np.zeros((len(text_ids), law.max_masks), np.int32)
    labels = np.full_like(positions, IGNORED)
    lengths = np.count_nonzero(text_ids != tokenizer.pad_id, axis=1).tolist()
    for i, (text, length, rng) in enumerate(zip(text_ids, lengths, rngs, strict=True)):
        continues = tokenizer.continues_word[text[:length]].tolist() if law.whole_words else ()
        at = masked_positions(length, law, rng, continues)
        old = text[at].tolist()
        mlm_ids[i, at] = hidden_tokens(old, law, rng, tokenizer.mask_id, tokenizer.vocab_size)
        positions[i, : len(at)], labels[i, : len(at)] = at, old
    return {"mlm_ids": mlm_ids, "mlm_positions": positions, "mlm_labels": labels}


class MaskedColumns:
    """The extra batch columns of masked-language modelling, a function of (seed, epoch, row).

    Args:
      captions: of every row.
      tokenizer: (texts, length) -> int32 [N, length], with what `mask_texts` asks for.
      length: L, tokens per text.
      seed: of the draws.
      law: how many tokens are hidden, and by what.
      language: of the captions; "" in a data set of one language.
    """

    def __init__(
        self,
        captions: Sequence[str],
        tokenizer: Callable[[Sequence[str], int], np.ndarray],
        length: int,
        seed: int,
        law: MaskedWords | None = None,
        language: str = "",
    ):
        self.captions, self.tokenizer, self.length, self.seed = captions, tokenizer, length, seed
        self.law, self.language = law or MaskedWords(), [language] if language else []

    def __call__(self, rows: np.ndarray, epoch: int) -> dict[str, np.ndarray]:
        """Masked copies of the captions of `rows` int [b], as `mask_texts` gives them."""
        there = rows[rows >= 0].tolist()
        text_ids = self.tokenizer([self.captions[row] for row in there], self.length)
        rngs = [generator("mask words", self.seed, epoch, row, *self.language) for row in there]
        columns = mask_texts(text_ids, rngs, self.tokenizer, self.law)
        return spread(columns, self.law.arrays(self.length), rows >= 0)


def spread(
    columns: Mapping[str, np.ndarray], kinds: Mapping[str, Column], there: np.ndarray
) -> dict[str, np.ndarray]:
    """Columns of the rows that are `there` bool [b], in a batch whose other rows are padding."""
    out = {}
    for name, column in columns.items():
        shape = (len(there), *column.shape[1:])
        out[name] = np.full(shape, kinds[name].padding, column.dtype)
        out[name][there] = column
    return out
