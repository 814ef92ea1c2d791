"""Compiled max-pooling: threads, and arrays that it must not touch."""

import numpy as np
import pytest

from cnnkernels.contract import MaxPool2D

pytest.importorskip("numba")
numba_direct = pytest.importorskip("cnnkernels.pooling.numba_direct")

PROBLEM = MaxPool2D(3, 5, 13, 11, 3, 2, 1)


@pytest.fixture
def arrays():
    """Return normal numbers for dy and x, and winners for the cache, by name."""
    random = np.random.default_rng(1)
    x = random.standard_normal(PROBLEM.shapes.x, "float32")
    _, (winners,) = numba_direct.forward(PROBLEM, x)
    return {"dy": random.standard_normal(PROBLEM.shapes.y, "float32"), "x": x, "cache": winners}


def run(dy, x, cache):
    y, _ = numba_direct.forward(PROBLEM, x)
    return y, numba_direct.backward(PROBLEM, dy, (cache,))


def test_the_bits_are_the_same_at_any_number_of_threads(arrays, thread_counts):
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
def test_arrays_that_do_not_fit_never_reach_compiled_code(arrays, name, spoil, error):
    arrays[name] = spoil(arrays[name])
    with pytest.raises(error, match=f"^{name}: expected"):
        run(**arrays)


def test_winners_are_counted_in_32_bits_as_long_as_they_fit():
    wide = MaxPool2D(1, 1, 2**16, 2**15 - 1, 1)
    wider = MaxPool2D(1, 1, 2**16, 2**15, 1)
    assert numba_direct.cache_spec(wide) == ((wide.shapes.y, "int32"),)
    assert numba_direct.cache_spec(wider) == ((wider.shapes.y, "int64"),)
