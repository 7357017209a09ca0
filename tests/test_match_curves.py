"""scripts/match_curves.py: its columns are the evaluation's figures and their bounds."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

from configs import bi_irra
from data_pipelines.synth_pedes.generate import generate

sys.path.insert(0, str(Path(__file__).parents[1] / "scripts"))

import match_curves

RUN = Path(__file__).parent / "fixtures" / "bi_irra_run"
CANDIDATES = 5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """The fixture's data, and few candidates."""
    root = tmp_path_factory.mktemp("data")
    sizes = dict(train_ids=6, val_ids=3, test_ids=4, images_per_id=4)
    generate(root, "cuhk_pedes", **sizes, languages=("en", "zh"))
    config = bi_irra.get_config("debug")
    config.data.root, config.data.cache_dir = str(root), str(root / "cache")
    config.data.generate, config.data.batch_size = {}, 8
    config.eval.rerank_k = CANDIDATES
    return config


@pytest.mark.slow
def test_columns(config, tmp_path):
    from tipr_jax import main

    run = Path(shutil.copytree(RUN, tmp_path / "run"))
    found = list(match_curves.rows(config, run, "test"))
    assert [(step, split) for step, split, _ in found] == [
        (step, split) for step in (12, 18) for split in ("test", "test_zh")
    ]
    evaluation = config.copy_and_resolve_references()
    evaluation.init_from = str(RUN)
    main.run(evaluation, tmp_path / "evaluation", "eval")
    best = json.loads((tmp_path / "evaluation" / "results.json").read_text())
    assert best["step"] == 12
    _, _, english = found[0]
    assert english["cosine"] == pytest.approx(best["t2i"]["R1"])
    assert english["match"] == pytest.approx(best["t2i_rerank"]["R1"])
    for _, _, values in found:
        assert set(values) == set(match_curves.COLUMNS)
        assert max(values["cosine"], values["match"], values["diff"]) <= values["oracle"] <= 100
    match_curves.draw(found, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000


def test_first_is_right():
    right = np.array([[True, False, False], [False, True, False], [False, False, False]])
    score = np.array([[0.1, 0.2, 0.0], [0.1, 0.2, 0.0], [0.1, 0.2, 0.0]])
    assert match_curves.first_is_right(right, score) == pytest.approx(1 / 3)


def test_a_run_without_checkpoints_is_named(config, tmp_path):
    with pytest.raises(ValueError, match="has no checkpoints"):
        next(match_curves.rows(config, tmp_path, "test"))


def test_no_candidates(config):
    config = config.copy_and_resolve_references()
    config.eval.rerank_k = 0
    with pytest.raises(ValueError, match="rerank_k is 0"):
        next(match_curves.rows(config, RUN, "test"))
