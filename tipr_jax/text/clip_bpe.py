"""CLIP's byte-level BPE tokenizer, with a mask token.

Source: clip/simple_tokenizer.py in the release of CLIP; utils/simple_tokenizer.py and `tokenize` of
datasets/bases.py in the release of IRRA, which adds the mask token.

Clean (ftfy, html, whitespace, lower case) -> split into words with CLIP's pattern -> byte-level BPE
from the `tokenizers` library -> `[SOT] ids [EOT] 0 0 ...`.
"""

import gzip
import hashlib
import html
import itertools
import pathlib
import zlib
from collections.abc import Iterable, Sequence

import ftfy
import numpy as np
import regex
from tokenizers import Tokenizer, models, pre_tokenizers

from tipr_jax.text.checks import check_texts

MASK_ID, SOT_ID, EOT_ID, VOCAB_SIZE = 49405, 49406, 49407, 49408

VOCAB_PATH = pathlib.Path(__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
# The vocabulary file holds 262k merges, of which CLIP uses the first 48,894. The mask token stands
# in the place of the last one ("jekyll</w>"). Deviation: the released code drops that token, but
# keeps its merge, so a caption with the word "jekyll" raises KeyError there; here the merge
# goes too and the word is spelled with two tokens, "jeky" + "ll</w>".
_NUM_MERGES = 48_893
_MERGES_SHA256 = "af252de096663c39bd3e9be45ffd5df45e34270f5e3ed9cf09231f8172932f02"

_SPECIAL_IDS = {"<|mask|>": MASK_ID, "<|startoftext|>": SOT_ID, "<|endoftext|>": EOT_ID}
WORDS = r"'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"
_WORD_PATTERN = regex.compile(WORDS, regex.IGNORECASE)
_SPECIAL_OR_WORD_PATTERN = regex.compile(
    "|".join(regex.escape(token) for token in _SPECIAL_IDS) + "|" + WORDS, regex.IGNORECASE
)


def _read_merges(path: pathlib.Path) -> list[tuple[str, str]]:
    """The merges CLIP uses, from the vocabulary file (gzip or plain text)."""
    if not path.is_file():
        raise FileNotFoundError(
            f"CLIP vocabulary {path} does not exist; pass the path of bpe_simple_vocab_16e6.txt.gz"
            ", or no path for the copy that comes with tipr_jax"
        )
    compressed = path.read_bytes()[:2] == b"\x1f\x8b"
    try:
        with (gzip.open if compressed else open)(path, "rt", encoding="utf-8") as file:
            # The first line is a version comment, and four fifths of the file are not used.
            lines = [line.rstrip("\n") for line in itertools.islice(file, 1, _NUM_MERGES + 1)]
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"CLIP vocabulary {path} is damaged ({error}); fetch it again") from error
    if hashlib.sha256("\n".join(lines).encode()).hexdigest() != _MERGES_SHA256:
        raise ValueError(
            f"{path} is not CLIP's vocabulary (its merges differ); "
            "expected bpe_simple_vocab_16e6.txt.gz as released by OpenAI"
        )
    return [tuple(line.split()) for line in lines]  # pyright: ignore[reportReturnType]


def _byte_symbols() -> dict[str, int]:
    """Symbol -> the byte it stands for, in the vocabulary's order: printable bytes come first."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(others)}


def clean(text: str) -> str:
    """CLIP's clean-up: mended unicode, html unescaped twice, single spaces, lower case."""
    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return regex.sub(r"\s+", " ", text.strip()).strip().lower()


class ClipTokenizer:
    """Text -> token ids and back.

    The BPE model itself does not contain the three control tokens, so no typed text can produce
    them, unless `allow_special=True` asks for the released code's behaviour.

    Args:
      vocab_path: CLIP's vocabulary file; None for the one that comes with the package.

    Raises:
      FileNotFoundError: the vocabulary file does not exist.
      ValueError: the file is damaged or not CLIP's.
    """

    vocab_size = VOCAB_SIZE

    def __init__(self, vocab_path: str | pathlib.Path | None = None):
        merges = _read_merges(pathlib.Path(vocab_path or VOCAB_PATH))
        self._symbol_to_byte = _byte_symbols()
        tokens = [*self._symbol_to_byte, *(s + "</w>" for s in self._symbol_to_byte)]
        tokens += ["".join(pair) for pair in merges]
        vocab = {token: i for i, token in enumerate(tokens)}
        self.bpe = Tokenizer(models.BPE(vocab, merges, end_of_word_suffix="</w>"))
        # Words are split beforehand by the `regex` module, as released (what is a letter?).
        self.bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)

    def __call__(
        self, texts: Sequence[str], length: int, *, allow_special: bool = False
    ) -> np.ndarray:
        """Tokenises N texts.

        Args:
          texts: N strings. An empty one becomes `[SOT, EOT, 0, ...]`.
          length: L, tokens per text, SOT and EOT included. Longer texts are cut and end in EOT.
          allow_special: True: `<|mask|>`, `<|startoftext|>`, `<|endoftext|>` typed in a text (any
            case) become control tokens, as in the released code. False: they are plain words.

        Returns:
          int32 [N, L], padded on the right with 0 (which is also the id of a "!" inside a word).

        Raises:
          ValueError: `texts` is a single string or holds other things than strings; length < 2.
        """
        if length < 2:
            raise ValueError(f"text length is {length}; it must be at least 2 to hold SOT and EOT")
        rows = np.zeros((len(texts), length), np.int32)
        for row, ids in zip(rows, self.encode(texts, allow_special=allow_special), strict=True):
            ids = [SOT_ID, *ids[: length - 2], EOT_ID]
            row[: len(ids)] = ids
        return rows

    def encode(self, texts: Sequence[str], *, allow_special: bool = False) -> list[list[int]]:
        """Ids of each text, without SOT, EOT, cutting or padding. Arguments as in `__call__`."""
        check_texts(texts)
        pattern = _SPECIAL_OR_WORD_PATTERN if allow_special else _WORD_PATTERN
        words = [pattern.findall(clean(text)) for text in texts]
        encoded = [e.ids for e in self.bpe.encode_batch_fast(words, is_pretokenized=True)]
        if not allow_special:
            return encoded
        return [
            self._encode_with_special(w) if any(x in _SPECIAL_IDS for x in w) else ids
            for w, ids in zip(words, encoded, strict=True)
        ]

    def _encode_with_special(self, words: list[str]) -> list[int]:
        ids: list[int] = []
        for word in words:
            special = _SPECIAL_IDS.get(word)
            ids += [special] if special else self.bpe.encode([word], is_pretokenized=True).ids
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of one row of ids: from after SOT, if there is one, up to the first EOT.

        As in the released code every word is followed by a space. A mask reads `<|mask|>`.

        Raises:
          ValueError: an id outside the vocabulary.
        """
        ids = [int(i) for i in ids]
        if unknown := [i for i in ids if not 0 <= i < VOCAB_SIZE]:
            raise ValueError(f"token id {unknown[0]} is outside the vocabulary [0, {VOCAB_SIZE})")
        ids = ids[: ids.index(EOT_ID)] if EOT_ID in ids else ids
        specials = {MASK_ID: "<|mask|></w>", SOT_ID: ""}
        # Every id below VOCAB_SIZE that is not a control token has a token.
        symbols = "".join(specials.get(i, self.bpe.id_to_token(i) or "") for i in ids)
        data = bytes(self._symbol_to_byte[symbol] for symbol in symbols)
        return data.decode("utf-8", errors="replace").replace("</w>", " ")
