"""False alarms, misses and the area under the curve against counting by hand."""

import numpy as np
import pytest

from tipr_jax.gallery import calibration

SCORES = np.array([[0.9, 0.2, 0.1], [0.3, 0.4, 0.35], [0.1, 0.6, 0.5]])
RIGHT = np.eye(3, dtype=bool)  # best of the person: .9 .4 .5; best of the others: .2 .35 .6


def test_counted_by_hand():
    curve = calibration.curve(SCORES, RIGHT)
    # Pairs (person's best, others' best) in the right order: .9 beats all, .4 and .5 beat .2, .35.
    assert curve.auc == pytest.approx(7 / 9) and not curve.reliable
    for line, alarms, misses in zip(curve.score, curve.false_alarms, curve.misses, strict=True):
        assert alarms == pytest.approx(np.mean(np.array([0.2, 0.35, 0.6]) >= line))
        assert misses == pytest.approx(np.mean(np.array([0.9, 0.4, 0.5]) < line))


def test_the_lowest_line_with_so_few_false_alarms():
    curve = calibration.curve(SCORES, RIGHT)
    score, alarms, misses = curve.at(0.4)
    assert 0.35 < score <= 0.6 and alarms == pytest.approx(1 / 3) and misses <= 2 / 3
    assert curve.at(0.0)[1] == 0 and curve.at(1.0)[2] == 0
    for rate in (-0.1, 1.5):
        with pytest.raises(ValueError, match="expected 0 to 1"):
            curve.at(rate)


def test_perfect_and_useless_scores():
    rng = np.random.default_rng(0)
    right = np.eye(50, dtype=bool)
    perfect = calibration.curve(rng.uniform(size=(50, 50)) + 2 * right, right)
    assert perfect.auc == 1 and perfect.reliable and perfect.at(0.0)[2] == 0
    same = calibration.curve(np.ones((50, 50)), right)
    assert same.auc == 0.5


def test_photos_that_were_not_scored_are_misses():
    scores = np.where(RIGHT, -np.inf, SCORES)
    curve = calibration.curve(scores, RIGHT)
    assert curve.auc == 0 and curve.at(1.0)[2] == 1


def test_people_without_photos_do_not_count():
    more = np.vstack([SCORES, [[0.99, 0.99, 0.99]]])
    nobody = np.vstack([RIGHT, [[False] * 3]])
    assert calibration.curve(more, nobody).auc == calibration.curve(SCORES, RIGHT).auc
    with pytest.raises(ValueError, match="people in the photos"):
        calibration.curve(SCORES, np.zeros((3, 3), bool))


def test_it_is_stored_and_read():
    curve = calibration.curve(SCORES, RIGHT)
    again = calibration.from_stored(curve.as_stored())
    assert again.at(0.05) == curve.at(0.05) and again.auc == curve.auc
    assert len(calibration.table(curve)) == 7
