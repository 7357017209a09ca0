"""A model in its exported form gives what the modules of its paper give, without their code."""

import dataclasses
import json
import shutil
import subprocess
import sys

import jax
import numpy as np
import pytest
from flax import nnx

from tipr_jax.gallery import models
from tipr_jax.gallery.retriever import Retriever
from tipr_jax.inference import artifact, exported
from tipr_jax.inference.exported import ExportedModel
from tipr_jax.inference.model import TrainedModel, load
from tipr_jax.models import bi_irra, get_method, irra, ivt
from tipr_jax.paths import cache_directory
from tipr_jax.precision import ComputePolicy, policy
from tipr_jax.text import wordpiece, xlm_roberta
from tipr_jax.text.clip_bpe import VOCAB_SIZE, ClipTokenizer
from tipr_jax.train_state import define_model

SENTENCES = ["a man in a red coat", "a woman", "someone with a very large yellow umbrella", "", "x"]


def random_model(name, config, tokenizer) -> TrainedModel:
    abstract = nnx.to_pure_dict(define_model(get_method(name), config, policy())[1])
    rng = np.random.default_rng(1)
    draw = lambda x: 0.4 * rng.standard_normal(x.shape, np.float32) + (x.ndim == 0)  # noqa: E731
    params = jax.tree.map(draw, abstract)
    return TrainedModel(name, config, params, tokenizer, test_resize="bicubic")


def make(name: str) -> TrainedModel:
    if name == "irra":
        config = irra.Config.tiny(losses=(), vocab_size=VOCAB_SIZE)
        return random_model(name, config, ClipTokenizer())
    if name == "ivt":
        tokenizer = wordpiece.train(SENTENCES, 200)
        config = ivt.Config.tiny(losses=(), vocab_size=tokenizer.vocab_size)
        return random_model(name, config, tokenizer)
    tokenizer = xlm_roberta.train(SENTENCES, 150)
    languages = ("en", "zh", "fr")
    config = bi_irra.Config.tiny(losses=("itm",), languages=languages, separate_target_proj=True)
    config = dataclasses.replace(config, vocab_size=tokenizer.vocab_size)
    return random_model(name, config, tokenizer)


@pytest.fixture(scope="module", params=["irra", "ivt", "bi_irra"])
def pair(request, tmp_path_factory) -> tuple[TrainedModel, ExportedModel]:
    """A model and its exported form."""
    model = make(request.param)
    return model, export_of(model, tmp_path_factory.mktemp(request.param))


def export_of(model: TrainedModel, directory) -> ExportedModel:
    config = {"method": model.method, "test_resize": model.test_resize}
    artifact.write_programs(directory, model, ComputePolicy(), ("cpu", "cuda", "tpu"), config)
    artifact.save_tokenizer(model.tokenizer, directory)
    return ExportedModel(directory)


@pytest.fixture(scope="module")
def photos() -> list[np.ndarray]:
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (50, 21, 3), dtype=np.uint8) for _ in range(5)]


def test_features(pair, photos):
    model, copy = pair
    for count in (1, 3, 5):  # one program for any number of rows
        want, got = model.embed_images(photos[:count]), copy.embed_images(photos[:count])
        np.testing.assert_allclose(got, want, rtol=0, atol=2e-5)
    for language in model.languages or ("",):
        want = model.embed_texts(SENTENCES, language)
        np.testing.assert_allclose(copy.embed_texts(SENTENCES, language), want, rtol=0, atol=2e-5)
    if model.languages:  # the third language has a program of its own
        assert not np.allclose(copy.embed_texts(["a"], "fr"), copy.embed_texts(["a"], "zh"))


def test_the_matching_head(pair, photos):
    model, copy = pair
    if not model.can_match:
        with pytest.raises(ValueError, match="has no matching head"):
            copy.match(photos, SENTENCES[0])
        return
    for count in (1, 5):
        want = model.match(photos[:count], SENTENCES[0])
        np.testing.assert_allclose(copy.match(photos[:count], SENTENCES[0]), want, atol=1e-4)


def test_facts(pair):
    model, copy = pair
    names = ("method", "image_size", "text_length", "languages", "caption_languages", "can_match")
    names += ("feature_size", "fingerprint", "test_resize")
    for name in names:
        assert getattr(copy, name) == getattr(model, name), name
    assert copy.doubts("ein mann mit hut") == model.doubts("ein mann mit hut") != []


def test_a_program_takes_the_parameters_that_it_reads(pair):
    _, copy = pair
    taken = copy.programs
    assert not any(path.startswith("text_encoder") for path in taken["encode_image"])
    assert set(taken["encode_text"]) < set().union(*map(set, taken.values()))


def test_galleries_of_both_forms_are_one(pair, photos):
    """A gallery that the modules filled is searched by the programs."""
    model, copy = pair
    with_modules = Retriever.in_memory(model)
    with_modules.put(*items_of(photos), {})
    again = Retriever(with_modules.store, copy, with_modules.record)
    want, got = (r.search("a man", 5) for r in (with_modules, again))
    assert [m.item.id for m in got] == [m.item.id for m in want]
    assert models.register(with_modules.store, copy).id == with_modules.record.id


def items_of(photos):
    from tipr_jax.gallery import Item

    return [Item(f"{i:064x}", "") for i in range(len(photos))], photos


def test_a_kept_model_answers_in_a_process_without_flax(tmp_path, monkeypatch, photos):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    model = make("irra")
    retriever = Retriever.create(tmp_path / "my.gallery", model)
    retriever.put(*items_of(photos), {})
    want = [(m.item.id, round(m.score, 3)) for m in retriever.search("a man in red")]
    with pytest.raises(ValueError, match="its model was , which is not there"):
        Retriever.open(tmp_path / "my.gallery")
    artifact.keep(model)
    code = (
        "import sys\n"
        "from tipr_jax.gallery import Retriever\n"
        "matches = Retriever.open(sys.argv[1]).search('a man in red')\n"
        "print([(m.item.id, round(m.score, 3)) for m in matches])\n"
        "assert not {'flax', 'orbax', 'optax'} & set(sys.modules)\n"
    )
    path = str(tmp_path / "my.gallery")
    done = subprocess.run([sys.executable, "-c", code, path], capture_output=True, text=True)
    assert done.stdout.strip() == str(want), done.stderr


def test_the_cache_keeps_the_models_used_last(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(artifact, "KEPT", 1)
    first, second = make("irra"), make("ivt")
    artifact.keep(first)
    artifact.keep(first)
    assert exported.kept(first.fingerprint) and not exported.kept(second.fingerprint)
    artifact.keep(second)
    assert exported.kept(second.fingerprint) and not exported.kept(first.fingerprint)
    assert len([*(cache_directory() / "models").iterdir()]) == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (cache_directory() / "models").write_text("a file in the way")
    artifact.keep(make("ivt"))


def damaged_config(directory):
    (directory / "config.json").write_text(json.dumps({"method": "irra"}))


def damaged_program(directory):
    (directory / "programs" / "encode_text.jax_export").write_bytes(b"junk")


DAMAGE = {
    "not the config of an exported model": damaged_config,
    "encode_text.jax_export cannot be read": damaged_program,
    "encode_image.jax_export cannot be read": lambda d: (
        d / "programs" / "encode_image.jax_export"
    ).unlink(),
    "model.safetensors cannot be read": lambda d: (d / "model.safetensors").write_bytes(b"junk"),
    "no such directory": shutil.rmtree,
    "is no exported model": lambda d: shutil.rmtree(d / "programs"),
}


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    export_of(make("ivt"), directory)
    return directory


@pytest.mark.parametrize("message", DAMAGE)
def test_damaged_directories_are_named(directory, tmp_path, message, photos):
    copy = tmp_path / "copy"
    shutil.copytree(directory, copy)
    DAMAGE[message](copy)
    with pytest.raises(ValueError, match=message):
        model = ExportedModel(copy)
        model.embed_texts(["a man"])
        model.embed_images(photos)


def test_programs_for_other_devices_are_refused(tmp_path):
    model = make("ivt")
    config = {"method": model.method, "test_resize": model.test_resize}
    artifact.write_programs(tmp_path, model, ComputePolicy(), ("tpu",), config)
    artifact.save_tokenizer(model.tokenizer, tmp_path)
    with pytest.raises(ValueError, match="is exported for tpu, this is cpu; set JAX_PLATFORMS"):
        ExportedModel(tmp_path).embed_texts(["a man"])


def test_export_mode_writes_what_both_loaders_read(tmp_path, tiny_config):
    from tests.test_bad_input import run_of
    from tipr_jax import main

    tiny_config.model.losses = ("itc",)
    run_of(tiny_config, tmp_path / "run")
    main.run(tiny_config, tmp_path / "run", "export")
    directory = tmp_path / "run" / "export"
    model, copy = load(directory), ExportedModel(directory)
    assert model.fingerprint == copy.fingerprint == load(tmp_path / "run").fingerprint
    want = model.embed_texts(["a man"])
    np.testing.assert_allclose(copy.embed_texts(["a man"]), want, rtol=0, atol=2e-5)
