"""Which tokenizer a run uses: its own, the source run's, the user's, or a new one."""

import itertools
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from data_pipelines.datasets.split import Split
from tipr_jax.text import TOKENIZER_DIR, Tokenizer, load_tokenizer, wordpiece, xlm_roberta

log = logging.getLogger("tipr_jax")

TRAIN = "train"  # value of data.vocab
# Tokenizers whose vocabulary does not come with the package, and how to train one.
TRAINERS: dict[str, Callable[[Sequence[str], int], Tokenizer]] = {
    "wordpiece": wordpiece.train,
    "xlm_roberta": xlm_roberta.train,
}
FILES = {
    "wordpiece": "vocab.txt or tokenizer.json",
    "xlm_roberta": "sentencepiece.bpe.model or tokenizer.json",
}


def open_tokenizer(
    name: str, vocab: str, vocab_size: int, train: Split, kept: Sequence[Path]
) -> Tokenizer:
    """The tokenizer `name`, with the first vocabulary that exists.

    Args:
      name: key of `text.TOKENIZERS`.
      vocab: folder of a vocabulary, or "train" to make one from the captions; `data.vocab`.
      vocab_size: what the model has room for.
      train: to make one from its captions, in all languages.
      kept: runs or model directories that may hold one, preferred to `vocab`.

    Raises:
      ValueError, FileNotFoundError: no vocabulary, or one of another size than the model's.
    """
    if name not in TRAINERS:
        return load_tokenizer(name)
    for directory in kept:
        if (directory / TOKENIZER_DIR).is_dir():
            tokenizer = load_tokenizer(name, directory / TOKENIZER_DIR)
            _check_size(tokenizer, vocab_size, tokenizer.vocab_size <= vocab_size)
            return tokenizer
    if vocab == TRAIN:
        captions = [*train.caption, *itertools.chain(*train.translation.values())]
        log.info("making a %s vocabulary from %d captions", name, len(captions))
        return TRAINERS[name](captions, vocab_size)
    if not vocab:
        raise ValueError(
            f"data.vocab is empty: the {name} tokenizer needs a vocabulary; set "
            f"--config.data.vocab to the folder of the pre-trained text model ({FILES[name]}), "
            f"or to {TRAIN!r} to make one from the captions"
        )
    tokenizer = load_tokenizer(name, vocab)
    _check_size(tokenizer, vocab_size, tokenizer.vocab_size == vocab_size)
    return tokenizer


def _check_size(tokenizer: Tokenizer, vocab_size: int, fits: bool) -> None:
    """Raises unless the vocabulary fits the model.

    A vocabulary made from captions may be smaller than the model's; the user's may not.
    """
    if not fits:
        raise ValueError(
            f"the vocabulary has {tokenizer.vocab_size} pieces, model.vocab_size is {vocab_size}; "
            f"set --config.model.vocab_size={tokenizer.vocab_size}, or give the vocabulary of the "
            "pre-trained text model"
        )
