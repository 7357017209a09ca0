"""Overlap, double boxes and shapes, against cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tipr_jax.gallery.boxes import overlaps, touches_border, without_doubles
from tipr_jax.preprocess.box import Box, fit_aspect, within

SQUARE = np.array([[0, 0, 10, 10]], float)


@pytest.mark.parametrize(
    ("other", "want"),
    [
        ((0, 0, 10, 10), 1.0),
        ((5, 0, 15, 10), 50 / 150),
        ((5, 5, 15, 15), 25 / 175),
        ((2, 2, 4, 7), 10 / 100),  # within
        ((10, 0, 20, 10), 0.0),  # side by side
        ((30, 30, 40, 40), 0.0),
        ((5, 5, 5, 5), 0.0),  # no area
        ((8, 8, 2, 2), 0.0),  # turned round
    ],
)
def test_overlap(other, want):
    other = np.array([other], float)
    assert overlaps(SQUARE, other)[0, 0] == pytest.approx(want)
    assert overlaps(other, SQUARE)[0, 0] == pytest.approx(want)


def test_overlap_of_nothing():
    assert overlaps(np.zeros((0, 4)), SQUARE).shape == (0, 1)
    assert overlaps(np.zeros((1, 4)), np.zeros((1, 4)))[0, 0] == 0


def test_the_best_of_overlapping_boxes_stays():
    boxes = np.array([[0, 0, 10, 10], [1, 0, 11, 10], [4, 0, 14, 10], [50, 0, 60, 10]], float)
    # 0 and 1 share 90 of 110, 1 and 2 share 70 of 130, 0 and 2 share 60 of 140.
    assert without_doubles(boxes, np.array([0.9, 0.8, 0.7, 0.6])).tolist() == [0, 2, 3]
    # The middle one is best, so both its neighbours go.
    assert without_doubles(boxes, np.array([0.8, 0.9, 0.7, 0.6])).tolist() == [1, 3]
    assert without_doubles(boxes, np.array([0.6, 0.6, 0.6, 0.9])).tolist() == [3, 0, 2]
    assert without_doubles(boxes, np.ones(4), most=0.9).tolist() == [0, 1, 2, 3]
    assert without_doubles(np.zeros((0, 4)), np.zeros(0)).tolist() == []


@pytest.mark.parametrize(
    ("box", "want"),
    [
        ((1.4, 2.6, 7.4, 9.6), Box(1, 3, 6, 7)),
        ((-5, -5, 4, 4), Box(0, 0, 4, 4)),
        ((15, 35, 99, 99), Box(15, 35, 5, 5)),
        ((20, 0, 25, 10), None),
        ((-9, -9, -1, -1), None),
        ((3.1, 3.1, 3.3, 9), None),  # less than half a pixel
    ],
)
def test_whole_pixels_within_the_picture(box, want):
    assert within(np.array(box, float), (40, 20)) == want


@pytest.mark.parametrize(
    ("box", "want"),
    [
        (Box(40, 10, 10, 40), Box(35, 10, 20, 40)),  # too narrow: grows to both sides
        (Box(40, 40, 20, 20), Box(40, 30, 20, 40)),  # too low: up and down
        (Box(40, 40, 20, 40), Box(40, 40, 20, 40)),
        (Box(0, 10, 10, 40), Box(0, 10, 20, 40)),  # at the left border: to the right alone
        (Box(90, 10, 10, 40), Box(80, 10, 20, 40)),
        (Box(40, 80, 20, 20), Box(40, 60, 20, 40)),
        (Box(0, 0, 100, 100), Box(0, 0, 100, 100)),  # twice as high cannot be
        (Box(10, 5, 80, 90), Box(10, 0, 80, 100)),
    ],
)
def test_shape_that_the_model_expects(box, want):
    assert fit_aspect(box, 2.0, (100, 100)) == want


@given(
    st.integers(1, 90), st.integers(1, 90), st.integers(0, 9), st.integers(0, 9),
    st.floats(0.5, 4), st.integers(99, 300), st.integers(99, 300),
)  # fmt: skip
def test_nothing_of_the_box_is_lost(width, height, x, y, aspect, rows, columns):
    box = fit_aspect(Box(x, y, width, height), aspect, (rows, columns))
    assert 0 <= box.x <= x and 0 <= box.y <= y
    assert x + width <= box.x + box.width <= columns
    assert y + height <= box.y + box.height <= rows
    if box.width < columns and box.height < rows:
        assert abs(box.height - box.width * aspect) <= max(1, aspect)


def test_who_is_cut_off():
    assert not touches_border(Box(5, 5, 10, 10), (50, 50))
    for box in (Box(0, 5, 9, 9), Box(5, 1, 9, 9), Box(39, 5, 10, 9), Box(5, 40, 9, 10)):
        assert touches_border(box, (50, 50)), box
