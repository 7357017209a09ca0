"""What a user's commands do, end to end in one process."""

import json

import pytest

from tipr_jax import main, results
from tipr_jax.models.irra import LOSSES


@pytest.fixture
def config(tiny_config):
    """All losses, two warm starts, bfloat16, padded last batches, no val split: one short run."""
    tiny_config.precision = "bfloat16"
    tiny_config.data.last_batch = "pad"
    tiny_config.eval.splits = ("test",)
    tiny_config.model.losses = LOSSES
    tiny_config.model.mask_caption_ids = False
    tiny_config.schedule.num_epochs = 1
    tiny_config.warm_start = {
        "model": {"losses": ("itc",), "learn_temperature": True},
        "warm_start": {"optimizer": {"learning_rate": 1e-4}},
    }
    return tiny_config


@pytest.mark.slow
def test_train_then_evaluate(config, tmp_path, capsys):
    main.run(config, tmp_path, "train")
    saved = json.loads((tmp_path / "results.json").read_text())
    assert list(saved["others"]) == ["untrained", "start", "best on test", "last epoch"]
    assert saved["split"] == saved["selected_on"] == "test"
    assert "selected on test" in (tmp_path / "report.html").read_text()
    assert "untrained (step 0)" in capsys.readouterr().out
    first, before = tmp_path / "warm_start", tmp_path / "warm_start" / "warm_start"
    configs = [json.loads((run / "config.json").read_text()) for run in (tmp_path, first, before)]
    assert [run["init_from"] for run in configs] == [str(first), str(before), ""]
    assert configs[1]["optimizer"]["learning_rate"] != configs[2]["optimizer"]["learning_rate"]
    assert [run["model"]["losses"] for run in configs] == [list(LOSSES), ["itc"], ["itc"]]
    begun = [results.read_evaluations(run)[0].scores["test"]["t2i"] for run in (before, first)]
    assert saved["others"]["untrained"]["t2i"] == begun[0] != begun[1]
    rows = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert rows[1]["step"] == 1 and {f"{loss}_loss" for loss in LOSSES} <= set(rows[1])

    main.run(config, tmp_path, "eval")
    shown = capsys.readouterr().out
    assert "given weights" in shown and "untrained" not in shown
    assert json.loads((tmp_path / "results.json").read_text()) == saved


def test_dry_run_counts_this_data_set(tiny_config, tmp_path, capsys):
    tiny_config.dry_run = True
    main.run(tiny_config, tmp_path / "run", "eval")
    assert "nothing was run" in capsys.readouterr().out
    assert not (tmp_path / "run").exists()
