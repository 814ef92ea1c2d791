"""Compiled convolutions: threads, and arrays that must not be modified."""

import numpy as np
import pytest

from cnnkernels.contract import Conv2D

pytest.importorskip("numba")
direct = pytest.importorskip("cnnkernels.convolution.numba_direct")
simd = pytest.importorskip("cnnkernels.convolution.numba_simd")

PROBLEM = Conv2D(3, 6, 13, 11, 8, 3, 2, 1, groups=2)


@pytest.fixture
def arrays():
    """Return normally distributed dy, x, w and b by name."""
    random = np.random.default_rng(1)
    shapes = {"dy": PROBLEM.shapes.y, **PROBLEM.shapes._asdict()}
    return {name: random.standard_normal(shapes[name], "float32") for name in ("dy", "x", "w", "b")}


@pytest.fixture(params=[direct, simd], ids=["direct", "simd"])
def run(request):
    """Return a function that runs a convolution's kernels on arrays, and returns all results."""

    def results(dy, x, w, b):
        y, cache = request.param.forward(PROBLEM, x, w, b)
        return y, *request.param.backward(PROBLEM, dy, x, w, cache)

    return results


def test_the_bits_are_the_same_at_any_number_of_threads(run, arrays, thread_counts):
    results = {tuple(array.tobytes() for array in run(**arrays)) for _ in thread_counts()}
    assert len(results) == 1


@pytest.mark.parametrize("name", ["dy", "x", "w", "b"])
@pytest.mark.parametrize(
    ("spoil", "error"),
    [
        (lambda array: array[:-1], ValueError),
        (lambda array: array[None], ValueError),
        (lambda array: np.repeat(array, 2, axis=-1)[..., ::2], ValueError),
        (lambda array: array.astype("float64"), TypeError),
        (lambda array: array.tolist(), TypeError),
    ],
    ids=["smaller", "another axis", "strided", "dtype", "list"],
)
def test_arrays_that_do_not_fit_never_reach_compiled_code(run, arrays, name, spoil, error):
    arrays[name] = spoil(arrays[name])
    with pytest.raises(error, match=f"^{name}: expected"):
        run(**arrays)
