"""Weights between two models, and a fine-tuning that stops early and compares them."""

import json

import numpy as np
import pytest

from data_pipelines.synth_pedes.own_data import write_own_data
from tipr_jax import interpolation, main
from tipr_jax.gallery import Retriever
from tipr_jax.interpolation import Row, best, interpolate, measure, table


def params(value: float) -> dict:
    return {"tower": {"kernel": np.full((2, 3), value, np.float32)}}


def test_between_two_models():
    before, after = params(1.0), params(3.0)
    assert interpolate(before, after, 0) is before and interpolate(before, after, 1) is after
    middle = interpolate(before, after, 0.25)["tower"]["kernel"]
    assert middle.dtype == np.float32 and (middle == 1.5).all()


@pytest.mark.parametrize("alpha", [-0.1, 1.5, float("nan")])
def test_alpha_outside_is_refused(alpha):
    with pytest.raises(ValueError, match="expected 0 .before fine-tuning. to 1"):
        interpolate(params(1), params(2), alpha)


def test_other_sizes_are_refused():
    with pytest.raises(ValueError, match="without changing its sizes"):
        interpolate(params(1), {"tower": {"kernel": np.zeros((4, 3), np.float32)}}, 0.5)


def rows(*pairs) -> list[Row]:
    alphas = np.linspace(0, 1, len(pairs))
    columns = ("new val", "old val")
    return [
        Row(a, {name: {"R1": v} for name, v in zip(columns, pair, strict=True)})
        for a, pair in zip(alphas, pairs, strict=True)
    ]


@pytest.mark.parametrize(
    "pairs, chosen",
    [
        ([(5, 70), (18, 40), (30, 5)], 0.5),  # neither ability lost
        ([(0, 70), (0, 60), (0, 50)], 0.0),  # equal: the first
        ([(5, 70), (50, 60), (60, 60)], 1.0),
    ],
)
def test_the_best_has_lost_no_ability(pairs, chosen):
    assert best(rows(*pairs), ["new val", "old val"]).alpha == chosen


def test_measured_and_shown():
    seen = []

    def evaluate(given):
        seen.append(float(given["tower"]["kernel"][0, 0]))
        return {"val": {"t2i": {"R1": 10 * seen[-1]}, "i2t": {"R1": 0.0}}}

    found = measure(params(1), params(2), (0.0, 0.5, 1.0), {"new": evaluate})
    assert seen == [1.0, 1.5, 2.0]
    assert [row.scores for row in found] == [{"new val": {"R1": v}} for v in (10.0, 15.0, 20.0)]
    text = table(found, found[1])
    assert "15.00  <- chosen" in text and text.count("chosen") == 1


def test_fine_tuning_ends_early_and_keeps_the_best_between(tmp_path, tiny_config, capsys):
    """From a run on generated data to own photos: stops, compares, and the result searches."""
    from configs import finetune

    tiny_config.model.losses = ("itc",)
    main.run(tiny_config, tmp_path / "old", "train")
    manifest = write_own_data(tmp_path / "own", people=10, vocabulary="festival", height=64)
    config = finetune.get_config("quickstart")
    config.data.root, config.init_from = str(manifest), str(tmp_path / "old")
    config.data.cache_dir = str(tmp_path / "cache")
    config.data.batch_size = config.eval.batch_size = 16
    config.schedule.num_epochs, config.eval.every_epochs = 40, 1
    config.optimizer.learning_rate = 0.0  # nothing improves
    config.eval.patience = 2
    config.interpolate.alphas = (0.0, 0.5, 1.0)
    main.run(config, tmp_path / "mine", "train")
    steps = [int(p.name) for p in (tmp_path / "mine" / "checkpoints").iterdir()]
    logged = (tmp_path / "mine" / "metrics.jsonl").read_text().splitlines()
    evaluated = [line for line in logged if "eval/val/t2i/R1" in line]
    assert len(evaluated) == 3  # the beginning, and two that brought nothing better
    found = json.loads((tmp_path / "mine" / interpolation.TABLE).read_text())
    names = {"new val", "new test", "old val", "old test"}
    assert all(set(row["scores"]) == names for row in found["rows"])
    assert (tmp_path / "mine" / interpolation.PICTURE).stat().st_size > 5000
    retriever = Retriever.in_memory(tmp_path / "mine" / interpolation.DIRECTORY)
    retriever.add(tmp_path / "own" / "photos")
    assert len(retriever.search("a man in a fuchsia tunic", 3)) == 3
    main.run(config, tmp_path / "mine", "train")  # finished: it compares again and trains no more
    assert [int(p.name) for p in (tmp_path / "mine" / "checkpoints").iterdir()] == steps
    assert "stopped early" in capsys.readouterr().err


def test_a_comparison_needs_a_model_to_start_from(tmp_path, tiny_config):
    from ml_collections import ConfigDict

    tiny_config.unlock()
    tiny_config.interpolate = ConfigDict({"alphas": (0.0, 1.0)})
    tiny_config.schedule.num_epochs = 1
    with pytest.raises(ValueError, match="needs --config.init_from"):
        main.run(tiny_config, tmp_path / "run", "train")
    assert not (tmp_path / "run").exists()  # refused before it trained


def test_patience_below_zero_is_refused(tmp_path, tiny_config):
    tiny_config.eval.patience = -1
    with pytest.raises(ValueError, match="eval.patience is -1, expected 0"):
        main.run(tiny_config, tmp_path / "run", "train")
