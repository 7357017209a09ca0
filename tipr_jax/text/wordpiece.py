"""BERT's uncased WordPiece tokenizer without [SEP].

Source: BERT, section 3; the release of IVT changes the special tokens to [CLS] alone, and its
checkpoints depend on that.

Clean, lower case, no accents -> split at spaces and punctuation -> longest known pieces, from the
`tokenizers` library -> `[CLS] pieces 0 0 ...`. The vocabulary comes from a BERT folder, or is
trained.
"""

import functools
import json
import os
import string
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

from tipr_jax.text.checks import check_texts
from tipr_jax.text.vocabulary_file import write_vocabulary

PAD, UNKNOWN, CLS, MASK = "[PAD]", "[UNK]", "[CLS]", "[MASK]"
SPECIAL = (PAD, UNKNOWN, CLS, MASK)
CONTINUES = "##"  # in front of a piece that goes on with a word
VOCAB_FILE = "vocab.txt"


class WordPieceTokenizer:
    """Text -> token ids.

    The library sees the vocabulary, not which pieces are special: a typed "[MASK]" is plain text.

    Args:
      pieces: the vocabulary; the id of a piece is its place.
      name: of the vocabulary, for error messages.

    Raises:
      ValueError: a special piece is missing, [PAD] is not piece 0 (the towers take id 0 for
        padding), a piece is repeated, or the vocabulary belongs to a cased BERT.
    """

    pad_id = 0

    def __init__(self, pieces: Sequence[str], name: str = "vocabulary"):
        if problem := _vocabulary_problem(pieces):
            raise ValueError(f"{name}: {problem}")
        self.pieces = tuple(pieces)
        ids = {piece: i for i, piece in enumerate(self.pieces)}
        self.cls_id, self.mask_id = ids[CLS], ids[MASK]
        self.library = _untrained(models.WordPiece(ids, unk_token=UNKNOWN))

    @property
    def vocab_size(self) -> int:
        return len(self.pieces)

    @functools.cached_property
    def continues_word(self) -> np.ndarray:
        """bool [V]: whether a piece belongs to the same word as the piece before it."""
        return np.array([piece.startswith(CONTINUES) for piece in self.pieces])

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Tokenises N texts.

        Args:
          texts: N strings. An empty one becomes `[CLS, 0, ...]`.
          length: L, tokens per text, CLS included. Longer texts lose their end (deviation: the
            released code does not cut).

        Returns:
          int32 [N, L], padded on the right with 0.

        Raises:
          ValueError: `texts` is a single string or holds other things than strings; length < 1.
        """
        check_texts(texts)
        if length < 1:
            raise ValueError(f"text length is {length}; it must be at least 1 to hold [CLS]")
        rows = np.zeros((len(texts), length), np.int32)
        rows[:, 0] = self.cls_id
        encoded = self.library.encode_batch_fast(list(texts), add_special_tokens=False)
        for row, encoding in zip(rows, encoded, strict=True):
            ids = encoding.ids[: length - 1]
            row[1 : 1 + len(ids)] = ids
        return rows

    def save(self, directory: str | os.PathLike) -> None:
        """Writes vocab.txt, which `load` and BERT implementations read; atomic."""
        lines = "".join(piece + "\n" for piece in self.pieces)
        write_vocabulary(Path(directory) / VOCAB_FILE, lines.encode())

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "WordPieceTokenizer":
        """Reads vocab.txt, else tokenizer.json, of a BERT folder or of one written by `save`.

        Raises:
          FileNotFoundError: neither is there.
          ValueError: the file is damaged, or its vocabulary belongs to no uncased BERT.
        """
        directory = Path(directory)
        if (path := directory / VOCAB_FILE).is_file():
            return cls(_read_vocab_txt(path), str(path))
        if (path := directory / "tokenizer.json").is_file():
            return cls(_read_tokenizer_json(path), str(path))
        raise FileNotFoundError(
            f"no WordPiece vocabulary: expected {directory / VOCAB_FILE} or tokenizer.json beside "
            "it; pass the folder of bert-base-uncased, or train one from the captions"
        )


def train(captions: Iterable[str], vocab_size: int) -> WordPieceTokenizer:
    """A vocabulary of at most `vocab_size` pieces that spells the captions with few tokens.

    Every printable ASCII character is a piece, so queries with new words can be spelled. The same
    captions give the same vocabulary.

    Raises:
      ValueError: `vocab_size` does not hold the special pieces and characters.
    """
    captions = list(captions)
    normalise = normalizers.BertNormalizer(lowercase=True).normalize_str
    characters = set(string.printable.lower()).union(*map(normalise, captions))
    alphabet = sorted(c for c in characters if not c.isspace())
    # The trainer numbers characters in hash order, which differs from run to run, and breaks ties
    # by number. Pieces that it is told are special keep the order given.
    first = [*SPECIAL, *alphabet, *(CONTINUES + c for c in alphabet)]
    if vocab_size < len(first):
        raise ValueError(
            f"vocab_size is {vocab_size}, but special pieces and characters alone are "
            f"{len(first)}; use at least that, 1000 or more to gain from it"
        )
    tokenizer = _untrained(models.WordPiece(unk_token=UNKNOWN))
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocab_size, special_tokens=first, show_progress=False
    )
    tokenizer.train_from_iterator(captions, trainer)
    ids = tokenizer.get_vocab()
    return WordPieceTokenizer(sorted(ids, key=ids.__getitem__), "trained vocabulary")


def _untrained(model: models.WordPiece) -> Tokenizer:
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _read_vocab_txt(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path}: not UTF-8 text ({error}); fetch the file again") from None


def _read_tokenizer_json(path: Path) -> list[str]:
    try:
        model = json.loads(path.read_text(encoding="utf-8"))["model"]
        kind, ids = model.get("type"), model["vocab"]
        if kind == "WordPiece" and sorted(ids.values()) == list(range(len(ids))):
            return sorted(ids, key=ids.__getitem__)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not a tokenizer ({error!r}); fetch the file again") from None
    raise ValueError(
        f"{path}: a {kind} vocabulary with {len(ids)} pieces, expected WordPiece with ids 0, 1, "
        "2, ...; pass the folder of bert-base-uncased"
    )


def _vocabulary_problem(pieces: Sequence[str]) -> str | None:
    """Says why BERT's uncased tokenizer cannot use a vocabulary; None if it can."""
    missing = [piece for piece in SPECIAL if piece not in pieces]
    if missing:
        return f"lacks {', '.join(missing)}; expected the vocabulary of bert-base-uncased"
    if pieces[0] != PAD:
        return f"{PAD} has id {pieces.index(PAD)}, expected 0; padding is known by id 0"
    if len(set(pieces)) < len(pieces):
        seen: set[str] = set()
        twice = next(piece for piece in pieces if piece in seen or seen.add(piece))
        return f"{twice!r} occurs twice; fetch the file again"
    for piece in pieces:
        if any("A" <= c <= "Z" for c in piece) and not piece.startswith("["):
            return f"{piece!r} has capitals: a cased vocabulary; expected bert-base-uncased"
    return None
