"""XLM-R's SentencePiece tokenizer for captions of any language.

Source: Conneau et al., ACL 2020; the cleaning is `pre_caption` of dataset/utils.py in the release
of X2-VLM, with the fewer punctuation marks that the release of Bi-IRRA removes.

Clean and cut to words -> pieces -> `<s> pieces </s> <pad> <pad> ...`. The vocabulary comes from
an XLM-R folder, as `sentencepiece.bpe.model` or as `tokenizer.json`, or is trained on captions.
"""

import io
import json
import os
import re
import string
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import sentencepiece
import tokenizers

from tipr_jax.text.checks import check_texts
from tipr_jax.text.vocabulary_file import write_vocabulary

BOS_ID, PAD_ID, EOS_ID, UNKNOWN_ID = range(4)
# The special pieces of a tokenizer.json: at the beginning and at the end of its vocabulary.
FIRST, LAST = ("<s>", "<pad>", "</s>", "<unk>"), "<mask>"
MODEL_FILE, JSON_FILE = "sentencepiece.bpe.model", "tokenizer.json"
PUNCTUATION = '.!"()*#:;~'  # other scripts keep theirs

_TO_SPACES = str.maketrans(dict.fromkeys(PUNCTUATION, " "))

# texts -> ids of their pieces, <s> and </s> excluded
Encode = Callable[[list[str]], list[list[int]]]


def clean(text: str, words: int | None = None) -> str:
    """Lower case without some ASCII punctuation, cut to the first `words` words.

    Only runs of white space become one space; a single tab or line feed inside stays, as released.
    """
    text = re.sub(r"\s{2,}", " ", text.lower().translate(_TO_SPACES))
    return " ".join(text.rstrip("\n").strip(" ").split(" ")[:words])


class XlmRobertaTokenizer:
    """Text -> token ids.

    Typed special pieces are text (deviation: the released tokenizer reads "<mask>" as the mask).

    Args:
      file: MODEL_FILE or JSON_FILE, which says how to read `content`.
      content: of such a file.
      name: of the file, for error messages.

    Raises:
      ValueError: the content is damaged, or not a vocabulary of XLM-R's kind.
    """

    pad_id = PAD_ID

    def __init__(self, file: str, content: bytes, name: str = "vocabulary"):
        self.file, self.content = file, content
        try:
            self._encode, self.vocab_size = READERS[file](content)
        except ValueError as error:
            problem = " ".join(str(error).split())
            raise ValueError(f"{name}: {problem}; fetch XLM-R's file again") from None

    @property
    def mask_id(self) -> int:
        return self.vocab_size - 1

    def __call__(self, texts: Sequence[str], length: int) -> np.ndarray:
        """Tokenises N texts.

        Args:
          texts: N strings. An empty one becomes `<s> </s> <pad> ...`.
          length: L, tokens per text, `<s>` and `</s>` included; also how many words a text keeps.

        Returns:
          int32 [N, L], padded on the right with 1.

        Raises:
          ValueError: `texts` is a single string or holds other things than strings; length < 2.
        """
        check_texts(texts)
        if length < 2:
            raise ValueError(f"text length is {length}; it must be at least 2 to hold <s> and </s>")
        rows = np.full((len(texts), length), PAD_ID, np.int32)
        pieces = self._encode([clean(text, length) for text in texts])
        for row, ids in zip(rows, pieces, strict=True):
            ids = [BOS_ID, *ids[: length - 2], EOS_ID]
            row[: len(ids)] = ids
        return rows

    def save(self, directory: str | os.PathLike) -> None:
        """Writes the file that the vocabulary came from, or MODEL_FILE; atomic."""
        write_vocabulary(Path(directory) / self.file, self.content)

    @classmethod
    def load(cls, directory: str | os.PathLike) -> "XlmRobertaTokenizer":
        """Reads MODEL_FILE, else JSON_FILE, of an XLM-R folder or of one written by `save`.

        Raises:
          FileNotFoundError: neither is there.
          ValueError: the file is damaged, or not a vocabulary of XLM-R's kind.
        """
        for file in READERS:
            if (path := Path(directory) / file).is_file():
                return cls(file, path.read_bytes(), str(path))
        raise FileNotFoundError(
            f"no XLM-R vocabulary: expected {Path(directory) / MODEL_FILE} or {JSON_FILE} beside "
            "it; pass the folder of xlm-roberta-base, or train one from the captions"
        )


def train(captions: Iterable[str], vocab_size: int) -> XlmRobertaTokenizer:
    """A vocabulary of at most `vocab_size` pieces for captions of all languages of a run.

    Small corpora give fewer pieces. Every printable ASCII character is a piece, so queries with new
    words can be spelled. The same captions give the same vocabulary.

    Raises:
      ValueError: no captions, or `vocab_size` does not hold their characters.
    """
    texts = [text for text in map(clean, captions) if text]
    if not texts:
        raise ValueError("there are no captions to make a vocabulary from")
    model = io.BytesIO()
    ascii_characters = set(clean(string.printable)) - set(string.whitespace)
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=model,
            model_type="bpe",  # half as many tokens as "unigram" on small corpora
            vocab_size=vocab_size - 2,  # <pad> and <mask> come on top
            hard_vocab_limit=False,
            character_coverage=1.0,
            required_chars="".join(sorted(ascii_characters)),
            max_sentence_length=2**16,  # bytes; longer ones would be left out
            num_threads=1,
            shuffle_input_sentence=False,
            minloglevel=2,
        )
    except RuntimeError as error:
        problem = " ".join(str(error).split())
        raise ValueError(
            f"vocab_size is {vocab_size}, which does not hold the characters of the captions "
            f"({problem}); use a larger --config.model.vocab_size"
        ) from None
    return XlmRobertaTokenizer(MODEL_FILE, model.getvalue(), "trained vocabulary")


def _read_model(content: bytes) -> tuple[Encode, int]:
    """A SentencePiece model. Its pieces <unk>, <s>, </s> have other ids in XLM-R, the rest id + 1.

    Returns (encode, vocabulary size). Raises ValueError for anything else.
    """
    processor = sentencepiece.SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(content)
        special = processor.unk_id(), processor.bos_id(), processor.eos_id(), processor.pad_id()
    except RuntimeError as error:
        raise ValueError(f"not a SentencePiece model ({error})") from None
    if special != (0, 1, 2, -1):
        raise ValueError(
            f"<unk>, <s>, </s> and <pad> have the ids {special}, expected (0, 1, 2, -1)"
        )

    def encode(texts: list[str]) -> list[list[int]]:
        pieces = processor.encode(texts, num_threads=1)
        return [[i + 1 if i else UNKNOWN_ID for i in ids] for ids in pieces]

    return encode, processor.get_piece_size() + 2


def _read_json(content: bytes) -> tuple[Encode, int]:
    """A `library_vocabulary`: (encode, vocabulary size)."""
    tokenizer = library_vocabulary(content)

    def encode(texts: list[str]) -> list[list[int]]:
        return [row.ids for row in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]

    return encode, tokenizer.get_vocab_size()


def library_vocabulary(content: bytes) -> tokenizers.Tokenizer:
    """A Unigram model of the `tokenizers` library, with the ids of XLM-R.

    Special pieces get names that nobody can type, and what adds `<s>` and `</s>` is left out.

    Raises:
      ValueError: the content is anything else.
    """
    try:
        file = json.loads(content)
        kind, vocab = file["model"].get("type"), file["model"]["vocab"]
        ends = [*vocab[:4], *vocab[-1:]] if kind == "Unigram" else []
        special = tuple(piece for piece, _ in ends)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"not a tokenizer ({type(error).__name__}: {error})") from None
    if special != (*FIRST, LAST):
        raise ValueError(
            f"a {kind} vocabulary with the special pieces {special}, expected Unigram with "
            f"{(*FIRST, LAST)}"
        )
    for entry in (*vocab[:4], vocab[-1]):
        entry[0] = "\0" + entry[0]
    file |= {"added_tokens": [], "post_processor": None, "truncation": None, "padding": None}
    try:
        return tokenizers.Tokenizer.from_str(json.dumps(file))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"not a tokenizer ({error})") from None


READERS: dict[str, Callable[[bytes], tuple[Encode, int]]] = {
    MODEL_FILE: _read_model,
    JSON_FILE: _read_json,
}
