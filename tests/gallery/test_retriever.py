"""The Python interface and the command of the search, on a model of random weights."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from PIL import Image

from tipr_jax.gallery import Retriever, find_images
from tipr_jax.gallery.__main__ import main
from tipr_jax.inference.model import TrainedModel
from tipr_jax.models.irra import Config
from tipr_jax.precision import policy
from tipr_jax.text.clip_bpe import VOCAB_SIZE, ClipTokenizer
from tipr_jax.train_state import define_model

ROOT = Path(__file__).resolve().parents[2]
CONFIG = Config.tiny(losses=(), vocab_size=VOCAB_SIZE)


@pytest.fixture(scope="module")
def model():
    from tipr_jax.models import get_method

    init = define_model(get_method("irra"), CONFIG, policy())[2]
    params = jax.tree.map(np.asarray, init(jax.random.key(0)))
    return TrainedModel("irra", CONFIG, params, ClipTokenizer())


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in ("a", "b", "c"):
        Image.fromarray(rng.integers(0, 255, (48, 20, 3), np.uint8)).save(folder / f"{name}.png")
    return folder


def cut(path):
    path.write_bytes(path.read_bytes()[:200])


def huge(path):
    Image.new("L", (12_000, 9_000)).save(path)


@pytest.mark.parametrize(("damage", "kind"), [(cut, "damaged"), (huge, "too large")])
def test_what_cannot_be_decoded_is_returned(model, photos, damage, kind):
    damage(photos / "b.png")
    retriever = Retriever(model)
    (skipped,) = retriever.add(find_images(photos))
    assert (skipped.path, skipped.kind) == (str(photos / "b.png"), kind)
    assert len(retriever.search("a man", k=9)) == 2


def test_a_photo_is_added_once(model, photos):
    retriever = Retriever(model)
    retriever.add(find_images(photos))
    features = retriever.features
    retriever.add(find_images(photos))
    retriever.add([os.path.relpath(photos / "a.png")])
    assert len(retriever.paths) == 3
    np.testing.assert_array_equal(retriever.features, features)


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one(model, photos, k):
    retriever = Retriever(model)
    retriever.add(find_images(photos))
    with pytest.raises(ValueError, match=f"k is {k}, expected at least 1"):
        retriever.search("a man", k=k)


@pytest.mark.parametrize("sentence", ["", "  \n", "?!"])
def test_a_sentence_without_a_word(model, sentence):
    with pytest.raises(ValueError, match="describe the person"):
        Retriever(model).search(sentence)


GREY = np.linspace(0, 255, 48 * 20).astype(np.uint8).reshape(48, 20)


@pytest.mark.parametrize(
    "array",
    [GREY, GREY[..., None], np.dstack([GREY] * 3 + [np.full_like(GREY, 255)])],
    ids=["grey", "one channel", "RGBA"],
)
def test_arrays_that_are_the_same_picture(model, array):
    want = model.embed_images([np.dstack([GREY] * 3)])
    np.testing.assert_array_equal(model.embed_images([array]), want)


@pytest.mark.parametrize(
    "array",
    [np.zeros((4, 4, 3), np.float32), np.zeros((4, 4, 2), np.uint8), np.zeros((3,), np.uint8)],
)
def test_other_arrays_are_refused_by_dtype_and_shape(model, array):
    with pytest.raises(ValueError, match=rf"{array.dtype}.*expected uint8"):
        model.embed_images([array])


@pytest.mark.parametrize("damage", [np.nan, np.inf, 0])
def test_damaged_weights_are_refused(model, photos, damage):
    params = jax.tree.map(lambda x: np.full(x.shape, damage, x.dtype), model.params)
    damaged = TrainedModel("irra", CONFIG, params, ClipTokenizer())
    with pytest.raises(ValueError, match="weights are damaged"):
        Retriever(damaged).add(find_images(photos))


@pytest.mark.parametrize(
    ("sentence", "words"),
    [
        ("a man " * 20 + "with a green cap", "green cap"),
        ("un homme avec une veste rouge et un sac", "French"),
        ("ein Mann mit einem roten Mantel", "German"),
        ("穿红色外套的男人", "Chinese"),
        ("человек в красной куртке", "Cyrillic"),
    ],
)
def test_doubts_about_a_query(model, sentence, words):
    assert words in " ".join(model.doubts(sentence))


@pytest.mark.parametrize("sentence", ["a man in a red coat", "red jacket, jeans", "person 7"])
def test_no_doubts(model, sentence):
    assert model.doubts(sentence) == []


@pytest.fixture
def command(model, monkeypatch, photos, tmp_path, capsys):
    """Runs the command on the model above; returns (exit code or message, what was printed)."""
    monkeypatch.setattr(Retriever, "load", lambda directory, language: Retriever(model))
    monkeypatch.chdir(tmp_path)

    def run(**changes):
        options = {"model": str(tmp_path), "images": str(photos), "query": "a man"} | changes
        try:
            main([f"--{key}={value}" for key, value in options.items()])
            code = 0
        except SystemExit as end:
            code = end.code
        printed = capsys.readouterr()
        return code, printed.out + printed.err

    return run


def test_command(command, photos, tmp_path):
    cut(photos / "b.png")
    code, printed = command(picture="new/folder/answer")
    assert code == 0 and "among 2 photos" in printed and "damaged: 1" in printed
    assert "b.png" in printed and "picture: new/folder/answer.png" in printed
    assert (tmp_path / "new" / "folder" / "answer.png").stat().st_size > 1000


def test_command_prints_names_that_are_no_utf8(model, photos, tmp_path):
    """In a process of its own, for the encoding of the terminal is set at start."""
    os.replace(photos / "a.png", os.fsencode(photos) + b"/\xd5\xd5\xc6.png")
    code = (
        "from tipr_jax import command_line; command_line.tolerant_output()\n"
        f"from tipr_jax.gallery import find_images; print(*find_images({str(photos)!r}))"
    )
    for encoding in ("utf-8", "ascii"):
        env = os.environ | {"PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True)
        assert done.returncode == 0, done.stderr
        assert b"\\udcd5" in done.stdout and b"b.png" in done.stdout


MISTAKES = {
    "query=": "describe the person",
    "images=nowhere": "nowhere: no such folder or photo",
    "model=gone": "gone: no such run or model directory",
    "top=0": "'0' is not a whole number of at least 1",
    "top=many": "'many' is not a whole number",
    "topp=3": "unknown argument '--topp=3', did you mean --top?",
    "picture=answer.xyz": "expected a name ending in .png",
    "images=gs://bucket/photos": "an address",
    "rerank=5": "no matching head",
    "language=zh": "'zh' is not one of the model's",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_are_one_line_before_any_photo_is_read(command, monkeypatch, mistake):
    monkeypatch.setattr(Retriever, "add", lambda *args: pytest.fail("photos were read"))
    name, _, value = mistake.partition("=")
    code, printed = command(**{name: value})
    line = str(code) + printed
    assert code != 0 and MISTAKES[mistake] in line and len(line.splitlines()) == 1
