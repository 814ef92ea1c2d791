"""Fills: exact integers, and the elements that inputs reach."""

import math

import numpy as np
import pytest

from cnnkernels.accuracy import rounding
from cnnkernels.conformance import CORNER, CORNER_ONNX
from cnnkernels.conformance.fills import (
    ABSENT,
    EXACT_INTEGERS,
    TooLargeError,
    filled,
    fills_of,
    reached_elements,
)
from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.convolution import naive
from cnnkernels.descriptor import parse

PROBLEMS = [parse(descriptor) for descriptor in CORNER + CORNER_ONNX]
CONVOLUTIONS = [problem for problem in PROBLEMS if isinstance(problem, Conv2D)]
POOLINGS = [problem for problem in PROBLEMS if isinstance(problem, MaxPool2D)]
SMALL = [problem for problem in CONVOLUTIONS if problem.multiply_adds < 10_000]
SMALL += [
    Conv2D(2, 1, 1, 1, 2, 3, padding=1),  # taps that never leave the padding
    Conv2D(1, 1, 1, 1, 1, 1, padding=1, bias=False),  # windows that never do
]

LONG = [
    Conv2D(1, 1, 1300, 1300, 1, 1),  # 1.69e6 products in an element of dw
    Conv2D(1, 1200, 30, 30, 1, 30, bias=False),  # 1.08e6 in the element of y
]


def test_float32_holds_every_integer_up_to_the_limit_and_not_the_next():
    assert np.float32(EXACT_INTEGERS - 1) + np.float32(1) == EXACT_INTEGERS
    assert np.float32(EXACT_INTEGERS) + np.float32(1) == EXACT_INTEGERS


@pytest.mark.parametrize("problem", CONVOLUTIONS + LONG, ids=str)
def test_no_sum_of_integers_can_exceed_what_float32_holds_exactly(problem):
    data = filled(problem, "integers")
    x, w, b, dy = (float(np.abs(a).max(initial=0)) for a in (data.x, data.w, data.b, data.dy))
    taps = math.prod(problem.kernel_size)
    windows = problem.batch * problem.out_height * problem.out_width
    assert problem.in_channels // problem.groups * taps * x * w + b <= EXACT_INTEGERS
    assert problem.out_channels // problem.groups * taps * dy * w <= EXACT_INTEGERS
    assert windows * dy * max(x, 1) <= EXACT_INTEGERS
    for array in (data.x, data.w, data.b, data.dy):
        np.testing.assert_array_equal(array, np.trunc(array))
        assert np.count_nonzero(array) == array.size
    assert 1 <= w <= 4


def test_a_sum_too_long_to_be_exact_is_refused_before_anything_is_allocated():
    with pytest.raises(TooLargeError, match=r"16781312 products .* up to 16777216"):
        filled(Conv2D(1, 1, 4096, 4097, 1, 1), "integers")


@pytest.mark.parametrize("problem", SMALL, ids=str)
def test_reached_elements_are_those_that_ones_make_non_zero(problem):
    x, w, b, y = (np.ones(shape, problem.dtype) for shape in problem.shapes)
    with_bias = b if problem.bias else None
    out, _ = naive.forward(problem, x, w, with_bias)
    gradients = naive.backward(problem, y, x, w, ())
    found = {"y": out} | gradients._asdict()
    expected = {name: np.count_nonzero(a) for name, a in found.items() if a is not None}
    assert reached_elements(problem) == (expected if problem.batch else {})


def test_every_window_of_a_pooling_is_reached():
    assert reached_elements(MaxPool2D(2, 3, 8, 8, 2)) == {"y": 2 * 3 * 4 * 4, "dx": 1}


def test_rounding_is_the_bound_of_a_sum_of_products():
    unit = 2.0**-24  # half the distance from 1 to the next number
    assert rounding("float32", 1) == pytest.approx(unit, rel=1e-6, abs=0)
    assert rounding("float32", 2**20) == pytest.approx(1 / 15, rel=1e-12, abs=0)
    assert rounding("float64", 3) == pytest.approx(2 * 3 * 2.0**-53, rel=1e-12, abs=0)


@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_bounds_of_real_numbers_are_of_the_size_of_the_sums(problem):
    data = filled(problem, "real")
    for name in ("y", "dx", "dw", "db"):
        right, bound = getattr(data, name), getattr(data, f"{name}_bound")
        assert bound.shape == right.shape
        assert right.dtype == np.float64
        assert np.all(bound >= 0)
        # A sum is no larger than that of its magnitudes, which the bound is a small part of.
        assert np.all(np.abs(right) * rounding(problem.dtype, 1) <= bound * (1 + 1e-9))
        assert np.all(bound < 1e-2)


@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_fills_have_the_shapes_and_dtype_of_the_problem_and_are_always_the_same(problem):
    for fill in (*fills_of(problem), "real"):
        data, again = filled(problem, fill), filled(problem, fill)
        for name, array in vars(data).items():
            np.testing.assert_array_equal(array, getattr(again, name), strict=True)
        assert data.x.dtype == data.dy.dtype == problem.dtype
        assert (data.x.shape, data.dy.shape) == (problem.shapes.x, problem.shapes.y)
        assert data.y.shape == problem.shapes.y
        if isinstance(problem, Conv2D):
            assert data.w.shape == problem.shapes.w
            assert data.b.shape == (problem.shapes.b if problem.bias else ABSENT.shape)
        else:
            assert data.w.shape == data.b.shape == data.dw.shape == data.db.shape == ABSENT.shape


@pytest.mark.parametrize("problem", POOLINGS, ids=str)
def test_poolings_are_filled_without_ties_and_with_many_below_zero(problem):
    distinct, ties = (filled(problem, fill).x for fill in ("integers", "ties"))
    for plane in distinct.reshape(-1, problem.height * problem.width):
        assert np.unique(plane).size == plane.size
    assert np.unique(ties).size <= 3
    assert np.all(ties < 0)  # so that padding with zeros shows


def test_poolings_are_filled_with_all_that_is_no_number():
    x = filled(MaxPool2D(2, 4, 9, 9, 3), "nonfinite").x
    assert np.isposinf(x).any()
    assert np.isneginf(x).all(axis=(2, 3)).any()  # windows of nothing else
    with_nan = np.isnan(x).any(axis=(2, 3))
    assert with_nan.any()
    assert not with_nan.all()


@pytest.mark.parametrize("problem", CONVOLUTIONS, ids=str)
def test_convolutions_are_filled_with_a_nan_and_an_infinity_in_every_other_image(problem):
    data = filled(problem, "nonfinite")
    for n, image in enumerate(data.x):
        assert np.isfinite(image).all() == bool(n % 2)
    assert data.dx.shape == data.dw.shape == data.db.shape == ABSENT.shape


def test_a_gradient_of_a_bias_that_there_is_none_of_is_absent():
    data = filled(Conv2D(1, 1, 3, 3, 1, 2, bias=False), "integers")
    assert data.b.shape == data.db.shape == ABSENT.shape


def test_what_a_folder_keeps_is_what_was_made(tmp_path):
    for problem in (POOLINGS[0], CONVOLUTIONS[0]):
        for fill in (*fills_of(problem), "real"):
            made, kept, read = (
                filled(problem, fill, folder) for folder in (None, tmp_path, tmp_path)
            )
            for name, array in vars(made).items():
                np.testing.assert_array_equal(getattr(kept, name), array, strict=True)
                np.testing.assert_array_equal(getattr(read, name), array, strict=True)
    assert {path.suffix for path in tmp_path.iterdir()} == {".npz"}
    assert len(list(tmp_path.iterdir())) == 4 + 3
