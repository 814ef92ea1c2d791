"""Gradient checks pass correct gradients, and catch wrong ones."""

import pytest

from cnnkernels.conformance import BROKEN, adjoint_error, finite_difference_error
from cnnkernels.contract import Conv2D

PROBLEMS = [
    Conv2D(2, 4, 5, 6, 4, 3, padding=1, dtype="float64"),
    Conv2D(2, 4, 6, 7, 6, (2, 3), (2, 1), ((1, 0), (0, 2)), (1, 2), 2, dtype="float64"),
    Conv2D(3, 2, 5, 5, 3, 2, 3, bias=False, dtype="float64"),
]


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_gradients_are_the_differences_of_forward(backend, problem):
    assert finite_difference_error(backend, problem, probes=3) < 1e-9


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_backward_is_the_adjoint_of_forward(backend, problem):
    assert adjoint_error(backend, problem) < 1e-13


@pytest.mark.parametrize("name", ["dx-not-added", "dx-rim", "dw-averaged", "db-averaged"])
def test_wrong_gradients_differ_from_the_differences_of_forward(name):
    broken = BROKEN[f"broken-{name}"]
    assert finite_difference_error(broken, PROBLEMS[0], probes=40) > 1e-3


@pytest.mark.parametrize("name", ["dx-not-added", "dx-rim", "dw-averaged", "flipped", "zeros"])
def test_wrong_gradients_and_wrong_forwards_are_no_adjoints(name):
    assert adjoint_error(BROKEN[f"broken-{name}"], PROBLEMS[0]) > 1e-3
