"""WordPiece tokenizer: BERT's rules without [SEP], vocabulary files, training."""

import json
import subprocess
import sys

import numpy as np
import pytest

from tipr_jax.text import load_tokenizer, wordpiece
from tipr_jax.text.clip_bpe import ClipTokenizer
from tipr_jax.text.wordpiece import WordPieceTokenizer, train

# The start of bert-base-uncased, in small: unused places, [SEP] and pieces in no special order.
PIECES = (
    "[PAD] [unused0] [UNK] [CLS] [SEP] [MASK] , - . a ##a man white shirt ##s ##shirt t cafe "
    "wear ##ing jeans ##irt sh [ ] mask"
).split()
CAPTIONS = [
    "A man with a white t-shirt and blue jeans.",
    "The woman wears a red dress, white shoes and carries a bag.",
    "He walks away from the camera; his shirt is striped.",
] * 3


@pytest.fixture
def tokenizer():
    return WordPieceTokenizer(PIECES)


def pieces(tokenizer, text, length=20):
    row = tokenizer([text], length)[0]
    assert not row[np.flatnonzero(row == 0)[0] if 0 in row else length :].any()
    return [tokenizer.pieces[i] for i in row if i]


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("A man", "[CLS] a man"),
        ("white t-shirts, jeans.", "[CLS] white t - shirt ##s , jeans ."),
        ("tshirt", "[CLS] t ##shirt"),  # the longest piece first
        ("wearing a CAFÉ", "[CLS] wear ##ing a cafe"),  # lower case, no accents
        ("  man\n\tman ", "[CLS] man man"),
        ("manx", "[CLS] [UNK]"),  # the word as a whole
        ("[MASK]", "[CLS] [ mask ]"),  # typed special pieces are text
        ("", "[CLS]"),
    ],
)
def test_pieces(tokenizer, text, want):
    assert pieces(tokenizer, text) == want.split()


def test_no_sep_fixed_length_and_cut_tail(tokenizer):
    ids = tokenizer(["man " * 10, "a man"], 5)
    man, a = PIECES.index("man"), PIECES.index("a")
    assert ids.dtype == np.int32
    assert ids.tolist() == [[3, man, man, man, man], [3, a, man, 0, 0]]
    assert tokenizer([], 4).shape == (0, 4)


def test_properties(tokenizer):
    assert tokenizer.vocab_size == len(PIECES)
    assert (tokenizer.cls_id, tokenizer.mask_id) == (3, 5)
    continuing = [PIECES[i] for i in np.flatnonzero(tokenizer.continues_word)]
    assert continuing == ["##a", "##s", "##shirt", "##ing", "##irt"]


def test_bad_calls(tokenizer):
    with pytest.raises(ValueError, match="got one string 'man'"):
        tokenizer("man", 5)
    with pytest.raises(ValueError, match="text 1 is a int"):
        tokenizer(["man", 3], 5)
    with pytest.raises(ValueError, match="text length is 0"):
        tokenizer(["man"], 0)


def test_vocab_txt_and_tokenizer_json_give_the_same(tokenizer, tmp_path):
    (tmp_path / "json").mkdir()
    ids = {piece: i for i, piece in reversed(list(enumerate(PIECES)))}
    model = {"type": "WordPiece", "vocab": ids}
    (tmp_path / "json" / "tokenizer.json").write_text(json.dumps({"model": model}))
    tokenizer.save(tmp_path / "new" / "txt")
    assert [p.name for p in (tmp_path / "new" / "txt").iterdir()] == ["vocab.txt"]
    for directory in (tmp_path / "json", tmp_path / "new" / "txt"):
        loaded = WordPieceTokenizer.load(directory)
        assert loaded.pieces == tokenizer.pieces
        np.testing.assert_array_equal(loaded(CAPTIONS, 9), tokenizer(CAPTIONS, 9))


def test_a_windows_copy_of_vocab_txt(tokenizer, tmp_path):
    (tmp_path / "vocab.txt").write_bytes("\r\n".join([*PIECES, ""]).encode())
    assert WordPieceTokenizer.load(tmp_path).pieces == tokenizer.pieces


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.remove("[MASK]"), r"lacks \[MASK\]; expected the vocabulary of bert"),
        (lambda p: [p.remove("[CLS]"), p.remove("[UNK]")], r"lacks \[UNK\], \[CLS\]"),
        (lambda p: p.reverse(), r"\[PAD\] has id 25, expected 0"),
        (lambda p: p.append("shirt"), "'shirt' occurs twice"),
        (lambda p: p.append("##Shirt"), "'##Shirt' has capitals"),
    ],
)
def test_unfit_vocabularies_are_named(tmp_path, change, message):
    changed = list(PIECES)
    change(changed)
    (tmp_path / "vocab.txt").write_text("\n".join(changed))
    with pytest.raises(ValueError, match=message) as error:
        WordPieceTokenizer.load(tmp_path)
    assert str(error.value).startswith(str(tmp_path)) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not a tokenizer"),
        ("[]", "not a tokenizer"),
        ('{"model": {"type": "BPE", "vocab": {"a": 0}}}', "a BPE vocabulary with 1 pieces"),
        ('{"model": {"type": "WordPiece", "vocab": {"a": 1}}}', "expected WordPiece with ids 0"),
    ],
)
def test_unfit_tokenizer_json(tmp_path, content, message):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        WordPieceTokenizer.load(tmp_path)
    assert "\n" not in str(error.value)


def test_missing_vocabulary(tmp_path):
    with pytest.raises(FileNotFoundError, match="expected .*vocab.txt or tokenizer.json"):
        WordPieceTokenizer.load(tmp_path)


def test_training_spells_captions_and_everything_else():
    tokenizer = train(CAPTIONS, 400)
    assert tokenizer.vocab_size <= 400 and tokenizer.pieces[0] == "[PAD]"
    assert pieces(tokenizer, "a white t-shirt.") == "[CLS] a white t - shirt .".split()
    assert "[UNK]" not in pieces(tokenizer, "quokka 42% @home #9")
    assert pieces(tokenizer, "中") == ["[CLS]", "[UNK]"]
    assert "中" in train([*CAPTIONS, "中"], 400).pieces
    with pytest.raises(ValueError, match="vocab_size is 100, but special pieces and characters"):
        train(CAPTIONS, 100)


def test_training_is_the_same_in_every_process():
    """All words are equally frequent, so that every merge is a tie."""
    code = (
        "from tipr_jax.text.wordpiece import train; import itertools;"
        "words = [''.join(w) for w in itertools.permutations('abcdefg', 4)];"
        "print(*train([' '.join(words)], 250).pieces)"
    )
    run = [sys.executable, "-c", code]
    got = {subprocess.run(run, capture_output=True, check=True).stdout for _ in range(3)}
    assert len(got) == 1 and len(got.pop().split()) == 250


def test_the_table_of_tokenizers(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    assert load_tokenizer("wordpiece", tmp_path).pieces == tokenizer.pieces
    assert isinstance(load_tokenizer("clip_bpe"), ClipTokenizer)
    with pytest.raises(ValueError, match="'bert' is unknown; use one of clip_bpe, wordpiece"):
        load_tokenizer("bert", tmp_path)


def test_special_pieces_of_the_trained_vocabulary_are_few():
    """Characters are told to the trainer as special pieces; the tokenizer knows four."""
    tokenizer = train(CAPTIONS, 400)
    assert tokenizer.pieces[:4] == wordpiece.SPECIAL
    assert pieces(tokenizer, "shirts")[1] == "shirt"
