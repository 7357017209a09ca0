"""XLM-R tokenizer: cleaning, both kinds of vocabulary files, training, unfit files."""

import base64
import io
import json
import pathlib
import string
import subprocess
import sys

import numpy as np
import pytest
import sentencepiece

from tipr_jax.text import load_tokenizer, save_tokenizer
from tipr_jax.text.xlm_roberta import (
    JSON_FILE,
    MODEL_FILE,
    XlmRobertaTokenizer,
    clean,
    train,
)

ROOT = pathlib.Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "golden" / "bi_irra" / "tokenizer.json"
# English, Chinese, French, German
CAPTIONS = [row["raw"] for row in json.loads(GOLDEN.read_text(encoding="utf-8"))["captions"]]


@pytest.fixture(scope="module")
def tokenizer():
    return train(CAPTIONS, 700)


@pytest.fixture(scope="module")
def unigram():
    """A vocabulary of XLM-R's kind, which ours are not."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=map(clean, CAPTIONS),
        model_writer=model,
        model_type="unigram",
        vocab_size=700,
        hard_vocab_limit=False,
        character_coverage=1.0,
        required_chars=string.ascii_letters + string.digits + "%@<>",
        minloglevel=2,
    )
    return XlmRobertaTokenizer(MODEL_FILE, model.getvalue(), "unigram vocabulary")


def pieces_of(tokenizer):
    """Pieces and scores of a SentencePiece vocabulary, in the order of XLM-R's tokenizer.json."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.content)
    rest = [(model.id_to_piece(i), model.get_score(i)) for i in range(3, len(model))]
    first = [(piece, 0.0) for piece in ("<s>", "<pad>", "</s>", "<unk>")]
    return [*first, *rest, ("<mask>", 0.0)]


def tokenizer_json(tokenizer):
    """The vocabulary in the layout of XLM-R's tokenizer.json."""
    from sentencepiece import sentencepiece_model_pb2

    model = sentencepiece_model_pb2.ModelProto.FromString(tokenizer.content)
    charsmap = base64.b64encode(model.normalizer_spec.precompiled_charsmap).decode()
    pieces = pieces_of(tokenizer)
    ids = {piece: i for i, (piece, _) in enumerate(pieces)}
    flags = dict(single_word=False, lstrip=False, rstrip=False, normalized=False, special=True)
    special = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    ends = [{"SpecialToken": {"id": end, "type_id": 0}} for end in ("<s>", "</s>")]
    template = [ends[0], {"Sequence": {"id": "A", "type_id": 0}}, ends[1]]
    return {
        "version": "1.0",
        "truncation": {
            "max_length": 6,
            "strategy": "LongestFirst",
            "stride": 0,
            "direction": "Right",
        },
        "padding": None,
        "added_tokens": [{"id": ids[piece], "content": piece, **flags} for piece in special],
        "normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap},
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                {"type": "WhitespaceSplit"},
                {"type": "Metaspace", "replacement": "▁", "add_prefix_space": True},
            ],
        },
        "post_processor": {
            "type": "TemplateProcessing",
            "single": template,
            "pair": template,
            "special_tokens": {
                end: {"id": end, "ids": [ids[end]], "tokens": [end]} for end in ("<s>", "</s>")
            },
        },
        "decoder": None,
        "model": {"type": "Unigram", "unk_id": 3, "vocab": [list(pair) for pair in pieces]},
    }


@pytest.fixture(scope="module")
def twin(unigram):
    """The same vocabulary, read from a tokenizer.json."""
    return XlmRobertaTokenizer(JSON_FILE, json.dumps(tokenizer_json(unigram)).encode())


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("A Man. (young)", "a man young"),
        ("don't, well-known? 3/4", "don't, well-known? 3/4"),
        ("一名男子。穿着(白)衬衫", "一名男子。穿着 白 衬衫"),
        ("a\tman \n wears", "a\tman wears"),  # only runs become a space
        ("  a man \n", "a man"),
        ("one two three four", "one two three"),
        ("", ""),
    ],
)
def test_cleaning(text, want):
    assert clean(text, 3) == want


def test_ids(tokenizer):
    """<s> pieces </s>, padded with 1; a long text loses its last words, then its last pieces."""
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.content)
    texts = ["", "A man", "man " * 30, "乙"]
    ids = tokenizer(texts, 8)
    assert ids.dtype == np.int32 and ids.shape == (4, 8)
    assert ids[0].tolist() == [0, 2, 1, 1, 1, 1, 1, 1]
    man = [i + 1 for i in model.encode("a man")]
    assert ids[1].tolist() == [0, *man, 2] + [1] * (6 - len(man))
    assert ids[2, -1] == 2 and len(set(ids[2, 1:-1])) == len(set(model.encode("man man man")))
    assert 3 in ids[3]  # an unknown character
    assert tokenizer([], 5).shape == (0, 5)
    long = tokenizer([CAPTIONS[0]], 300)[0]
    assert tokenizer([CAPTIONS[0]], 20)[0, :19].tolist() == long[:19].tolist()


def test_special_ids(tokenizer):
    model = sentencepiece.SentencePieceProcessor(model_proto=tokenizer.content)
    assert tokenizer.vocab_size == len(model) + 2 == len(pieces_of(tokenizer))
    assert (tokenizer.pad_id, tokenizer.mask_id) == (1, tokenizer.vocab_size - 1)


def test_both_files_give_the_same_ids(unigram, twin):
    assert (twin.vocab_size, twin.mask_id) == (unigram.vocab_size, unigram.mask_id)
    odd = [
        "",
        "ﬁve Ⅷ ½ ｆｕｌｌ",
        "乙丙 unknown 丁",
        "a\tb",
        "naïve café",
        "\u200bzero\u3000wide",
        "42%",
    ]
    for length in (5, 77):
        texts = CAPTIONS + odd
        np.testing.assert_array_equal(unigram(texts, length), twin(texts, length))


@pytest.mark.parametrize("text", ["<mask>", "a <s> b </s>", "<pad>", "<unk>"])
def test_typed_special_pieces_are_text(unigram, twin, text):
    np.testing.assert_array_equal(unigram([text], 30), twin([text], 30))
    ids = unigram([text], 30)[0]
    assert unigram.mask_id not in ids
    assert np.flatnonzero(ids == 0).tolist() == [0] and np.count_nonzero(ids == 2) == 1
    end = np.flatnonzero(ids == 2)[0]
    assert 1 not in ids[:end]


def test_save_and_load(unigram, twin, tmp_path):
    for given, file in ((unigram, MODEL_FILE), (twin, JSON_FILE)):
        save_tokenizer(given, tmp_path / file)
        directory = tmp_path / file / "tokenizer"
        assert [path.name for path in directory.iterdir()] == [file]
        loaded = load_tokenizer("xlm_roberta", directory)
        np.testing.assert_array_equal(loaded(CAPTIONS, 30), unigram(CAPTIONS, 30))
        assert loaded.content == given.content


def test_training(tokenizer):
    """All characters are pieces, so only those of no caption are unknown."""
    assert tokenizer.vocab_size <= 700
    assert 3 not in tokenizer(CAPTIONS, 200)
    assert 3 not in tokenizer(["quokka 42% @home"], 40)
    assert train(["a man"] * 3, 5000).vocab_size < 100  # no more than the corpus gives
    assert train(CAPTIONS, 650).vocab_size <= 650
    # Seven tokens per ten letters or fewer: it learns words, not letters alone.
    letters = sum(len(text) for text in CAPTIONS[:1])
    assert np.count_nonzero(tokenizer(CAPTIONS[:1], 200) > 3) < 0.7 * letters


@pytest.mark.parametrize(
    ("captions", "size", "message"),
    [
        (["a man"], 20, "vocab_size is 20, which does not hold the characters"),
        ([" . ", ""], 500, "there are no captions to make a vocabulary from"),
    ],
)
def test_impossible_training(captions, size, message):
    with pytest.raises(ValueError, match=message) as error:
        train(captions, size)
    assert "\n" not in str(error.value)


def test_training_is_the_same_in_every_process_and_silent():
    code = (
        "import itertools, hashlib; from tipr_jax.text.xlm_roberta import train;"
        "words = [''.join(w) for w in itertools.permutations('abcdefg', 4)];"
        "print(hashlib.sha256(train([' '.join(words)], 250).content).hexdigest())"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, cwd=ROOT)
        for _ in range(2)
    ]
    assert runs[0].stdout == runs[1].stdout and not runs[0].stderr


def test_bad_calls(tokenizer):
    with pytest.raises(ValueError, match="got one string 'man'"):
        tokenizer("man", 5)
    with pytest.raises(ValueError, match="text length is 1; it must be at least 2"):
        tokenizer(["man"], 1)


def test_missing_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"expected .*{MODEL_FILE} or {JSON_FILE}"):
        XlmRobertaTokenizer.load(tmp_path)


def changed_json(tokenizer, change):
    file = tokenizer_json(tokenizer)
    change(file)
    return json.dumps(file).encode()


def another_model(**options):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CAPTIONS), model_writer=model, minloglevel=2, **options
    )
    return model.getvalue()


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        (MODEL_FILE, lambda t: b"", "not a SentencePiece model"),
        (MODEL_FILE, lambda t: b"<html>not found</html>", "not a SentencePiece model"),
        (MODEL_FILE, lambda t: t.content[: len(t.content) // 2], "not a SentencePiece model"),
        (
            MODEL_FILE,
            lambda t: another_model(vocab_size=400, pad_id=0, unk_id=1, bos_id=2, eos_id=3),
            r"have the ids \(1, 2, 3, 0\), expected \(0, 1, 2, -1\)",
        ),
        (JSON_FILE, lambda t: b"{", "not a tokenizer .*property name"),
        (JSON_FILE, lambda t: b"\x80", "not a tokenizer .*decode"),
        (JSON_FILE, lambda t: b"[]", "not a tokenizer"),
        (
            JSON_FILE,
            lambda t: b'{"model": {"type": "WordPiece", "vocab": {"a": 0}}}',
            r"a WordPiece vocabulary with the special pieces \(\), expected Unigram",
        ),
        (
            JSON_FILE,
            lambda t: changed_json(t, lambda file: file["model"]["vocab"].pop()),
            r"pieces \('<s>', .*, expected Unigram with .*'<mask>'\)",
        ),
        (
            JSON_FILE,
            lambda t: changed_json(t, lambda file: file["model"].update(unk_id=10**6)),
            "not a tokenizer .*UnkId",
        ),
    ],
)
def test_unfit_files(tokenizer, tmp_path, file, content, message):
    (tmp_path / file).write_bytes(content(tokenizer))
    with pytest.raises(ValueError, match=message) as error:
        XlmRobertaTokenizer.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path / file)) and "\n" not in str(error.value)
