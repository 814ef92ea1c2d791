"""Windows as strided slices."""

import numpy as np
import pytest

from cnnkernels.conformance import CORNER, CORNER_ONNX
from cnnkernels.descriptor import parse
from cnnkernels.strided import strided_taps


@pytest.mark.parametrize("descriptor", CORNER + CORNER_ONNX)
def test_slices_pair_each_window_with_the_pixel_under_its_tap(descriptor):
    problem = parse(descriptor)
    _, _, out_height, out_width = problem.shapes.y
    rows, columns = np.indices((problem.height, problem.width))
    down, across = np.indices((out_height, out_width))
    (top, _), (left, _) = problem.padding
    taps = []
    for r, s, windows, pixels in strided_taps(problem):
        taps.append((r, s))
        h = down * problem.stride[0] + r * problem.dilation[0] - top
        v = across * problem.stride[1] + s * problem.dilation[1] - left
        on_pixels = (h >= 0) & (h < problem.height) & (v >= 0) & (v < problem.width)
        selected = np.zeros_like(on_pixels)
        selected[windows] = True
        np.testing.assert_array_equal(selected, on_pixels)
        np.testing.assert_array_equal(rows[pixels], h[windows])
        np.testing.assert_array_equal(columns[pixels], v[windows])
    assert taps == list(np.ndindex(*problem.kernel_size))
