"""Models from a folder: tiny ones that the tests make, and the mistakes around them."""

import json
import shutil
import sys
import types
import unittest.mock

import numpy as np
import pytest

from data_pipelines.ldat import export, local_folder, stages
from data_pipelines.ldat.embeddings import LocalScorer, quality
from data_pipelines.ldat.interfaces import Caption, Failure, Translation
from tests.data_pipelines.ldat.conftest import generated_entries

PAIRS = [
    (here, there)
    for a, b in zip(generated_entries("val", "en"), generated_entries("val", "zh"), strict=True)
    for here, there in zip(a["captions"], b["captions"], strict=True)
]
SPECIAL = ["<pad>", "</s>", "<unk>", "zho_Hans"]


def captions(texts):
    return [Caption("val", "a.jpg", 1, text) for text in texts]


def working_transformers():
    transformers = pytest.importorskip("transformers", reason="needs the extra local")
    try:
        _ = transformers.T5ForConditionalGeneration
    except ImportError:
        pytest.skip("transformers cannot use the installed torch and torchvision")
    import torch

    torch.set_num_threads(1)  # more of them wait for each other on a busy machine
    return transformers


def save_tokenizer(folder):
    """Words of the English captions, characters of the Chinese ones."""
    transformers = working_transformers()
    import tokenizers

    words = {word for here, there in PAIRS for word in [*here.split(), *there]}
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *sorted(words)])}
    core = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    core.post_processor = tokenizers.processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", 1)]
    )
    core.decoder = tokenizers.decoders.Fuse()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="<pad>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["zho_Hans"], model_max_length=80,
    )  # fmt: skip
    tokenizer.save_pretrained(folder)
    return tokenizer


@pytest.fixture(scope="module")
def translator_folder(tmp_path_factory):
    """A T5 of two layers that knows the 16 captions of the val split by heart."""
    torch = pytest.importorskip("torch", reason="needs the extra local")
    folder = tmp_path_factory.mktemp("t5")
    tokenizer, transformers = save_tokenizer(folder), working_transformers()
    torch.manual_seed(0)
    config = transformers.T5Config(
        vocab_size=len(tokenizer), d_model=64, d_kv=16, d_ff=128, num_layers=1,
        num_decoder_layers=1, num_heads=4, dropout_rate=0.0, pad_token_id=0, eos_token_id=1,
        decoder_start_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    optimiser = torch.optim.Adam(model.parameters(), 5e-3)
    tokens = tokenizer([here for here, _ in PAIRS], padding=True, return_tensors="pt")
    labels = tokenizer([" ".join(t) for _, t in PAIRS], padding=True, return_tensors="pt")
    labels = labels["input_ids"].masked_fill(labels["input_ids"] == 0, -100)
    for _ in range(400):
        loss = model(**tokens, labels=labels).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if loss.item() < 0.02:
            break
    assert loss.item() < 0.05
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    torch = pytest.importorskip("torch", reason="needs the extra local")
    folder = tmp_path_factory.mktemp("bert")
    tokenizer, transformers = save_tokenizer(folder), working_transformers()
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config, add_pooling_layer=False).save_pretrained(folder)
    return folder


def test_a_model_from_a_folder_translates_a_split(translator_folder, root, new_work):
    fields = {"translator": "local", "local.folder": str(translator_folder), "splits": "val"}
    tally = stages.translate(new_work(**fields, **{"local.batch": 5}))
    assert (tally.done, tally.failed) == (16, 0)
    work = new_work(**fields, **{"local.batch": 3})  # asks for nothing: the batch decides nothing
    assert stages.translate(work).before == 16
    stages.score(work)
    export.export(work)
    assert json.loads((root / "CUHK-PEDES" / "val_reid_ch.json").read_text()) == [
        {**entry, "captions": entry["captions"]} for entry in generated_entries("val", "zh")
    ]


@pytest.mark.parametrize("beams, batch", [(1, 1), (1, 16), (4, 3)])
def test_padding_and_order_change_nothing(translator_folder, new_work, beams, batch):
    fields = {"local.folder": str(translator_folder), "local.beams": beams, "local.batch": batch}
    translator = new_work(translator="local", **fields).translator
    assert translator.translate(captions([here for here, _ in PAIRS])) == [t for _, t in PAIRS]
    backwards = translator.translate(captions([here for here, _ in reversed(PAIRS)]))
    assert backwards == [there for _, there in reversed(PAIRS)]


def test_what_is_cut_off_or_too_long_is_a_failure(translator_folder, new_work):
    fields = {"translator": "local", "local.folder": str(translator_folder)}
    here, there = PAIRS[0]
    long = " ".join([here] * 4)
    found = new_work(**fields).translator.translate(captions([long, here]))
    assert found == [Failure("the caption has more than the model's 80 tokens"), there]
    room = len(there)  # its end does not fit
    cut = new_work(**fields, **{"local.max_tokens": room}).translator.translate(captions([here]))
    assert cut == [Failure(f"the answer is cut off at {room} tokens")]


def test_an_answer_in_another_language_is_a_failure(translator_folder, new_work):
    fields = {"translator": "local", "local.folder": str(translator_folder), "target": "de"}
    (found,) = new_work(**fields).translator.translate(captions([PAIRS[0][0]]))
    assert isinstance(found, Failure) and "not in German" in found.reason


def test_codes_and_a_prefix_reach_the_model(translator_folder, new_work, monkeypatch):
    fields = {"translator": "local", "local.folder": str(translator_folder)}
    codes = {"local.source_code": "eng_Latn", "local.target_code": "zho_Hans"}
    translator = new_work(**fields, **codes, **{"local.prefix": "The "}).translator
    tokenizer, model = translator._loaded
    asked, generate = [], type(model).generate

    def spy(self, **given):
        asked.append(given)
        return generate(self, **given)

    monkeypatch.setattr(type(model), "generate", spy)
    translator.translate(captions([PAIRS[0][0]]))
    assert asked[0]["forced_bos_token_id"] == SPECIAL.index("zho_Hans")
    assert tokenizer.src_lang == "eng_Latn"
    assert tokenizer.decode(asked[0]["input_ids"][0]).startswith("TheThe")
    other = new_work(**fields, **{"local.target_code": "xx"}).translator
    with pytest.raises(ValueError, match="target_code=xx: .* has no such language"):
        other.translate(captions(["a man"]))


def test_other_weights_are_work_of_their_own_and_another_place_is_not(tmp_path, new_work):
    def key(**fields):
        work = new_work(translator="local", **{"local.folder": str(folder), **fields})
        return work.translation_key(next(iter(work.source)))

    folder = tmp_path / "a"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"1234")
    first = key()
    (folder / "README.md").write_text("about")
    (folder / ".cache").mkdir()
    folder = shutil.copytree(folder, tmp_path / "b")
    assert key() == key(**{"local.batch": 2, "local.device": "cuda:1"}) == first
    assert key(**{"local.beams": 2}) != first
    (folder / "model.safetensors").write_bytes(b"1235")
    assert key() != first


def test_an_encoder_from_a_folder_scores(encoder_folder, new_work):
    found = LocalScorer(encoder_folder, 3, "").score(
        [Translation(caption, there) for caption, (_, there) in zip(_sources(), PAIRS, strict=True)]
    )
    assert len(found) == 16 and all(isinstance(x, float) and 0 <= x <= 1 for x in found)
    # The same by hand: one text at a time, without padding.
    import torch
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder_folder)
    model = transformers.AutoModel.from_pretrained(encoder_folder).eval()

    def vector(text):
        with torch.inference_mode():
            return model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)

    expected = [quality(vector(here).numpy(), vector(there).numpy()) for here, there in PAIRS]
    np.testing.assert_allclose(found, expected, atol=2e-4)
    same = [Translation(caption, caption.text) for caption in _sources()]
    assert LocalScorer(encoder_folder, 3, "").score(same) == [1.0] * 16
    work = new_work(scorer="local", splits="val", **{"local.embeddings": str(encoder_folder)})
    stages.translate(work)
    assert stages.score(work).done == 16


def _sources():
    return captions([here for here, _ in PAIRS])


@pytest.mark.parametrize("role, option", [("translator", "folder"), ("scorer", "embeddings")])
def test_no_folder_is_named(new_work, tmp_path, role, option):
    for given in ("", str(tmp_path / "none"), str(tmp_path)):
        work = new_work(**{role: "local", f"local.{option}": given})
        with pytest.raises(ValueError, match=rf"--config.local.{option}={given}: expected the fol"):
            getattr(work, role)


def test_packages_that_do_not_fit_are_named(tmp_path, monkeypatch):
    class Broken(types.ModuleType):
        def __getattr__(self, name):
            raise ImportError("Could not import module 'AutoTokenizer'.\nMore.")

    broken = Broken("transformers")
    broken.utils = types.SimpleNamespace(logging=unittest.mock.Mock())
    monkeypatch.setitem(sys.modules, "transformers", broken)
    monkeypatch.setitem(sys.modules, "torch", json)
    with pytest.raises(ValueError, match=r"does not work here .*AutoTokenizer'\.\).*torchvision"):
        local_folder.load(tmp_path, "AutoModel", "", "--config.local.folder")


@pytest.mark.parametrize("package", ["transformers", "torch"])
def test_without_the_extra_the_error_says_what_to_install(tmp_path, monkeypatch, package):
    (tmp_path / "config.json").write_text("{}")
    if package == "torch":
        monkeypatch.setitem(sys.modules, "transformers", json)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ValueError, match=rf"package {package}; pip install 'tipr_jax\[local\]'"):
        local_folder.load(tmp_path, "AutoModel", "", "--config.local.folder")


def test_a_folder_that_cannot_be_loaded_is_named_in_one_line(translator_folder, tmp_path):
    def error(folder, kind="AutoModelForSeq2SeqLM"):
        with pytest.raises(ValueError, match=f"--config.x={folder}: cannot be loaded") as found:
            local_folder.load(folder, kind, "", "--config.x")
        assert "\n" not in str(found.value)
        return str(found.value)

    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    error(tmp_path)  # no tokenizer, no weights
    folder = shutil.copytree(translator_folder, tmp_path / "half")
    (folder / "model.safetensors").unlink()
    assert "safetensors" in error(folder)
    import safetensors.numpy

    arrays = safetensors.numpy.load_file(translator_folder / "model.safetensors")
    del arrays["decoder.final_layer_norm.weight"]
    safetensors.numpy.save_file(arrays, folder / "model.safetensors", {"format": "pt"})
    assert "lack 1 arrays, as decoder.final_layer_norm.weight" in error(folder)
    (folder / "config.json").write_text('{"model_type": "of_tomorrow"}')
    assert "of_tomorrow" in error(folder)


@pytest.mark.parametrize("field", ["batch", "beams", "max_tokens"])
def test_a_number_below_one_is_named(new_work, field):
    with pytest.raises(ValueError, match=f"--config.local.{field}=0; expected at least 1"):
        _ = new_work(translator="local", **{f"local.{field}": 0}).translator


@pytest.mark.parametrize(
    "here, there, expected",
    [
        ([3, 4], [3, 4], 1.0),
        ([1, 0], [1, 1], 0.7071),
        ([1, 0], [-1, 0], 0.0),
        ([1e-200, 0], [1, 0], Failure("an embedding is zero or not finite")),
        ([0, 0], [1, 0], Failure("an embedding is zero or not finite")),
        ([float("nan"), 0], [1, 0], Failure("an embedding is zero or not finite")),
        ([1, 2], [1], Failure("embeddings of the shapes (2,) and (1,) have no cosine")),
        ("abc", [1], Failure("an embedding is no list of numbers")),
    ],
)
def test_the_quality_is_the_cosine(here, there, expected):
    assert quality(here, there) == expected
