"""A trained model on this machine: languages of queries, re-ranked searches, its resize filter."""

import dataclasses
import json

import jax
import numpy as np
import pytest
from flax import nnx
from PIL import Image

from tipr_jax import run_files
from tipr_jax.gallery import __main__ as command
from tipr_jax.gallery.retriever import Retriever
from tipr_jax.inference.model import TrainedModel
from tipr_jax.metrics.unit_vectors import l2_normalise
from tipr_jax.models import get_method, irra
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.models.bi_irra.model import text_mask
from tipr_jax.precision import policy
from tipr_jax.preprocess import image as preprocess
from tipr_jax.train_state import define_model

CONFIG = Config.tiny(losses=("itc", "itm"), languages=("en", "zh"))


def tokenizer(texts, length):
    """Every character is a token."""
    ids = np.full((len(texts), length), 1, np.int32)
    for row, text in zip(ids, texts, strict=True):
        kept = [0] + [ord(c) % 100 + 4 for c in text][: length - 1]
        row[: len(kept)] = kept
    return ids


def parameters(config) -> dict:
    abstract = nnx.to_pure_dict(define_model(get_method("bi_irra"), config, policy())[1])
    rng = np.random.default_rng(1)
    draw = lambda x: 0.4 * rng.standard_normal(x.shape, np.float32) + (x.ndim == 0)  # noqa: E731
    return jax.tree.map(draw, abstract)


@pytest.fixture(scope="module")
def model() -> TrainedModel:
    return TrainedModel("bi_irra", CONFIG, parameters(CONFIG), tokenizer, test_resize="bicubic")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[str]:
    directory, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for i in range(6):
        pixels = rng.integers(0, 256, (50, 21, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(directory / f"{i}.png")
    return sorted(map(str, directory.iterdir()))


@pytest.fixture(scope="module")
def released(model):
    """released(method, *arguments): the module itself."""
    graphdef = define_model(get_method("bi_irra"), CONFIG.for_inference(), policy())[0]

    def call(method: str, *arguments):
        run = lambda params, *x: getattr(nnx.merge(graphdef, params), method)(*x)  # noqa: E731
        return np.asarray(jax.jit(run)(model.params, *arguments))

    return call


def pixels(photos):
    return np.stack([preprocess.resize(preprocess.decode(p), (32, 16), "bicubic") for p in photos])


def test_photos_are_resized_with_the_models_filter(model, released, photos):
    want = l2_normalise(released("encode_image", pixels(photos)))
    np.testing.assert_allclose(model.embed_images(photos), want, atol=1e-5)


@pytest.mark.parametrize("language, index", [("", 0), ("en", 0), ("zh", 1)])
def test_language_of_a_query(model, released, language, index):
    ids = tokenizer(["a man"], CONFIG.text_length)
    tokens = released("text_tokens", ids)
    chosen = (np.array([index]),) if index else ()  # int [B] is of targets only
    want = l2_normalise(released("text_feature", tokens, *chosen))
    np.testing.assert_allclose(model.embed_texts(["a man"], language), want, atol=1e-5)


def test_a_language_that_the_model_lacks(model):
    with pytest.raises(ValueError, match="'fr' is not one of the model's: en, zh"):
        model.embed_texts(["un homme"], "fr")


def test_rerank(model, released, photos):
    retriever = Retriever.in_memory(model)
    retriever.add(photos)
    by_cosine = [m.path for m in retriever.search("red", 6, language="zh")]
    found = retriever.search("red", 2, language="zh", rerank=4)
    ids = np.repeat(tokenizer(["red"], CONFIG.text_length), 4, 0)
    tokens = released("image_tokens", pixels(by_cosine[:4]))
    logits = released("match", tokens, released("text_tokens", ids), text_mask(ids))[:, 1]
    order = np.argsort(-logits)[:2]
    assert [m.path for m in found] == [by_cosine[i] for i in order]
    np.testing.assert_allclose([m.score for m in found], logits[order], atol=1e-4)


def test_a_model_without_matching_head_cannot_rerank(photos):
    config = dataclasses.replace(CONFIG, losses=("itc",))
    model = TrainedModel("bi_irra", config, parameters(config), tokenizer)
    with pytest.raises(ValueError, match="no matching head"):
        model.match(photos, "red")


def test_command_line(model, photos, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr("tipr_jax.inference.model.load", lambda directory, language="": model)
    gallery, picture = tmp_path / "my.gallery", tmp_path / "search.png"
    Retriever.create(gallery, model).add(photos)
    options = ["search", "rot", f"--gallery={gallery}", f"--model={tmp_path}", "--top=3"]
    options += ["--rerank=5", f"--picture={picture}"]
    command.main([*options, "--language=zh"])
    best = Retriever.open(gallery, model).search("rot", 3, language="zh", rerank=5)
    shown = capsys.readouterr().out
    assert all(match.path in shown for match in best) and picture.exists()
    with pytest.raises(SystemExit, match="'de' is not one"):
        command.main([*options, "--language=de"])


def run_config(**data) -> dict:
    fields = dict(image_size=[32, 16], text_length=12, source="en", target="fr", languages=[])
    return {
        "method": "bi_irra",
        "model": {"mim_pairs": [["source", "target"]], "losses": ["itc"]},
        "data": fields | data,
    }


def test_languages_and_filter_of_a_run(tmp_path):
    write = lambda config: (tmp_path / "config.json").write_text(json.dumps(config))  # noqa: E731
    write(run_config(test_resize="bicubic"))
    assert run_files.test_resize(tmp_path) == "bicubic"
    _, fields = run_files.model_fields(tmp_path)
    assert fields["languages"] == ("en", "fr")
    assert fields["mim_pairs"] == (("source", "target"),)
    hash(Config(**fields))
    write(run_config(languages=["en", "de", "zh"]))
    assert run_files.model_fields(tmp_path)[1]["languages"] == ("en", "de", "zh")
    assert run_files.test_resize(tmp_path) == "bilinear"  # runs before there was a choice
    write(run_config(source="", target=""))
    assert "languages" not in run_files.model_fields(tmp_path)[1]
    write({"method": "irra", "model": {}, "test_resize": "bicubic"})  # a model directory
    assert run_files.test_resize(tmp_path) == "bicubic"
    assert irra.Config().languages == ()
