"""Tokenizers, shared by training, evaluation and search.

A tokenizer is called with (texts, length) and gives int32 [N, length], padded with 0; XLM-R's pads
with 1.
"""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

TOKENIZER_DIR = "tokenizer"  # of a run or model directory, if its vocabulary is its own


class Tokenizer(Protocol):
    """What the rest of the code asks of a tokenizer."""

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray: ...


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
    return TOKENIZERS[name](directory)


def save_tokenizer(tokenizer: Tokenizer, directory: str | os.PathLike) -> None:
    """Keeps a vocabulary of its own in a run or model directory; others come with the package."""
    if hasattr(tokenizer, "save"):
        tokenizer.save(os.path.join(directory, TOKENIZER_DIR))


def write_vocabulary(path: Path, content: bytes) -> None:
    """Writes a vocabulary file, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_bytes(content)
    partial.replace(path)


def check_texts(texts: Sequence[str]) -> None:
    """Raises ValueError unless `texts` is a sequence of strings."""
    if isinstance(texts, str):
        raise ValueError(f"expected a list of texts, got one string {texts!r}; pass [text]")
    for index, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {index} is a {type(text).__name__}, expected a string")
