"""scripts/ablation.py: its rows are configs that can be built, its table shows every stage."""

import ast
import importlib
import sys
from pathlib import Path

import pytest

from tipr_jax import experiment

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import ablation

ROWS = [(method, row) for method, parts in ablation.ABLATIONS.items() for row in parts.rows]


@pytest.mark.parametrize("method, row", ROWS)
def test_rows_are_different_models_that_can_be_built(method, row):
    parts = ablation.ABLATIONS[method]
    config = importlib.import_module(f"configs.{method}").get_config(parts.variant)
    published = experiment.build(config).model_config
    for field, value in parts.rows[row].items():
        section, name = field.split(".")
        assert name in config[section]
        text = value.startswith(("(", "["))
        config[section][name] = ast.literal_eval(value) if text else value
    built = experiment.build(config).model_config
    assert (built == published) == (not parts.rows[row])


def test_the_table_has_mean_and_spread_of_every_stage_and_language():
    def scores(r1: float) -> dict:
        both = {"t2i": {"R1": r1, "mAP": 1.0}, "t2i_rerank": {"R1": r1 + 5, "mAP": 2.0}}
        return {"val": {"t2i": {"R1": 0.0, "mAP": 0.0}}, "test": both, "test_zh": both}

    head, first, second = ablation.lines(
        {"both": [scores(10.0), scores(14.0)], "one": [scores(3.0)]}
    )
    assert "val" not in head
    for name in ("test R1", "test re-ranked mAP", "test_zh re-ranked R1"):
        assert name in head
    assert "12.00 ±  2.83" in first and "17.00 ±  2.83" in first
    assert second.startswith("one") and "3.00 ±  0.00" in second
