"""`tokenizer.json`, read by the `tokenizers` library alone, gives the ids of our tokenizers."""

import html
import io
import json
import re
from pathlib import Path
from typing import Any, cast

import ftfy
import numpy as np
import pytest
import sentencepiece
import tokenizers

from tests.text.test_xlm_roberta import tokenizer_json
from tipr_jax.text import wordpiece, xlm_roberta
from tipr_jax.text.clip_bpe import ClipTokenizer
from tipr_jax.text.portable import portable

GOLDEN = Path(__file__).parents[1] / "golden"


def golden_captions(paper: str, field: str) -> list[str]:
    file = GOLDEN / paper / "tokenizer.json"
    return [row[field] for row in json.loads(file.read_text(encoding="utf-8"))["captions"]]


# English, Chinese, French, German; then CLIP's, with emoji, HTML and typed control tokens.
CAPTIONS = golden_captions("bi_irra", "raw") + golden_captions("irra", "text")
TYPED = [
    *("", " ", "\n", "a", "  two  spaces\tand\ta tab\n", "x" * 300, "word " * 200),
    *("a\u00a0b\u3000c", "A MAN'S T-SHIRT, IT'S RED; THEY'LL", "man’s “red” ‘coat’"),
    *("ﬁne ﬂat ﬀ", "ＡＢＣ １２３ ｶﾞ", "<s> </s> <pad> <mask> <unk>"),
    *("[CLS] [MASK] [UNK] [PAD]", "<|mask|> <|startoftext|>", "👩🏽‍🦰 mit 👜"),
    *("café, cafe\u0301", "Straße ÄÖÜ", "穿红色外套的女人。", "दो लोग", "رجل يرتدي", "사람"),
    *("İstanbul", "ΟΔΟΣ", "\u200bzero\u200dwidth", "½ ² ™ ℃", "3,000.50$ #1 @home ~50%"),
    *("\ufffd \ufeff", "jekyll and hyde", "'ſ'S", "a_b-c/d\\e", "ǅ ß ŉ", "!!! ... (yes)"),
    *("Жёлтая куртка", "a\x07bell"),
]
RUN_OF_ONE_LETTER = re.compile(r"(.)\1{30}")


def unigram() -> xlm_roberta.XlmRobertaTokenizer:
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(xlm_roberta.clean, CAPTIONS),
        model_writer=model,
        model_type="unigram",
        vocab_size=700,
        hard_vocab_limit=False,
        character_coverage=0.999,  # so some letters are unknown
        minloglevel=2,
    )
    return xlm_roberta.XlmRobertaTokenizer(xlm_roberta.MODEL_FILE, model.getvalue())


def as_json(tokenizer) -> xlm_roberta.XlmRobertaTokenizer:
    content = json.dumps(tokenizer_json(tokenizer)).encode()
    return xlm_roberta.XlmRobertaTokenizer(xlm_roberta.JSON_FILE, content)


MAKERS = {
    "clip_bpe": ClipTokenizer,
    "wordpiece": lambda: wordpiece.train(CAPTIONS, 900),
    "xlm_roberta bpe": lambda: xlm_roberta.train(CAPTIONS, 900),
    "xlm_roberta unigram": unigram,
    "xlm_roberta json": lambda: as_json(unigram()),
}


@pytest.fixture(scope="module", params=MAKERS)
def tokenizer(request):
    return MAKERS[request.param]()


def ids(tokenizer, length, texts, tmp_path):
    file = tmp_path / "tokenizer.json"
    file.write_text(portable(tokenizer, length), encoding="utf-8")
    rows = tokenizers.Tokenizer.from_file(str(file)).encode_batch(texts)
    return np.array([row.ids for row in rows])


def differing(tokenizer, length, texts, tmp_path):
    want, got = tokenizer(texts, length), ids(tokenizer, length, texts, tmp_path)
    assert got.shape == want.shape
    return [text for text, a, b in zip(texts, want, got, strict=True) if (a != b).any()]


def is_exception(tokenizer, text):
    """Whether the docstring of `portable` says that the ids of a text may differ."""
    if isinstance(tokenizer, ClipTokenizer):
        return html.unescape(text) != text or ftfy.fix_encoding(text) != text
    return RUN_OF_ONE_LETTER.search(text) and getattr(tokenizer, "file", "") != ""


@pytest.mark.parametrize("length", [5, 24, 77])
def test_ids_are_equal(tokenizer, length, tmp_path):
    texts = [text for text in CAPTIONS + TYPED if not is_exception(tokenizer, text)]
    assert len(texts) > 100
    assert differing(tokenizer, length, texts, tmp_path) == []


def test_ids_of_mixed_characters(tokenizer, tmp_path):
    """Texts of up to 25 characters drawn from all captions."""
    rng, characters = np.random.default_rng(0), [*"".join(CAPTIONS + TYPED)]
    drawn = (rng.integers(0, len(characters), rng.integers(1, 26)) for _ in range(1000))
    texts = ["".join(characters[i] for i in places) for places in drawn]
    assert differing(tokenizer, 30, texts, tmp_path) == []


def test_what_the_file_cannot_mend(tmp_path):
    texts = ["a man &amp; a woman", "cafÃ© sign"]
    assert differing(ClipTokenizer(), 20, texts, tmp_path) == texts


def test_other_tokenizers_are_refused():
    with pytest.raises(ValueError, match="object has no form for the `tokenizers` library"):
        portable(cast("Any", object()), 5)
