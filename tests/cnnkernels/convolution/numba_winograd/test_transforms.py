"""Winograd's matrices satisfy the identities that define them."""

import itertools

import pytest

from cnnkernels.convolution.numba_winograd.transforms import POINTS, TAPS, transforms


@pytest.mark.parametrize("outputs", POINTS)
def test_each_output_is_its_three_products(outputs):
    given = transforms(outputs)
    size = outputs + TAPS - 1
    for i, tap, pixel in itertools.product(range(outputs), range(TAPS), range(size)):
        factor = sum(
            given.output[i][j]
            * given.weights[j][tap]
            / given.denominators[j]
            * given.image[j][pixel]
            for j in range(size)
        )
        assert factor == (pixel == i + tap)


@pytest.mark.parametrize("outputs", POINTS)
def test_each_weights_gradient_is_its_products(outputs):
    given = transforms(outputs)
    size = outputs + TAPS - 1
    for tap, i, pixel in itertools.product(range(TAPS), range(outputs), range(size)):
        factor = sum(
            given.weights_back[tap][j]
            * given.gradient[j][i]
            / given.denominators[j]
            * given.image[j][pixel]
            for j in range(size)
        )
        assert factor == (pixel == i + tap)


@pytest.mark.parametrize("outputs", POINTS)
def test_all_but_denominators_are_integers(outputs):
    given = transforms(outputs)
    for matrix in (
        given.image, given.weights, given.output, given.gradient, given.weights_back,
        [given.denominators],
    ):  # fmt: skip
        assert all(value.denominator == 1 for row in matrix for value in row)
    assert min(given.denominators) > 0
