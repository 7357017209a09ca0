"""Runs and model directories of earlier versions of the package are still read (see fixtures/)."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from flax import nnx
from ml_collections import ConfigDict

from tipr_jax import report, result_table, results, run_files
from tipr_jax.checkpoints import Checkpoints, load_params
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
    shapes = flatten(_abstract_towers(method, config))
    _, params = load_params(FIXTURES / name)
    given = {path: value.shape for path, value in flatten(params).items()}
    assert {path: given.get(path) for path in shapes} == {p: x.shape for p, x in shapes.items()}
    assert all(np.isfinite(value).all() for value in flatten(params).values())


def _abstract_towers(method, config) -> dict:
    return nnx.to_pure_dict(define_model(method, config.towers(), policy())[1])


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
