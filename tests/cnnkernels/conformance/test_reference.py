"""The reference results, compared with the definition."""

import dataclasses

import numpy as np
import pytest

from cnnkernels.conformance import CORNER, CORNER_ONNX, reference
from cnnkernels.conformance.fills import filled, fills_of
from cnnkernels.contract import Conv2D
from cnnkernels.convolution import naive as convolution
from cnnkernels.descriptor import parse
from cnnkernels.pooling import naive as pooling

PROBLEMS = [
    dataclasses.replace(parse(descriptor), dtype="float64") for descriptor in CORNER + CORNER_ONNX
]
CONVOLUTIONS = [problem for problem in PROBLEMS if isinstance(problem, Conv2D)]
POOLINGS = [problem for problem in PROBLEMS if not isinstance(problem, Conv2D)]


def _marked(problem):
    slow = problem.multiply_adds > 30_000
    return pytest.param(problem, marks=pytest.mark.slow if slow else ())


@pytest.mark.parametrize("problem", list(map(_marked, CONVOLUTIONS)), ids=str)
def test_convolution_is_the_definition_bit_for_bit_on_integers(problem):
    data = filled(problem, "integers")
    right = reference.convolution(problem, data.x, data.w, data.b, data.dy)
    b = data.b if problem.bias else None
    y, cache = convolution.forward(problem, data.x, data.w, b)
    dx, dw, db = convolution.backward(problem, data.dy, data.x, data.w, cache)
    assert (db is None) == (not problem.bias)
    for got, expected in zip((y, dx, dw, db), right, strict=True):
        if got is not None:
            np.testing.assert_array_equal(expected, got, strict=True)


@pytest.mark.parametrize("problem", POOLINGS, ids=str)
def test_pooling_is_the_definition_bit_for_bit(problem):
    for fill in fills_of(problem):
        data = filled(problem, fill)
        right = reference.pooling(problem, data.x, data.dy)
        y, cache = pooling.forward(problem, data.x)
        dx = pooling.backward(problem, data.dy, cache)
        for got, expected in zip((y, dx), right, strict=True):
            np.testing.assert_array_equal(expected, got, strict=True)


def test_magnitudes_are_sums_of_magnitudes():
    problem = Conv2D(1, 1, 1, 2, 1, (1, 2), dtype="float64")
    x, w, dy = np.array([[[[2.0, -3.0]]]]), np.array([[[[5.0, 7.0]]]]), np.array([[[[-1.0]]]])
    right = reference.convolution(problem, *map(np.abs, (x, w, np.array([-4.0]), dy)))
    assert [array.ravel().tolist() for array in right] == [[35.0], [5.0, 7.0], [2.0, 3.0], [1.0]]


def test_neither_argument_is_written_to_and_float32_is_summed_in_float64():
    problem = Conv2D(1, 2, 1, 1, 1, 1, bias=False)
    x = np.array([2.0**24, 1], "f4").reshape(1, 2, 1, 1)
    ones = np.ones((1, 2, 1, 1), "f4")
    for array in (x, ones):
        array.flags.writeable = False
    right = reference.convolution(problem, x, ones, np.empty(0), ones[:, :1])
    assert right.y.item() == 2**24 + 1
