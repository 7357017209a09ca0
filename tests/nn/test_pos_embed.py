"""Tables of positions on another grid: relative position biases, and refusals of wrong tables.

Tables of absolute positions are compared with the released code in the parity tests.
"""

import numpy as np
import pytest

from tipr_jax.nn.pos_embed import (
    geometric_offsets,
    num_relative_distance,
    resize_pos_embed,
    resize_relative_bias,
)


def random_table(grid: tuple[int, int], heads: int = 2, layers: int = 2) -> np.ndarray:
    shape = layers, num_relative_distance(grid), heads
    return np.random.default_rng(0).normal(size=shape)


def offset_map(table: np.ndarray, grid: tuple[int, int]) -> np.ndarray:
    """[layers,2*rows-1,2*cols-1,heads]: the table without the class token's rows."""
    return table[:, :-3].reshape(len(table), 2 * grid[0] - 1, 2 * grid[1] - 1, -1)


def cubic_through(x: np.ndarray, y: np.ndarray, at: np.ndarray) -> np.ndarray:
    """A cubic spline with the end condition not-a-knot, solved from its definition.

    One polynomial per interval; the equations say that it passes through both ends of its
    interval, that two derivatives continue at every inner point, and the third at the first and
    the last inner point.
    """
    n = len(x) - 1
    rows, right = [], []

    def equation(terms: dict[int, np.ndarray], value: np.ndarray | float) -> None:
        row = np.zeros(4 * n)
        for interval, coefficients in terms.items():
            row[4 * interval : 4 * interval + 4] += coefficients
        rows.append(row)
        right.append(value)

    h = np.diff(x)
    for i in range(n):
        equation({i: [1, 0, 0, 0]}, y[i])
        equation({i: [1, h[i], h[i] ** 2, h[i] ** 3]}, y[i + 1])
    for i in range(n - 1):
        equation({i: [0, 1, 2 * h[i], 3 * h[i] ** 2], i + 1: [0, -1, 0, 0]}, 0.0)
        equation({i: [0, 0, 2, 6 * h[i]], i + 1: [0, 0, -2, 0]}, 0.0)
    for i in (0, n - 2):
        equation({i: [0, 0, 0, 6], i + 1: [0, 0, 0, -6]}, 0.0)
    coefficients = np.linalg.solve(rows, right).reshape(n, 4)
    at = np.clip(at, x[0], x[-1])
    interval = np.clip(np.searchsorted(x, at) - 1, 0, n - 1)
    powers = (at - x[interval])[:, None] ** np.arange(4)
    return (coefficients[interval] * powers).sum(axis=1)


def slow_offsets(source: int, target: int) -> list[float]:
    """The offsets by BEiT's words, with the closed form of the geometric sum."""
    count, low, high = source - 1, 1.01, 1.5
    while high - low > 1e-6:
        ratio = (low + high) / 2
        if (1 - ratio**count) / (1 - ratio) > target - 1:
            high = ratio
        else:
            low = ratio
    out, at = [], 1.0
    for power in range(1, count + 1):
        out.append(at)
        at += ratio**power
    return [-x for x in reversed(out)] + [0.0] + out


def slow_resize(table: np.ndarray, target: tuple[int, int], source: tuple[int, int]) -> np.ndarray:
    """`resize_relative_bias`, one row and one column of one head at a time."""
    layers, _, heads = table.shape
    out = np.empty((layers, num_relative_distance(target), heads))
    out[:, -3:] = table[:, -3:]
    y, x = (np.array(slow_offsets(s, t)) for s, t in zip(source, target, strict=True))
    at_y, at_x = (np.arange(1.0 - t, t) for t in target)
    for layer in range(layers):
        for head in range(heads):
            plane = offset_map(table, source)[layer, :, :, head]
            if source[1] != target[1]:
                plane = np.array([cubic_through(x, row, at_x) for row in plane])
            if source[0] != target[0]:
                plane = np.array([cubic_through(y, column, at_y) for column in plane.T]).T
            out[layer, :-3, head] = plane.reshape(-1)
    return out


def test_an_equal_grid_changes_nothing():
    table = random_table((3, 5))
    np.testing.assert_array_equal(resize_relative_bias(table, (3, 5), (3, 5)), table)


@pytest.mark.parametrize(
    "source, target", [((4, 4), (7, 7)), ((5, 4), (3, 4)), ((3, 3), (8, 4)), ((4, 3), (4, 6))]
)
def test_equals_a_slow_resize(source, target):
    """Upwards, downwards, one axis alone, and further than the geometric sum reaches (3 to 8)."""
    table = random_table(source)
    got = resize_relative_bias(table, target, source)
    np.testing.assert_allclose(got, slow_resize(table, target, source), rtol=0, atol=1e-11)
    assert resize_relative_bias(table.astype(np.float32), target, source).dtype == np.float32


def test_symmetric_tables_stay_symmetric():
    """A bias that depends on the distance alone still does so."""
    table = random_table((4, 3))
    offsets = offset_map(table, (4, 3))
    table[:, :-3] = (offsets + offsets[:, ::-1, ::-1]).reshape(2, -1, 2)
    resized = offset_map(resize_relative_bias(table, (6, 5), (4, 3)), (6, 5))
    np.testing.assert_allclose(resized, resized[:, ::-1, ::-1], rtol=0, atol=1e-12)


def test_by_hand():
    """Two patches in a row to three: offsets -1, 0, 1 hold a parabola, and +-2 are beyond them.

    One column: the horizontal axis has the single offset 0 and stays.
    """
    table = np.array([5.0, 1.0, 3.0, -7.0, -8.0, -9.0])[:, None]
    np.testing.assert_array_equal(geometric_offsets(2, 3), [-1, 0, 1])
    got = resize_relative_bias(table, (3, 1), (2, 1))
    np.testing.assert_allclose(got[:, 0], [5, 5, 1, 3, 3, -7, -8, -9], atol=1e-15)
    # From a single row of patches every vertical offset takes the value of offset 0.
    got = resize_relative_bias(table[[1, 3, 4, 5]], (2, 1), (1, 1))
    np.testing.assert_array_equal(got[:, 0], [1, 1, 1, -7, -8, -9])


def test_offsets_meet_the_end_of_the_target():
    """14 to 24 patches, as from 224 to 384 pixels: 13 growing steps that end at offset 23."""
    steps = np.diff(geometric_offsets(14, 24)[13:])
    assert geometric_offsets(14, 24)[-1] == pytest.approx(23, abs=1e-4)
    np.testing.assert_allclose(steps[1:] / steps[:-1], steps[1], rtol=1e-12)
    # Downwards the ratio stops at its lower bound: neighbours stay about one patch apart.
    assert geometric_offsets(14, 8)[14:16].tolist() == pytest.approx([1, 2.01], abs=1e-5)


def test_tables_of_another_grid_are_refused():
    with pytest.raises(ValueError, match=r"expected \[\.\.\., 28, heads\] for a grid of 3 x 3"):
        resize_relative_bias(random_table((4, 3)), (6, 6), (3, 3))
    with pytest.raises(ValueError, match="has 13 rows, expected 1 \\+ 3 x 5"):
        resize_pos_embed(np.zeros((13, 8)), (4, 4), (3, 5))
    with pytest.raises(ValueError, match="12 patch rows, not a square grid"):
        resize_pos_embed(np.zeros((13, 8)), (4, 4))
