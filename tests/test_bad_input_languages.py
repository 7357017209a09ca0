"""Mistakes with languages, their vocabulary and re-ranking: one line that says what to change."""

import json

import pytest
from test_bad_input import refusal

from configs import bi_irra
from data_pipelines.synth_pedes.generate import generate


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("languages")
    generate(root, train_ids=4, val_ids=2, test_ids=2, languages=("en", "zh"), progress=False)
    return root


@pytest.fixture
def config(root, tmp_path):
    config = bi_irra.get_config("debug")
    config.data.generate = {}
    config.data.root = str(root)
    config.data.cache_dir = str(tmp_path / "cache")
    config.mesh.data = 1
    config.mesh.model = 8
    return config


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("target", "fr", ["no train captions in fr", "found en, zh", "--config.data.target"]),
        ("target", "xx", ["language 'xx' is unknown", "en, zh, fr, de"]),
        ("target", "en", ["the languages are en, en", "--config.data.target"]),
        ("languages", ("en",), ["the languages are en; expected a source and other languages"]),
        ("vocab", "", ["data.vocab is empty", "xlm_roberta", "'train'"]),
        ("vocab", "/nowhere", ["/nowhere", "sentencepiece.bpe.model"]),
    ],
)
def test_bad_value(config, tmp_path, field, value, expected):
    with config.data.ignore_type():
        config.data[field] = value
    message = refusal(config, tmp_path / "run")
    assert all(part in message for part in expected), message
    assert not (tmp_path / "run").exists()


def test_vocabulary_of_another_size(config, tmp_path):
    from tipr_jax.text.xlm_roberta import train

    train(["a man in a red coat"], 300).save(tmp_path / "vocab")
    config.data.vocab = str(tmp_path / "vocab")
    message = refusal(config, tmp_path / "run")
    assert "model.vocab_size is 2000" in message and "--config.model.vocab_size=" in message


@pytest.mark.parametrize(
    "change, expected",
    [
        (lambda entries: entries.pop(), "entries"),
        (lambda entries: entries.reverse(), "file_path"),
        (lambda entries: entries[1].update(id=99), "id is 99"),
    ],
)
def test_languages_that_do_not_fit_together(config, tmp_path, change, expected):
    generate(tmp_path, train_ids=4, val_ids=2, test_ids=2, languages=("en", "zh"), progress=False)
    config.data.root = str(tmp_path)
    path = tmp_path / "CUHK-PEDES" / "train_reid_ch.json"
    entries = json.loads(path.read_text())
    change(entries)
    path.write_text(json.dumps(entries))
    message = refusal(config, tmp_path / "run")
    assert "train_reid_ch.json" in message and expected in message, message


@pytest.mark.parametrize(
    "field, value, expected",
    [
        ("rerank_pairs", 0, "eval.rerank_pairs"),
        ("rerank_k", -1, "eval.rerank_k is -1"),
        ("rerank_score", "logits", "rerank_score is 'logits'"),
    ],
)
def test_bad_reranking(config, tmp_path, field, value, expected):
    config.eval[field] = value
    assert expected in refusal(config, tmp_path / "run")
