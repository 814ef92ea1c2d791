"""Compiled max-pooling: threads, and arrays that must not be modified."""

import numpy as np
import pytest

from cnnkernels.contract import MaxPool2D

pytest.importorskip("numba")
numba_direct = pytest.importorskip("cnnkernels.pooling.numba_direct")
numba_simd = pytest.importorskip("cnnkernels.pooling.numba_simd")

PROBLEM = MaxPool2D(3, 5, 13, 11, 3, 2, 1)


@pytest.fixture(params=[numba_direct, numba_simd], ids=["direct", "simd"])
def kernel(request):
    return request.param


@pytest.fixture
def arrays(kernel):
    """Return normally distributed dy and x, and winners for the cache, by name."""
    random = np.random.default_rng(1)
    x = random.standard_normal(PROBLEM.shapes.x, "float32")
    _, (winners,) = kernel.forward(PROBLEM, x)
    return {"dy": random.standard_normal(PROBLEM.shapes.y, "float32"), "x": x, "cache": winners}


@pytest.fixture
def run(kernel):
    """Return a function that runs a kernel on arrays, and returns both results."""

    def results(dy, x, cache):
        y, _ = kernel.forward(PROBLEM, x)
        return y, kernel.backward(PROBLEM, dy, (cache,))

    return results


def test_the_bits_are_the_same_at_any_number_of_threads(run, arrays, thread_counts):
    results = {tuple(array.tobytes() for array in run(**arrays)) for _ in thread_counts()}
    assert len(results) == 1


@pytest.mark.parametrize("name", ["dy", "x", "cache"])
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda array: array[:-1], ValueError),
        (lambda array: np.repeat(array, 2, axis=-1)[..., ::2], ValueError),
        (lambda array: array.astype("float64"), TypeError),
        (lambda array: array.tolist(), TypeError),
    ],
    ids=["smaller", "strided", "dtype", "list"],
)
def test_arrays_that_do_not_fit_never_reach_compiled_code(run, arrays, name, spoil, error):
    arrays[name] = spoil(arrays[name])
    with pytest.raises(error, match=f"^{name}: expected"):
        run(**arrays)


def test_winners_are_counted_in_32_bits_as_long_as_they_fit():
    wide = MaxPool2D(1, 1, 2**16, 2**15 - 1, 1)
    wider = MaxPool2D(1, 1, 2**16, 2**15, 1)
    assert numba_direct.cache_spec(wide) == ((wide.shapes.y, "int32"),)
    assert numba_direct.cache_spec(wider) == ((wider.shapes.y, "int64"),)


def test_the_winning_tap_is_counted_in_a_byte_as_long_as_it_fits():
    small, large = MaxPool2D(1, 1, 16, 17, (15, 17)), MaxPool2D(1, 1, 16, 17, 16)
    assert numba_simd.cache_spec(small) == ((small.shapes.y, "uint8"),)
    assert numba_simd.cache_spec(large) == ((large.shapes.y, "int64"),)


@pytest.mark.parametrize("kernel_size", [(15, 17), (16, 16)])
@pytest.mark.parametrize("stride", [1, 2, 3])
def test_the_first_of_minus_infinities_wins_and_the_last_tap_can(kernel_size, stride):
    problem = MaxPool2D(1, 1, 18, 19, kernel_size, stride)
    x = np.full(problem.shapes.x, -np.inf, "float32")
    rows, cols = kernel_size
    for place in ((0, 0), (rows - 1, cols - 1)):
        y, cache = numba_simd.forward(problem, x)
        assert y[0, 0, 0, 0] == x[0, 0, *place]
        dy = np.zeros(problem.shapes.y, "float32")
        dy[0, 0, 0, 0] = 1
        dx = numba_simd.backward(problem, dy, cache)
        assert dx[0, 0, *place] == dx.sum() == 1
        x[0, 0, rows - 1, cols - 1] = 1
