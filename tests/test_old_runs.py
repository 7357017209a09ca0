"""Runs and model directories of earlier versions of the package are still read (see fixtures/)."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from configs import bi_irra, irra, ivt
from data_pipelines.datasets.annotations import load_dataset
from data_pipelines.synth_pedes.generate import generate
from tipr_jax import main, report, result_table, results, run_files
from tipr_jax.checkpoints import Checkpoints, load_params, load_run_params
from tipr_jax.gallery.retriever import Retriever
from tipr_jax.models import get_method
from tipr_jax.param_tree import flatten
from tipr_jax.precision import policy
from tipr_jax.results import Criterion
from tipr_jax.train_state import define_model

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def run(tmp_path):
    """Copies a run by its name: what reads it must not need to write, but a test may."""
    return lambda name: Path(shutil.copytree(FIXTURES / name, tmp_path / name))


@pytest.fixture(scope="module")
def data_root(tmp_path_factory) -> Path:
    """The generated data set that all of them were trained on."""
    root = tmp_path_factory.mktemp("data")
    sizes = dict(train_ids=6, val_ids=3, test_ids=4, images_per_id=4)
    generate(root, "cuhk_pedes", **sizes, languages=("en", "zh"))
    return root


@pytest.fixture
def config(data_root):
    """(method, its debug config as of today, on that data)."""

    def get_config(name: str) -> ConfigDict:
        config = {"ivt": ivt, "bi_irra": bi_irra, "irra": irra}[name].get_config("debug")
        config.data.root, config.data.cache_dir = str(data_root), str(data_root / "cache")
        config.data.generate, config.data.batch_size = {}, 8
        config.checkpoint.keep_last = 1
        return config

    return get_config


@pytest.mark.parametrize(
    "name, expected",
    [
        ("ivt_run", {"width": 32, "vocab_size": 500, "image_size": (96, 32), "text_length": 48}),
        ("bi_irra_run", {"width": 16, "image_size": (48, 24), "languages": ("en", "zh")}),
        ("irra_model", {"vision_width": 64, "image_size": (96, 32)}),
    ],
)
def test_the_model_is_built_from_the_config_and_the_parameters_fit(name, expected):
    method_name, fields = run_files.model_fields(FIXTURES / name)
    assert name.startswith(method_name)
    assert {key: fields[key] for key in expected} == expected
    method = get_method(method_name)
    known = {field.name for field in dataclasses.fields(method.config)}
    config = method.config(**{key: value for key, value in fields.items() if key in known})
    shapes = flatten(_abstract_inference(method, config))
    _, params = load_params(FIXTURES / name)
    given = {path: value.shape for path, value in flatten(params).items()}
    assert {path: given.get(path) for path in shapes} == {p: x.shape for p, x in shapes.items()}
    assert all(np.isfinite(value).all() for value in flatten(params).values())


def _abstract_inference(method, config) -> dict:
    return nnx.to_pure_dict(define_model(method, config.for_inference(), policy())[1])


def test_the_best_step_of_a_run_and_of_its_languages():
    """By the re-ranked mAP step 12 is the best in English, 18 in Chinese; 6 was not kept."""
    directory = FIXTURES / "bi_irra_run"
    assert run_files.saved_steps(directory) == [12, 18]
    written = json.loads((directory / run_files.RESULTS).read_text())
    for language, expected in (("", 12), ("en", 12), ("zh", 18)):
        assert load_params(directory, language)[0] == expected
    assert written["step"] == 12
    assert load_params(FIXTURES / "ivt_run")[0] == 10


def test_another_criterion_selects_among_what_was_kept(run):
    directory = run("bi_irra_run")
    by_step = {e.step: e.scores["test"]["t2i"] for e in results.read_evaluations(directory)}
    assert by_step[18]["R5"] > by_step[12]["R5"]
    criterion = Criterion("test", "R5")
    with Checkpoints(directory, criterion=criterion, read_only=True) as checkpoints:
        assert checkpoints.is_evaluated(12) and checkpoints.is_evaluated(18)
        assert checkpoints.best_step() == 12  # the re-ranked R5 decides: 100 against 96.9


def test_results_and_report_are_written_anew(run):
    """As they were, but for the best in Chinese, whose weights the old version did not keep."""
    directory = run("bi_irra_run")
    config = ConfigDict(run_files.read_config(directory))
    before = json.loads((directory / run_files.RESULTS).read_text())
    after = results.write_results(directory, config)
    assert before["languages"]["zh"].pop("best")["step"] == 6
    assert after["languages"]["zh"].pop("best")["step"] == 18
    assert before == after | {"config_hash": before["config_hash"]}
    after = results.write_results(directory, config)
    assert "zh (step 18)" in result_table.table(after)
    assert "selected on test: step 12" in report.write_report(directory).read_text()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bi_irra_run", "ivt_run", "irra_model"])
def test_evaluation(config, name, tmp_path):
    """The weights size the model: the command does not repeat the run's fields."""
    now = config(name.rsplit("_", 1)[0])
    now.init_from = str(FIXTURES / name)
    main.run(now, tmp_path / "evaluation", "eval")
    scores = json.loads((tmp_path / "evaluation" / run_files.RESULTS).read_text())
    if name == "irra_model":  # came without results
        assert scores["t2i"]["R10"] > 0
        return
    then = json.loads((FIXTURES / name / run_files.RESULTS).read_text())
    assert scores["step"] == then["step"]
    for direction in {"t2i", "i2t", "t2i_rerank"} & set(then):
        got, want = ([x[direction][key] for key in ("R1", "mAP")] for x in (scores, then))
        # One of 32 queries, should the rounding of another processor rank it otherwise.
        np.testing.assert_allclose(got, want, atol=3.2)


@pytest.mark.slow
def test_a_run_is_continued_as_the_version_that_wrote_it_would(run, config):
    """bi_irra_continued.npz holds the parameters after six more steps of the earlier version.

    On the machine that wrote them they are equal bit for bit. Adam turns the rounding of another
    processor into changes of the step's size where a gradient is nearly zero.
    """
    directory, now = run("bi_irra_run"), config("bi_irra")
    start = flatten(load_run_params(directory, 18)[1])
    now.data.image_size, now.schedule.num_epochs, now.eval.select_by = (48, 24), 4, "mAP"
    now.model.update({"width": 16, "embed_dim": 16, "vocab_size": 400, "text_ffn": 32})
    main.run(now, directory, "train")
    ours = flatten(load_run_params(directory, 24)[1])
    with np.load(FIXTURES / "bi_irra_continued.npz") as stored:
        assert set(stored.files) == set(ours)
        change = {path: stored[path] - start[path] for path in stored.files}
        error = {path: ours[path] - stored[path] for path in stored.files}
    assert _norm(error) < 0.02 * _norm(change)


def _norm(tree: dict[str, np.ndarray]) -> float:
    return float(np.sqrt(sum(np.sum(np.square(x)) for x in tree.values())))


@pytest.mark.parametrize(
    "name, language", [("ivt_run", ""), ("bi_irra_run", "zh"), ("irra_model", "")]
)
def test_search(run, data_root, name, language):
    retriever = Retriever.in_memory(run(name), language)
    photos = data_root / "CUHK-PEDES" / "imgs" / "test_query"
    retriever.add(photos)
    query = "一个穿红色外套的男人" if language else "a man in a red coat"
    matches = retriever.search(query, 3, language=language)
    assert [m.score for m in matches] == sorted((m.score for m in matches), reverse=True)
    assert len({m.path for m in matches} & set(map(str, photos.iterdir()))) == 3


@pytest.mark.slow
@pytest.mark.parametrize("name", ["bi_irra_run", "ivt_run", "irra_model"])
def test_a_gallery_answers_as_the_evaluation_ranks(config, data_root, name, tmp_path):
    """R@1 of every caption of the test split, searched one by one, is the evaluation's."""
    now = config(name.rsplit("_", 1)[0])
    now.init_from = str(FIXTURES / name)
    main.run(now, tmp_path / "evaluation", "eval")
    scores = json.loads((tmp_path / "evaluation" / run_files.RESULTS).read_text())
    languages = ("en", "zh") if name == "bi_irra_run" else ()
    test = load_dataset("cuhk_pedes", str(data_root), languages)["test"]
    gallery = Retriever.create(tmp_path / "test.gallery", FIXTURES / name)
    # One by one, for equal scores stay in the order of the split.
    for path in test.image_path:
        gallery.add([path])
    person = dict(zip(map(str, test.image_path), test.image_person_id, strict=True))

    def r1(**options) -> float:
        best = [gallery.search(caption, 1, **options)[0].path for caption in test.caption]
        right = np.array([person[path] for path in best]) == test.caption_person_id
        return round(100 * float(right.mean()), 4)

    assert r1() == pytest.approx(scores["t2i"]["R1"], abs=1e-3)
    if "t2i_rerank" in scores:
        candidates = now.eval.rerank_k
        assert r1(rerank=candidates) == pytest.approx(scores["t2i_rerank"]["R1"], abs=1e-3)
