"""The definition of max-pooling, compared with results computed by hand."""

import numpy as np
import pytest

from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling import naive

NAN, INF = float("nan"), float("inf")

CASES = {
    # geometry, x, y, dy, dx
    "windows side by side": (
        {"kernel_size": 2},
        [[1, 2, 5, 3], [4, 0, 6, 7]],
        [[4, 7]],
        [[10, 20]],
        [[0, 0, 0, 0], [10, 0, 0, 20]],
    ),
    "windows apart": (
        {"kernel_size": 1, "stride": (1, 2)},
        [[9, 1, 8, 2, 7]],
        [[9, 8, 7]],
        [[1, 2, 3]],
        [[1, 0, 2, 0, 3]],
    ),
    "windows that overlap add up": (
        {"kernel_size": (1, 2), "stride": 1},
        [[1, 3, 2]],
        [[3, 3]],
        [[1, 10]],
        [[0, 11, 0]],
    ),
    "of equal ones the first": (
        {"kernel_size": 2},
        [[1, 2], [2, 2]],
        [[2]],
        [[5]],
        [[0, 5], [0, 0]],
    ),
    "of NaNs the last": (
        {"kernel_size": 2},
        [[1, NAN], [NAN, INF]],
        [[NAN]],
        [[5]],
        [[0, 0], [5, 0]],
    ),
    "minus infinity is a pixel like others": (
        {"kernel_size": (1, 2)},
        [[-INF, -INF, -INF, 3]],
        [[-INF, 3]],
        [[5, 6]],
        [[5, 0, 0, 6]],
    ),
    "minus infinity wins over padding": (
        {"kernel_size": 2, "padding": ((1, 0), (1, 0))},
        [[-INF]],
        [[-INF]],
        [[5]],
        [[5]],
    ),
    "padding never wins": (
        {"kernel_size": 2, "stride": 1, "padding": 1},
        [[-5, -3], [-2, -4]],
        [[-5, -3, -3], [-2, -2, -3], [-2, -2, -4]],
        [[1, 2, 3], [4, 5, 6], [7, 8, 9]],
        [[1, 11], [24, 9]],
    ),
    "padding on one side": (
        {"kernel_size": (1, 2), "padding": ((0, 0), (1, 0))},
        [[1, 2, 3]],
        [[1, 3]],
        [[5, 6]],
        [[5, 0, 6]],
    ),
    "ceil mode": (
        {"kernel_size": (1, 2), "ceil_mode": True},
        [[1, 2, 3]],
        [[2, 3]],
        [[5, 6]],
        [[0, 5, 6]],
    ),
    "dilation": (
        {"kernel_size": 2, "dilation": 2},
        [[1, 9, 2], [9, 9, 9], [3, 9, 2]],
        [[3]],
        [[5]],
        [[0, 0, 0], [0, 0, 0], [5, 0, 0]],
    ),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_one_plane(case, dtype):
    geometry, *planes = case
    x, y, dy, dx = (np.array(plane, dtype)[None, None] for plane in planes)
    problem = MaxPool2D(1, 1, *x.shape[2:], **geometry, dtype=dtype)
    got, cache = naive.forward(problem, x)
    np.testing.assert_array_equal(got, y, strict=True)
    np.testing.assert_array_equal(naive.backward(problem, dy, cache), dx, strict=True)


def test_images_and_channels_are_apart():
    problem = MaxPool2D(2, 2, 1, 2, (1, 2))
    x = np.array([[[1, 2], [4, 3]], [[5, 6], [8, 7]]], "float32")[:, :, None]
    y, cache = naive.forward(problem, x)
    assert y.tolist() == [[[[2]], [[4]]], [[[6]], [[8]]]]
    dx = naive.backward(problem, np.array([10, 20, 30, 40], "float32").reshape(y.shape), cache)
    assert dx.tolist() == [[[[0, 10]], [[20, 0]]], [[[0, 30]], [[40, 0]]]]
