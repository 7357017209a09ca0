"""Our tokenizers as `tokenizer.json` of the `tokenizers` library, for programs without tipr_jax.

`tokenizers.Tokenizer.from_file(path).encode_batch(texts)` then gives the ids that our tokenizer
gives, cut and padded to the length of the model. What the format cannot say:

| tokenizer   | differs from ours in                                                               |
|-------------|------------------------------------------------------------------------------------|
| clip_bpe    | wrongly decoded text ("cafÃ©") and HTML ("&amp;"), which stay as they are; letters |
|             | of versions of Unicode that the libraries do not share                             |
| wordpiece   | nothing                                                                            |
| xlm_roberta | texts of more words than the length of which some have no token; with a unigram    |
|             | vocabulary, long runs of one letter that can be cut in several ways of equal score |
"""

import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import tokenizers
from ftfy.chardata import CONTROL_CHARS, DOUBLE_QUOTE_RE, LIGATURES, SINGLE_QUOTE_RE, WIDTH_MAP
from ftfy.fixes import ANSI_RE
from tokenizers import Regex, models, normalizers, pre_tokenizers, processors

from tipr_jax.text import Tokenizer
from tipr_jax.text.clip_bpe import EOT_ID, SOT_ID, WORDS, ClipTokenizer
from tipr_jax.text.wordpiece import CLS, WordPieceTokenizer
from tipr_jax.text.xlm_roberta import (
    BOS_ID,
    EOS_ID,
    MODEL_FILE,
    PUNCTUATION,
    XlmRobertaTokenizer,
    library_vocabulary,
)

FILE = "tokenizer.json"
# Python writes a capital sigma at the end of a word as "ς", the library always as "σ".
LOWER = [normalizers.Replace(Regex(r"(?<=\p{L})Σ(?!\p{L})"), "ς"), normalizers.Lowercase()]
UNTYPABLE = "\0<unk>"  # a name of the unknown piece that no text has


def portable(tokenizer: Tokenizer, length: int) -> str:
    """The content of `tokenizer.json`.

    length: L, tokens of a text.

    Raises:
      ValueError: a tokenizer that is none of ours.
    """
    for kind, build in BUILDERS.items():
        if isinstance(tokenizer, kind):
            built, first, last = build(tokenizer)
            break
    else:
        raise ValueError(
            f"{type(tokenizer).__name__} has no form for the `tokenizers` library; expected one of "
            f"{', '.join(kind.__name__ for kind in BUILDERS)}"
        )
    built.post_processor = processors.TemplateProcessing(
        single=[*first, "$A", *last], special_tokens=[*first.items(), *last.items()]
    )
    built.enable_truncation(length)
    built.enable_padding(length=length, pad_id=int(tokenizer([""], length + 1)[0, -1]))
    return built.to_str()


def read_ids(path: str | os.PathLike, texts: Sequence[str]) -> np.ndarray:
    """int32 [N, L] of texts, by the file alone. Raises ValueError for a damaged file."""
    try:
        tokenizer = tokenizers.Tokenizer.from_file(os.fspath(path))
    except Exception as error:  # the library raises nothing more precise
        raise ValueError(f"{path} cannot be read ({error}); export the model again") from None
    return np.array([row.ids for row in tokenizer.encode_batch(list(texts))], np.int32)


Built = tuple[tokenizers.Tokenizer, dict[str, int], dict[str, int]]  # it, what comes first, last


def _clip_bpe(tokenizer: ClipTokenizer) -> Built:
    built = tokenizers.Tokenizer.from_str(tokenizer.bpe.to_str())
    # What ftfy does without looking at more than a few characters, in its order.
    steps = [normalizers.Replace(Regex(ANSI_RE.pattern), "")]
    steps += [normalizers.Replace(chr(c), text) for c, text in (LIGATURES | WIDTH_MAP).items()]
    for quote, found in (('"', DOUBLE_QUOTE_RE), ("'", SINGLE_QUOTE_RE)):
        steps.append(normalizers.Replace(Regex(found.pattern), quote))
    steps += [normalizers.Replace(chr(c), "") for c in CONTROL_CHARS]
    built.normalizer = normalizers.Sequence([*steps, normalizers.NFC(), *LOWER])
    words = pre_tokenizers.Split(Regex(f"(?i:{WORDS})"), behavior="removed", invert=True)
    built.pre_tokenizer = pre_tokenizers.Sequence([words, built.pre_tokenizer])
    return built, {"<|startoftext|>": SOT_ID}, {"<|endoftext|>": EOT_ID}


def _wordpiece(tokenizer: WordPieceTokenizer) -> Built:
    return tokenizers.Tokenizer.from_str(tokenizer.library.to_str()), {CLS: tokenizer.cls_id}, {}


def _xlm_roberta(tokenizer: XlmRobertaTokenizer) -> Built:
    if tokenizer.file == MODEL_FILE:
        built = _sentencepiece(tokenizer.content)
    else:
        built = library_vocabulary(tokenizer.content)
    marks = [normalizers.Replace(mark, " ") for mark in PUNCTUATION]
    spaces = normalizers.Replace(Regex(r"\s{2,}"), " ")
    after = [built.normalizer] if built.normalizer else []
    built.normalizer = normalizers.Sequence([*LOWER, *marks, spaces, normalizers.Strip(), *after])
    return built, {"<s>": BOS_ID}, {"</s>": EOS_ID}


def _sentencepiece(content: bytes) -> tokenizers.Tokenizer:
    """A SentencePiece model with the ids of XLM-R: <s>, <pad>, </s>, <unk>, pieces, <mask>."""
    schema: Any = importlib.import_module("sentencepiece.sentencepiece_model_pb2")
    proto = schema.ModelProto.FromString(content)
    first = [("\0<s>", 0.0), ("\0<pad>", 0.0), ("\0</s>", 0.0), (UNTYPABLE, 0.0)]
    pieces = [*first, *((p.piece, p.score) for p in proto.pieces[3:]), ("\0<mask>", 0.0)]
    if proto.trainer_spec.model_type == schema.TrainerSpec.BPE:
        ids = {piece: i for i, (piece, _) in enumerate(pieces)}
        model = models.BPE(ids, _merges(ids), unk_token=UNTYPABLE, fuse_unk=True)
    else:
        model = models.Unigram(pieces, unk_id=3)
    built = tokenizers.Tokenizer(model)
    steps: list[Any] = [normalizers.Replace(Regex(" {2,}"), " "), normalizers.Strip()]
    if charsmap := proto.normalizer_spec.precompiled_charsmap:
        steps.insert(0, normalizers.Precompiled(charsmap))
    built.normalizer = normalizers.Sequence(steps)
    built.pre_tokenizer = pre_tokenizers.Metaspace("▁", "always")
    return built


def _merges(ids: dict[str, int]) -> list[tuple[str, str]]:
    """Which pairs of pieces join, the first of the vocabulary first: SentencePiece joins any pair
    that makes a piece, and prefers the piece of the best score, which stands first.
    """
    return [
        (piece[:i], piece[i:])
        for piece in ids
        if not piece.startswith("\0")
        for i in range(1, len(piece))
        if piece[:i] in ids and piece[i:] in ids
    ]


BUILDERS: dict[type, Callable[[Any], Built]] = {
    ClipTokenizer: _clip_bpe,
    WordPieceTokenizer: _wordpiece,
    XlmRobertaTokenizer: _xlm_roberta,
}
