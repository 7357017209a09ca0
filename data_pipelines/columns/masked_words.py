"""Masked words for masked language modelling, in spans, drawn on the host (`batch.MaskedWords`).

The law is that of X-VLM's `TextMaskingGenerator`, which the released IVT uses in pre-training
(datasets/bases.py, with whole words) and the released Bi-IRRA in training (without). Python's
generator is asked in the order of that class, so that a seed gives the masks of the released code.
"""

import random
from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from data_pipelines.columns.source import ColumnSource, DrawnColumns
from data_pipelines.random_streams import generator
from tipr_jax.batch import IGNORED, MaskedWords


@runtime_checkable
class MaskingTokenizer(Protocol):
    """A tokenizer with a mask token."""

    pad_id: int
    mask_id: int
    vocab_size: int


@runtime_checkable
class WordTokenizer(Protocol):
    """A tokenizer that says which pieces continue a word: bool [V]."""

    continues_word: np.ndarray


def draw(spec: MaskedWords, source: ColumnSource) -> DrawnColumns:
    """The columns of `MaskedWords`, a function of (seed, epoch, row) and the split's language."""
    split = source.split

    def columns(rows: np.ndarray, epoch: int, places: np.ndarray) -> dict[str, np.ndarray]:
        ids = source.tokenizer([split.caption[row] for row in rows], source.text_length)
        languages = [split.language] * len(rows)
        return mask_captions(ids, rows.tolist(), languages, epoch, spec, source)

    return columns


def mask_captions(
    text_ids: np.ndarray,
    rows: Sequence[int],
    languages: Sequence[str],
    epoch: int,
    spec: MaskedWords,
    source: ColumnSource,
) -> dict[str, np.ndarray]:
    """`mask_texts` of the captions text_ids int32 [b, L] of rows and languages, [b] each.

    A caption without a language ("") draws from a stream of its row alone.
    """
    streams = [
        generator("mask words", source.seed, epoch, row, *([language] if language else []))
        for row, language in zip(rows, languages, strict=True)
    ]
    return mask_texts(text_ids, streams, source.tokenizer, spec)


def masked_positions(
    length: int, spec: MaskedWords, rng: random.Random, continues: Sequence[bool] = ()
) -> list[int]:
    """Draws which of `length` tokens to mask; never token 0.

    The positions from 1 on are visited in random order. A position that is not masked yet starts a
    single token or a span, until round(share * length) positions are masked (rounded half to even;
    at least 1, at most max_masks). If the last span masked too many, random ones are given up.

    Args:
      length: number of tokens, padding excluded.
      spec: the parameters of the law.
      rng: what draws.
      continues: bool [length], which tokens continue the word of the token before, if words are to
        be masked as a whole.

    Returns:
      distinct positions, at most max_masks; none for a text of one token. Their order is that of
      the released code: the order of a Python set, or of the last shuffle.
    """
    wanted = min(spec.max_masks, max(1, round(spec.share * length)))
    candidates = list(range(1, length))
    rng.shuffle(candidates)
    chosen: set[int] = set()
    for start in candidates:
        if len(chosen) >= wanted:
            break
        if start in chosen:
            continue
        stop = start + 1
        if spec.span_probability > 0 and rng.random() < spec.span_probability:
            stop = min(start + rng.randint(2, spec.span_max), length)
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


def replace_tokens(
    tokens: Sequence[int], spec: MaskedWords, rng: random.Random, mask_id: int, vocab_size: int
) -> list[int]:
    """What replaces each token to mask: the mask token, a random token, or the token itself."""
    out = []
    for token in tokens:
        if rng.random() < spec.mask_probability:
            token = mask_id
        elif rng.random() < spec.random_probability:
            token = rng.randint(0, vocab_size - 1)
        out.append(token)
    return out


def mask_texts(
    text_ids: np.ndarray, rngs: Sequence[random.Random], tokenizer: object, spec: MaskedWords
) -> dict[str, np.ndarray]:
    """Masks tokens of texts.

    Args:
      text_ids: int32 [T, L].
      rngs: one per text.
      tokenizer: a `MaskingTokenizer`.
      spec: the parameters of the law.

    Returns:
      mlm_ids int32 [T, L]; mlm_positions int32 [T, M], the masked places, filled up by 0;
      mlm_labels int32 [T, M], the true ids there, filled up by IGNORED; M = max_masks.

    Raises:
      ValueError: the tokenizer has no mask token, or does not know words.
    """
    if not isinstance(tokenizer, MaskingTokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} has no mask token (pad_id, mask_id, vocab_size), which "
            "MaskedWords needs; choose another tokenizer for the method"
        )
    continues_word = _continues_word(tokenizer) if spec.whole_words else np.zeros(0, bool)
    mlm_ids = text_ids.copy()
    positions = np.zeros((len(text_ids), spec.max_masks), np.int32)
    labels = np.full_like(positions, IGNORED)
    lengths = np.count_nonzero(text_ids != tokenizer.pad_id, axis=1).tolist()
    for i, (text, length, rng) in enumerate(zip(text_ids, lengths, rngs, strict=True)):
        continues = continues_word[text[:length]].tolist() if spec.whole_words else ()
        at = masked_positions(length, spec, rng, continues)
        old = text[at].tolist()
        mlm_ids[i, at] = replace_tokens(old, spec, rng, tokenizer.mask_id, tokenizer.vocab_size)
        positions[i, : len(at)], labels[i, : len(at)] = at, old
    return {"mlm_ids": mlm_ids, "mlm_positions": positions, "mlm_labels": labels}


def _continues_word(tokenizer: MaskingTokenizer) -> np.ndarray:
    """bool [V]: the pieces that continue the word of the piece before."""
    if not isinstance(tokenizer, WordTokenizer):
        raise ValueError(
            f"{type(tokenizer).__name__} does not say which pieces continue a word, which "
            "MaskedWords needs; use MaskedWords(whole_words=False)"
        )
    return tokenizer.continues_word
