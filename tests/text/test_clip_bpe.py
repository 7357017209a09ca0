"""CLIP tokenizer: control tokens, texts that the released code cannot read, the vocabulary file."""

import gzip

import pytest

from tipr_jax.text import clip_bpe
from tipr_jax.text.clip_bpe import EOT_ID, MASK_ID, SOT_ID, VOCAB_SIZE, ClipTokenizer

CONTROL_IDS = (MASK_ID, SOT_ID, EOT_ID)


@pytest.fixture(scope="module")
def tokenizer():
    return ClipTokenizer()


def test_jekyll_is_two_tokens_where_the_released_code_fails(tokenizer):
    failing = ["jekyll", "Dr Jekyll and Mr Hyde"]
    assert tokenizer.encode(failing) == [
        [43893, 865],
        [1701, 43893, 865, 537, 1982, 16343],
    ]
    assert tokenizer.decode([43893, 865]) == "jekyll "


@pytest.mark.parametrize("literal", ["<|mask|>", "<|startoftext|>", "<|endoftext|>"])
@pytest.mark.parametrize("form", ["{}", "a {} b", "x{}y", "!{}", "{0}{0}"])
def test_typed_control_token_stays_text(tokenizer, literal, form):
    for text in (form.format(literal), form.format(literal.upper())):
        for typed in (text, text.replace("<", "&lt;").replace(">", "&gt;")):
            (ids,) = tokenizer.encode([typed])
            assert ids and not set(ids) & set(CONTROL_IDS)


def test_typed_control_token_with_allow_special(tokenizer):
    texts = ["a <|MASK|> b", "<|startoftext|>x<|endoftext|>", "!<|mask|>"]
    a, eot, not_at_word_start = tokenizer.encode(texts, allow_special=True)
    assert a == [320, MASK_ID, 321]
    assert eot == [SOT_ID, 343, EOT_ID]
    # Released pattern: the run of punctuation "!<|" wins over the control token.
    assert not set(not_at_word_start) & set(CONTROL_IDS)


def test_edges_of_the_contract(tokenizer):
    assert tokenizer([], 8).shape == (0, 8)
    assert tokenizer([""], 4).tolist() == [[SOT_ID, EOT_ID, 0, 0]]
    assert tokenizer(["red " * 50], 5).tolist() == [[SOT_ID, 736, 736, 736, EOT_ID]]
    assert tokenizer.encode(["lone \ud800 surrogate"])[0]
    assert tokenizer.decode(tokenizer(["a Red\n coat"], 9)[0]) == "a red coat "
    with pytest.raises(ValueError, match="at least 2"):
        tokenizer(["a"], 1)
    with pytest.raises(ValueError, match="pass \\[text\\]"):
        tokenizer("a coat", 8)
    with pytest.raises(ValueError, match="text 1 is a NoneType"):
        tokenizer(["a coat", None], 8)
    with pytest.raises(ValueError, match=str(VOCAB_SIZE)):
        tokenizer.decode([VOCAB_SIZE])


def test_every_id_decodes(tokenizer):
    assert all(tokenizer.decode([i]) for i in range(VOCAB_SIZE) if i not in (SOT_ID, EOT_ID))


def test_vocabulary_file_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="does not exist"):
        ClipTokenizer(tmp_path / "absent.gz")
    data = clip_bpe.VOCAB_PATH.read_bytes()
    text = gzip.decompress(data).decode()
    wrong = {
        "cut.gz": (data[:5000], "damaged"),
        "flipped.gz": (data[:2] + b"\xff" + data[3:], "damaged"),
        "overwritten.gz": (data[:9000] + b"\0" * 500 + data[9500:], "damaged"),
        "other.txt": (b"#version: 0.2\ni n\n", "not CLIP's"),
        "swapped.txt": (text.replace("i n\nt h\n", "t h\ni n\n").encode(), "not CLIP's"),
        "empty.txt": (b"", "not CLIP's"),
    }
    for name, (content, message) in wrong.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=message) as error:
            ClipTokenizer(tmp_path / name)
        assert "\n" not in str(error.value)


def test_vocabulary_file_may_be_plain_text(tmp_path):
    (tmp_path / "vocab.txt").write_bytes(gzip.decompress(clip_bpe.VOCAB_PATH.read_bytes()))
    assert ClipTokenizer(tmp_path / "vocab.txt").encode(["a cat"]) == [[320, 2368]]
