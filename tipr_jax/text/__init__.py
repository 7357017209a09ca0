"""Tokenizers, shared by training, evaluation and search.

A tokenizer is called with (texts, length) and gives int32 [N, length], padded with 0; XLM-R's pads
with 1.
"""

import os
from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from tipr_jax.bucket import filled, is_address, read_locally
from tipr_jax.paths import place

TOKENIZER_DIR = "tokenizer"  # of a run or model directory, if its vocabulary is its own


class Tokenizer(Protocol):
    """What the rest of the code asks of a tokenizer."""

    @property
    def vocab_size(self) -> int: ...

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray: ...


@runtime_checkable
class Saved(Protocol):
    """A tokenizer whose vocabulary does not come with the package."""

    def save(self, directory: str | os.PathLike) -> None: ...


def _clip_bpe(directory: str | os.PathLike) -> Tokenizer:
    from tipr_jax.text.clip_bpe import ClipTokenizer

    return ClipTokenizer()  # its vocabulary comes with the package


def _wordpiece(directory: str | os.PathLike) -> Tokenizer:
    from tipr_jax.text.wordpiece import WordPieceTokenizer

    return WordPieceTokenizer.load(directory)


def _xlm_roberta(directory: str | os.PathLike) -> Tokenizer:
    from tipr_jax.text.xlm_roberta import XlmRobertaTokenizer

    return XlmRobertaTokenizer.load(directory)


TOKENIZERS: dict[str, Callable[[str | os.PathLike], Tokenizer]] = {
    "clip_bpe": _clip_bpe,
    "wordpiece": _wordpiece,
    "xlm_roberta": _xlm_roberta,
}


def load_tokenizer(name: str, directory: str | os.PathLike = "") -> Tokenizer:
    """The tokenizer `name`, from the directory that holds its vocabulary if it needs one.

    Raises:
      ValueError: an unknown name, or a vocabulary that does not fit the tokenizer.
      FileNotFoundError: no vocabulary in `directory`.
    """
    if name not in TOKENIZERS:
        raise ValueError(f"tokenizer {name!r} is unknown; use one of {', '.join(TOKENIZERS)}")
    if not is_address(directory):
        return TOKENIZERS[name](directory)
    with read_locally(place(directory)) as copy:
        return TOKENIZERS[name](copy)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
    """Keeps a vocabulary of its own in a run or model directory; others come with the package."""
    if isinstance(tokenizer, Saved):
        with filled(place(directory) / TOKENIZER_DIR) as folder:
            tokenizer.save(folder)
