"""Winograd's matrices satisfy the identities that define them."""

import itertools

import pytest

from cnnkernels.winograd.transforms import POINTS, TAPS, transforms


@pytest.mark.parametrize("outputs", POINTS)
@pytest.mark.parametrize(
    ("results", "factors"), [("output", "weights"), ("weights_back", "gradient")]
)
def test_each_result_is_its_products(outputs, results, factors):
    given = transforms(outputs)
    size = outputs + TAPS - 1
    back, there = getattr(given, results), getattr(given, factors)
    for i, tap, pixel in itertools.product(range(len(back)), range(len(there[0])), range(size)):
        factor = sum(
            back[i][j] * there[j][tap] / given.denominators[j] * given.image[j][pixel]
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
