"""Max-pooling by views."""

import numpy as np
import pytest

from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling import naive, windows


@pytest.mark.parametrize(
    ("kernel_size", "dtype"),
    [
        ((16, 16), "uint8"),
        ((1, 257), "int32"),
        ((17, 16), "int32"),
        ((2**16, 2**15), "int32"),
        ((2**16, 2**15 + 1), "int64"),
    ],
)
def test_the_winner_is_a_tap_counted_in_as_few_bits_as_there_are_taps(kernel_size, dtype):
    problem = MaxPool2D(1, 1, 2**16, 2**16, kernel_size, 1)
    assert windows.cache_spec(problem) == ((problem.shapes.y, dtype),)


def test_a_winner_beyond_the_256th_tap_gets_its_gradient():
    problem = MaxPool2D(1, 2, 18, 18, 17, 1)
    x = np.arange(2 * 18 * 18, dtype="float32").reshape(problem.shapes.x)
    dy = np.arange(1, 9, dtype="float32").reshape(problem.shapes.y)
    results = []
    for kernel in (naive, windows):
        y, cache = kernel.forward(problem, x)
        results.append((y, kernel.backward(problem, dy, cache)))
    np.testing.assert_equal(results[1], results[0])
