"""Which tokenizer a run uses: its own, that of the run it starts from, the user's, or a new one."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer, wordpiece

log = logging.getLogger("tipr_jax")

TRAIN = "train"  # value of data.vocab
# Tokenizers whose vocabulary does not come with the package, and how to train one.
TRAINERS: dict[str, Callable[[Sequence[str], int], Tokenizer]] = {"wordpiece": wordpiece.train}


def open_tokenizer(
    name: str, vocab: str, vocab_size: int, captions: Sequence[str], kept: Sequence[Path]
) -> Tokenizer:
    """The tokenizer `name`, with the first vocabulary that there is.

    Args:
      name: key of `text.TOKENIZERS`.
      vocab: folder of a vocabulary, or "train" to make one from the captions; `data.vocab`.
      vocab_size: what the model has room for.
      captions: to make one from.
      kept: runs or model directories that may hold one, preferred to `vocab`.

    Raises:
      ValueError, FileNotFoundError: no vocabulary, or one that the model has no room for.
    """
    if name not in TRAINERS:
        return load_tokenizer(name)
    tokenizer = _find(name, vocab, vocab_size, captions, kept)
    if tokenizer.vocab_size > vocab_size:
        raise ValueError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, model.vocab_size is {vocab_size}; "
            f"set --config.model.vocab_size={tokenizer.vocab_size}"
        )
    return tokenizer


def _find(
    name: str, vocab: str, vocab_size: int, captions: Sequence[str], kept: Sequence[Path]
) -> Tokenizer:
    for directory in kept:
        if (directory / TOKENIZER_DIR).is_dir():
            return load_tokenizer(name, directory / TOKENIZER_DIR)
    if vocab == TRAIN:
        log.info("making a %s vocabulary from %d captions", name, len(captions))
        return TRAINERS[name](captions, vocab_size)
    if not vocab:
        raise ValueError(
            f"data.vocab is empty: the {name} tokenizer needs a vocabulary; set "
            "--config.data.vocab to the folder of the pre-trained text model (vocab.txt or "
            f"tokenizer.json), or to {TRAIN!r} to make one from the captions"
        )
    return load_tokenizer(name, vocab)
