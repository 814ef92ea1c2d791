"""The definition of convolution, compared with results computed by hand."""

import numpy as np
import pytest

from cnnkernels.contract import Conv2D, Needs
from cnnkernels.convolution import naive

DIGITS = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
KERNEL = [[1, 2], [3, 4]]

ONE_PLANE = {
    # geometry, y without bias, dy, dx, dw, db
    "plain": (
        {},
        [[37, 47], [67, 77]],
        [[1, 2], [3, 4]],
        [[1, 4, 4], [6, 20, 16], [9, 24, 16]],
        [[37, 47], [67, 77]],
        10,
    ),
    "stride": (
        {"stride": (1, 2)},
        [[37], [67]],
        [[1], [2]],
        [[1, 2, 0], [5, 8, 0], [6, 8, 0]],
        [[9, 12], [18, 21]],
        3,
    ),
    "padding above and to the right": (
        {"padding": ((1, 0), (0, 1))},
        [[11, 18, 9], [37, 47, 21], [67, 77, 33]],
        [[1, 0, 2], [0, 0, 0], [0, 3, 1]],
        [[3, 4, 6], [0, 3, 7], [0, 9, 15]],
        [[21, 18], [40, 29]],
        7,
    ),
    "dilation": (
        {"dilation": 2},
        [[64]],
        [[2]],
        [[2, 0, 4], [0, 0, 0], [6, 0, 8]],
        [[2, 6], [14, 18]],
        2,
    ),
    "stride, padding and dilation": (
        {"stride": 2, "padding": 1, "dilation": (1, 3)},
        [[12], [48]],
        [[1], [10]],
        [[0, 0, 4], [0, 0, 20], [0, 0, 40]],
        [[0, 60], [0, 93]],
        11,
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", ONE_PLANE.values(), ids=ONE_PLANE)
def test_one_plane(case, dtype):
    geometry, *planes, db = case
    planes = (DIGITS, KERNEL, *planes)
    x, w, y, dy, dx, dw = (np.array(plane, dtype)[None, None] for plane in planes)
    b = np.array([100], dtype)
    problem = Conv2D(1, 1, 3, 3, 1, 2, **geometry, dtype=dtype)
    got, cache = naive.forward(problem, x, w, b)
    np.testing.assert_array_equal(got, y + 100, strict=True)
    gradients = naive.backward(problem, dy, x, w, cache)
    np.testing.assert_array_equal(gradients.dx, dx, strict=True)
    np.testing.assert_array_equal(gradients.dw, dw, strict=True)
    np.testing.assert_array_equal(gradients.db, np.array([db], dtype), strict=True)


def lines(*values):
    """Return planes of one row each: (images, channels, width) to (images, channels, 1, width)."""
    return np.array(values, "float32")[:, :, None]


def test_channels_are_summed_filters_are_apart_and_gradients_of_weights_sum_images():
    problem = Conv2D(2, 2, 1, 2, 3, 1, bias=False)
    x = lines([[1, 2], [3, 4]], [[5, 6], [7, 8]])
    w = np.array([[1, 10], [2, 20], [0, 1]], "float32")[..., None, None]
    y, cache = naive.forward(problem, x, w, None)
    np.testing.assert_array_equal(
        y, lines([[31, 42], [62, 84], [3, 4]], [[75, 86], [150, 172], [7, 8]])
    )
    dx, dw, db = naive.backward(problem, np.ones_like(y), x, w, cache)
    np.testing.assert_array_equal(dx, lines(*[[[3, 3], [31, 31]]] * 2))
    np.testing.assert_array_equal(dw[..., 0, 0], [[14, 22]] * 3)
    assert db is None


def test_groups_do_not_meet():
    problem = Conv2D(1, 4, 1, 2, 2, 1, groups=2)
    x = lines([[1, 2], [3, 4], [5, 6], [7, 8]])
    w = np.array([[1, 10], [2, 20]], "float32")[..., None, None]
    y, cache = naive.forward(problem, x, w, np.array([100, 200], "float32"))
    np.testing.assert_array_equal(y, lines([[131, 142], [350, 372]]))
    dx, dw, db = naive.backward(problem, lines([[1, 1], [1, 10]]), x, w, cache)
    np.testing.assert_array_equal(dx, lines([[1, 1], [10, 10], [2, 20], [20, 200]]))
    np.testing.assert_array_equal(dw[..., 0, 0], [[3, 7], [65, 87]])
    np.testing.assert_array_equal(db, [2, 11])


def test_gradients_that_are_not_needed_are_none():
    problem = Conv2D(1, 1, 3, 3, 1, 2)
    dy, x, w = (np.ones(shape, "float32") for shape in ((1, 1, 2, 2), (1, 1, 3, 3), (1, 1, 2, 2)))
    assert naive.backward(problem, dy, x, w, (), Needs(False, False, False)) == (None, None, None)
