"""Convolution as a matrix product."""

import numpy as np

from cnnkernels.contract import Conv2D
from cnnkernels.convolution import im2col


def test_each_output_pixels_receptive_field_is_a_column_with_zeros_for_padding():
    problem = Conv2D(1, 1, 2, 2, 1, 2, padding=((1, 0), (0, 1)))
    x = np.array([[[[1, 2], [3, 4]]]], "float32")
    w = np.zeros(problem.shapes.w, "float32")
    _, (columns,) = im2col.forward(problem, x, w, np.zeros(1, "float32"))
    # one line a tap of the kernel, one column an output pixel, row by row
    expected = [[0, 0, 1, 2], [0, 0, 2, 0], [1, 2, 3, 4], [2, 0, 4, 0]]
    np.testing.assert_array_equal(columns, np.array(expected, "float32")[None, None], strict=True)


def test_groups_have_columns_of_their_own():
    problem = Conv2D(2, 4, 5, 5, 6, 3, groups=2)
    assert im2col.cache_spec(problem) == (((2, 2, 2 * 9, 9), "float32"),)
