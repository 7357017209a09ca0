"""Bi-IRRA against the released code, through the comparisons of scripts/check_golden.py."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from golden import bi_irra_data, bi_irra_model, bi_irra_parts, bi_irra_training  # noqa: E402
from golden.report import Report  # noqa: E402

from tipr_jax.text.xlm_roberta import train  # noqa: E402

GOLDEN = ROOT / "tests" / "golden" / "bi_irra"


def finish(report: Report, compared: int, capsys) -> None:
    """Nothing failed, nothing was absent, and as many quantities were compared as there are."""
    printed = capsys.readouterr().out
    assert report.failed == 0 and not report.absent, printed
    assert report.passed == compared, printed


@pytest.fixture(scope="module")
def loaded():
    return bi_irra_model.load(Report(GOLDEN))


def test_weights(capsys):
    report = Report(GOLDEN)
    bi_irra_model.load(report)
    finish(report, 3, capsys)


@pytest.mark.parametrize(
    "part, compared",
    [
        (bi_irra_model.check_forward, 38),
        (bi_irra_model.check_losses, 28),
        (bi_irra_training.check_gradients, 6),
        (bi_irra_training.check_trajectory, 9),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_model(loaded, part, compared, capsys):
    report = Report(GOLDEN)
    part(report, loaded)
    finish(report, compared, capsys)


@pytest.mark.parametrize(
    "part, compared",
    [
        (bi_irra_parts.check_relative_positions, 1),
        (bi_irra_parts.check_multi_device_contrast, 6),
        (bi_irra_parts.check_ranking, 4),
        (bi_irra_parts.check_schedules, 2),
        (bi_irra_parts.check_full_size, 2),
        (bi_irra_data.check_cleaning, 2),
        (bi_irra_data.check_text_masking, 3),
        (bi_irra_data.check_patch_masks, 6),
    ],
    ids=lambda x: getattr(x, "__name__", ""),
)
def test_parts(part, compared, capsys):
    report = Report(GOLDEN)
    part(report)
    finish(report, compared, capsys)


def test_token_ids_need_the_vocabulary(tmp_path, monkeypatch):
    """Which is not ours to ship; another one is told from it."""
    monkeypatch.delenv(bi_irra_data.VOCABULARY, raising=False)
    report = Report(GOLDEN)
    bi_irra_data.check_token_ids(report)
    assert "XLM_ROBERTA" in report.absent[0] and report.passed == report.failed == 0
    train(["a man"], 200).save(tmp_path)
    monkeypatch.setenv(bi_irra_data.VOCABULARY, str(tmp_path))
    bi_irra_data.check_token_ids(report)
    assert (report.passed, report.failed) == (0, 2)
