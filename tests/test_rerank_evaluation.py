"""Evaluation in two stages and several languages: what it scores, counts, and encodes only once."""

import dataclasses
import functools
import json
import socket
import subprocess
import sys
import types
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx
from machine import HANGS, environment

from configs import bi_irra
from tipr_jax import experiment
from tipr_jax.evaluator import (
    Evaluator,
    Interrupted,
    SplitFeatures,
    example_sheets,
)
from tipr_jax.inference import rerank
from tipr_jax.inference.encoders import language_index
from tipr_jax.metrics.rerank import fill_scores, rerank_scores, top_candidates
from tipr_jax.metrics.retrieval import metrics_from_similarity
from tipr_jax.metrics.unit_vectors import l2_normalise
from tipr_jax.models import irra
from tipr_jax.models.bi_irra.config import Config
from tipr_jax.models.bi_irra.model import text_mask
from tipr_jax.sharding import put_params

IMAGES, CAPTIONS, LENGTH = 21, 42, 12


class Data:
    """Seven persons in 21 random images with two captions each, in two languages."""

    def __init__(self, batch_size: int = 16):
        rng = np.random.default_rng(0)
        self.batch_size = batch_size
        self.image = rng.integers(0, 256, (IMAGES, 32, 16, 3), dtype=np.uint8)
        self.text = {}
        for split in ("test", "test_zh"):
            text = rng.integers(4, 127, (CAPTIONS, LENGTH)).astype(np.int32)
            text[np.arange(LENGTH) >= rng.integers(4, LENGTH, (CAPTIONS, 1))] = 1
            self.text[split] = text
        person, image_id = np.arange(IMAGES) % 7, np.repeat(np.arange(IMAGES), 2)
        paths = tuple(f"{i}.jpg" for i in range(IMAGES))
        self.splits = {
            split: types.SimpleNamespace(
                language=language,
                image_path=paths,
                image_box=None,
                image_person_id=person,
                caption=tuple(f"{language} {i}" for i in range(CAPTIONS)),
                caption_image_id=image_id,
                caption_person_id=person[image_id],
            )
            for split, language in (("test", "en"), ("test_zh", "zh"))
        }
        self.encoded = []

    def _batches(self, key: str, x: np.ndarray, rows: np.ndarray):
        for first in range(0, len(x), self.batch_size):
            part = np.zeros((self.batch_size, *x.shape[1:]), x.dtype)
            part[: len(x[first : first + self.batch_size])] = x[first : first + self.batch_size]
            yield {key: part[rows]}

    def image_batches(self, split, rows):
        self.encoded.append(split)
        return self._batches("image", self.image, rows)

    def text_batches(self, split, rows):
        return self._batches("text_ids", self.text[split], rows)


def make_config(k: int = 6, pairs: int = 16):
    config = bi_irra.get_config("debug")
    config.data.image_size, config.data.text_length, config.eval.batch_size = (32, 16), LENGTH, 16
    fields = dataclasses.asdict(Config.tiny())
    config.model.update({key: fields[key] for key in set(config.model) & set(fields)})
    config.model.losses = ("itc", "itm")
    config.eval.rerank_k, config.eval.rerank_pairs = k, pairs
    return config


def build(config, devices: int = 1):
    """(experiment, parameters) on so many devices, with noise everywhere: no score is flat."""
    exp = experiment.build(config, devices=jax.devices()[:devices])
    rng = np.random.default_rng(1)
    params = jax.tree.map(
        lambda x: 0.4 * rng.standard_normal(x.shape, np.float32) + (x.ndim == 0),
        exp.abstract_params,
    )
    return exp, put_params(params, exp.param_shardings)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    monkeypatch.setattr(rerank, "BLOCK_QUERIES", 32)
    monkeypatch.setattr(rerank, "TILE_IMAGES", 8)


@pytest.fixture(scope="module")
def reference():
    """split -> (cosine [Q,G], logits [Q,G,2]): all images at once, then one pair at a time."""
    exp, params = build(make_config())
    data = Data()

    @jax.jit
    def encode(params, image, text):
        model = nnx.merge(exp.graphdef, params)
        tokens = model.image_tokens(image)
        texts = {
            split: (model.encode_text(ids, i), model.text_tokens(ids), text_mask(ids))
            for i, (split, ids) in enumerate(text.items())
        }
        return model.image_feature(tokens), tokens, texts

    @jax.jit
    def match(params, image, text, mask):
        return nnx.merge(exp.graphdef, params).match(image[None], text[None], mask[None])[0]

    feature, image_tokens, texts = encode(params, data.image, data.text)
    return {
        split: (
            l2_normalise(np.asarray(text_feature)) @ l2_normalise(np.asarray(feature)).T,
            np.stack([
                [match(params, image, *text) for image in image_tokens]
                for text in zip(tokens, mask, strict=True)
            ]),
        )
        for split, (text_feature, tokens, mask) in texts.items()
    }  # fmt: skip


@pytest.mark.parametrize("devices, pairs", [(1, 16), (8, 16), (1, 1024), (1, 5)])
def test_scores_equal_the_models_one_pair_at_a_time(reference, devices, pairs):
    exp, params = build(make_config(pairs=pairs), devices)
    data, rng = Data(), np.random.default_rng(2)
    candidates = np.stack([rng.permutation(IMAGES)[:6] for _ in range(CAPTIONS)])
    evaluator = Evaluator(exp, data)
    ((_, features),) = evaluator.features(params, ["test_zh"], tokens=True)
    batches = data.text_batches("test_zh", evaluator._rows)
    towers = evaluator.encoders.select(params)
    got = evaluator.reranker(towers, batches, features.image_tokens, candidates)
    want = np.take_along_axis(reference["test_zh"][1], candidates[..., None], axis=1)
    assert got.shape == (CAPTIONS, 6, 2) and np.ptp(got[..., 1]) > 0.1
    np.testing.assert_allclose(got, want, atol=1e-4)


@pytest.fixture(scope="module")
def evaluated():
    exp, params = build(make_config())
    data = Data()
    evaluator = Evaluator(exp, data)
    return evaluator, params, data, evaluator.evaluate(params, ["test", "test_zh"])


def test_images_of_both_languages_are_encoded_once(evaluated):
    *_, data, scores = evaluated
    assert data.encoded == ["test"]
    assert list(scores) == ["test", "test_zh"] and scores["test"] != scores["test_zh"]
    assert set(scores["test_zh"]) == {"t2i", "i2t", "t2i_rerank"}


@pytest.mark.parametrize("split", ["test", "test_zh"])
def test_metrics_are_those_of_the_filled_matrix(evaluated, reference, split):
    *_, data, scores = evaluated
    similarity, logits = reference[split]
    filled = rerank_scores(similarity, logits[..., 1], 6)
    annotations = data.splits[split]
    person = annotations.caption_person_id, annotations.image_person_id
    assert scores[split]["t2i"] == pytest.approx(metrics_from_similarity(similarity, *person))
    assert scores[split]["t2i_rerank"] == pytest.approx(metrics_from_similarity(filled, *person))


def test_more_candidates_than_images_and_the_line_about_speed(evaluated, caplog, monkeypatch):
    evaluator, params, *_ = evaluated
    monkeypatch.setitem(evaluator.config.eval, "rerank_k", 500)
    with caplog.at_level("INFO", "tipr_jax"):
        evaluator.evaluate(params, ["test"])
    assert f"500, all {IMAGES} images" in caplog.text
    assert f"{CAPTIONS} queries x {IMAGES} candidates" in caplog.text and "pairs/s" in caplog.text


def test_every_second_row_as_gallery(evaluated, reference, monkeypatch):
    """Captions 0, 2, 4, ... bring every image once here, so that the numbers stay the same."""
    evaluator, params, _, scores = evaluated
    monkeypatch.setitem(evaluator.config.eval, "gallery", "every_second_row")
    parity = evaluator.evaluate(params, ["test"])["test"]
    for direction in ("t2i", "t2i_rerank"):
        assert parity[direction] == pytest.approx(scores["test"][direction])


def test_the_cosine_is_mixed_in_and_its_share_chosen_on_val(evaluated, reference, monkeypatch):
    evaluator, params, data, scores = evaluated
    similarity, logits = reference["test"]
    annotations = data.splits["test"]
    person = annotations.caption_person_id, annotations.image_person_id

    def mixed(weight: float, split: str = "test") -> dict[str, float]:
        monkeypatch.setitem(evaluator.config.eval, "rerank_mix", weight)
        return evaluator.evaluate(params, [split])[split]

    # All of it: the order by cosine among the candidates. A part: computed here in another way.
    best = top_candidates(similarity, 6)
    take = functools.partial(np.take_along_axis, indices=best, axis=1)
    z = lambda x: (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True)  # noqa: E731
    for weight in (1.0, 0.3):
        score = (1 - weight) * z(take(logits[..., 1])) + weight * z(take(similarity))
        want = metrics_from_similarity(fill_scores(best, score, IMAGES), *person)
        got = mixed(weight)
        assert got["t2i_mix"] == pytest.approx(want | {"weight": weight})
        assert got["t2i_rerank"] == scores["test"]["t2i_rerank"], "the published order changed"
    with pytest.raises(ValueError, match="rerank_mix is -1, .*test comes without val"):
        mixed(-1.0)
    monkeypatch.setitem(data.splits, "val", annotations)
    monkeypatch.setitem(data.text, "val", data.text["test"])
    tuned = mixed(-1.0, "val")["t2i_mix"]
    others = [mixed(float(w), "val")["t2i_mix"]["mAP"] for w in np.linspace(0.1, 1, 10)]
    assert tuned["mAP"] == max(*others, scores["test"]["t2i_rerank"]["mAP"])
    assert mixed(-1.0)["t2i_mix"]["weight"] == tuned["weight"], "test has the weight of val"


def test_a_share_that_is_none():
    exp, _ = build(make_config())
    exp.config.eval.rerank_mix = 1.5
    with pytest.raises(ValueError, match="rerank_mix is 1.5, expected the weight of the cosine"):
        Evaluator(exp, Data())


PROCESS = """
import json, sys
from tipr_jax import distributed
distributed.initialize(sys.argv[1], 2, int(sys.argv[2]))
from test_rerank_evaluation import Data, Evaluator, build, make_config
exp, params = build(make_config(), devices=2)
print(json.dumps(Evaluator(exp, Data()).evaluate(params, ["test", "test_zh"])))
"""


@pytest.mark.slow
def test_two_processes_get_the_same_numbers(evaluated):
    with socket.socket() as probe:
        probe.bind(("", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    tests = Path(__file__).parent
    env = environment(PYTHONPATH=f"{tests}:{tests.parent}")
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", PROCESS, address, str(i)],
            env=env,
            stdout=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    for process in processes:
        scores = json.loads(process.communicate(timeout=HANGS)[0].splitlines()[-1])
        for split, directions in evaluated[-1].items():
            for direction, metrics in directions.items():
                assert scores[split][direction] == pytest.approx(metrics), (split, direction)


def test_no_head_or_no_candidates_means_cosine_only():
    exp, _ = build(make_config(k=0))
    assert Evaluator(exp, Data()).reranker is None
    config = make_config()
    config.model.losses = ("itc",)  # a warm start
    assert Evaluator(build(config)[0], Data()).reranker is None


def test_a_request_to_stop_ends_it_between_two_chunks(evaluated, monkeypatch):
    evaluator, params, data, _ = evaluated
    asked = []
    monkeypatch.setattr(evaluator, "should_stop", lambda: len(asked) > 3 or asked.append(1))
    tokens = np.zeros((IMAGES, 9, 32), np.float32)
    with pytest.raises(Interrupted):
        evaluator.reranker(
            evaluator.encoders.select(params),
            data.text_batches("test", evaluator._rows),
            tokens,
            np.zeros((CAPTIONS, 6), int),
        )
    assert len(asked) == 4


def test_pairs_that_cannot_be_cut_over_the_devices():
    exp = experiment.build(make_config(pairs=20))
    with pytest.raises(ValueError, match="eval.rerank_pairs 20 is not divisible by the 8 devices"):
        Evaluator(exp, Data())


def test_an_unknown_score():
    config = make_config()
    config.eval.rerank_score = "cosine"
    with pytest.raises(ValueError, match="eval.rerank_score is 'cosine', expected 'logit1'"):
        Evaluator(experiment.build(config), Data())


def test_languages_of_captions():
    index = lambda language, config: language_index(config.languages, language)  # noqa: E731
    assert [index(x, Config.tiny()) for x in ("en", "zh", "")] == [0, 1, 0]
    assert index("zh", irra.Config()) == 0  # a model of one language does not ask
    with pytest.raises(ValueError, match="'fr'.*data.target"):
        index("fr", Config.tiny())


def test_sheets_show_one_query_in_every_language():
    splits = Data().splits
    rng = np.random.default_rng(0)
    found = {
        split: SplitFeatures(rng.normal(size=(IMAGES, 4)), rng.normal(size=(CAPTIONS, 4)))
        for split in splits
    }
    sheets = example_sheets(found, splits)
    assert list(sheets)[-1] == "One query in every language" and len(sheets) == 3
    queries = [sheet.query for sheet in sheets["One query in every language"]]
    number = queries[0].split()[1]
    assert queries == [f"en {number}", f"zh {number}"]
    alone = example_sheets({"test": found["test"]}, splits)
    assert list(alone) == list(sheets)[:2]
