"""Winograd's algorithm in NumPy is exact on multiples, and counts its products."""

import numpy as np
import pytest

from cnnkernels.conformance import reference
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import parse
from cnnkernels.winograd.accuracy import Accuracy
from cnnkernels.winograd.algorithm import (
    correlated,
    matrices,
    of_backward_data,
    of_forward,
    weight_gradients,
)

CASES = [
    "mb1ic1ih4oc1kh3ph1",
    "mb1ic3ih1oc2kh3ph1",
    "g2mb3ic8ih7oc10kh3ph1",
    "mb2ic6ih9iw6oc7oh8ow7kh3ph0pw2",
    "mb2ic4ih8oc5oh12kh3ph3",
    "mb1ic2ih2oc3oh8kh3ph4",
    "mb0ic3ih5oc4kh3ph1",
]


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_multiples_give_the_references_integers(case, outputs):
    problem = parse(case)
    random = np.random.default_rng(1)
    x, w, b, dy = (random.integers(-4, 5, shape).astype("f8") for shape in problem.shapes)
    w *= Accuracy(problem, outputs).integral
    dy *= Accuracy(problem, outputs).integral
    given = matrices(outputs)
    right = reference.convolution(problem, x, w, np.zeros_like(b), dy)
    y = correlated(given, of_forward(problem, x, w))
    np.testing.assert_array_equal(y, right.y)
    dx = correlated(given, of_backward_data(problem, dy, w))
    np.testing.assert_array_equal(dx, right.dx)
    dw = weight_gradients(given, problem, x, dy)
    np.testing.assert_array_equal(dw, right.dw)


def test_products_are_those_of_whole_tiles():
    accuracy = Accuracy(Conv2D(3, 8, 10, 9, 6, 3, padding=1, groups=2), 4)
    products = 36 * (3 * 3) * 3 * 6 * 4
    assert accuracy.products("forward") == products
    assert accuracy.products("backward_data") == products
    assert accuracy.products("backward_weights") == products
    assert accuracy.products("backward") == 2 * products
    assert Accuracy(Conv2D(1, 1, 6, 6, 1, 3), 2).products("forward") == 16 * 4
    assert Accuracy(Conv2D(1, 1, 6, 6, 1, 3), 2).products("backward_data") == 16 * 9
