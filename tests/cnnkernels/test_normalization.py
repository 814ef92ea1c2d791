"""Statistics of channels are exact where they can be, and repeat to the bit."""

import numpy as np
import pytest

pytest.importorskip("numba", reason="Numba is not installed")

import numba

from cnnkernels import normalization

DTYPES = ("float32", "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_statistics_of_integers_are_exact(dtype):
    x = np.random.default_rng(1).integers(-50, 50, (4, 3, 8, 16)).astype(dtype)
    x[:, :, 0, 0] += 4096.0  # far more than the others: sums and squares stay exact
    mean, variance, factor = normalization.statistics(x, 0.25)
    values = x.astype(np.float64)
    right = values.mean((0, 2, 3))
    of_squares = ((values - right[:, None, None]) ** 2).mean((0, 2, 3))
    np.testing.assert_array_equal(mean, right.astype(dtype))
    np.testing.assert_array_equal(variance, of_squares.astype(dtype))
    np.testing.assert_array_equal(factor, (1 / np.sqrt(of_squares + 0.25)).astype(dtype))
    assert mean.dtype == variance.dtype == factor.dtype == dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "shape",
    [(2, 1, 1, 1), (1, 17, 1, 2), (3, 5, 7, 7), (1, 2, 31, 45), (32, 3, 4, 4), (1, 1, 1, 1)],
)
def test_statistics_of_any_shape(dtype, shape):
    x = (100 + np.random.default_rng(2).standard_normal(shape)).astype(dtype)
    mean, variance, _ = normalization.statistics(x, 1e-5)
    exact, rtol = x.astype(np.longdouble), 4 * np.finfo(dtype).eps
    np.testing.assert_allclose(mean, exact.mean((0, 2, 3)).astype(float), rtol=rtol)
    np.testing.assert_allclose(variance, exact.var((0, 2, 3)).astype(float), rtol=rtol, atol=1e-24)


def test_bits_are_the_same_at_any_number_of_threads():
    x = np.random.default_rng(3).standard_normal((3, 37, 9, 11)).astype("float32")
    before, found = numba.get_num_threads(), []
    try:
        for threads in (1, numba.config.NUMBA_NUM_THREADS):
            numba.set_num_threads(threads)
            found.append(normalization.statistics(x, 1e-5))
    finally:
        numba.set_num_threads(before)
    for one, other in zip(*found, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_stays_in_its_channel(value):
    x = np.ones((2, 3, 5, 5), "float32")
    x[1, 1, 2, 2] = value
    mean, variance, _ = normalization.statistics(x, 1e-5)
    np.testing.assert_array_equal(mean, [1.0, value, 1.0])
    np.testing.assert_array_equal(variance, [0.0, np.nan, 0.0])


def test_huge_deviations_overflow_without_a_warning():
    x = np.array([-1e38, 1e38], "float32").reshape(2, 1, 1, 1)
    mean, variance, factor = normalization.statistics(x, 1e-5)
    assert (mean[0], variance[0]) == (0.0, np.inf)
    assert factor[0] == pytest.approx(1e-38, rel=1e-6)
