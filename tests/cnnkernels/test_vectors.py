"""Vector operations in compiled code, compared with NumPy."""

import numpy as np
import pytest

pytest.importorskip("numba")

from cnnkernels import jit, vectors
from cnnkernels.simd import lanes
from cnnkernels.vectors import ROWS

pytestmark = pytest.mark.slow


@pytest.fixture(params=["float32", "float64"])
def filled(request):
    """Return a function that makes arrays of small integers, so that all sums are exact."""
    random = np.random.default_rng(3)

    def filled(*shape):
        return random.integers(-8, 9, shape).astype(request.param)

    filled.lanes = lanes(np.dtype(request.param).itemsize)
    return filled


@jit.inlined
def move(of, to, row):
    vectors.store(to, (1, 0), vectors.load(of, (0, row)))


@jit.inlined
def multiply(scalars, start, x, z):
    sums = vectors.broadcast(start, (1,))
    for j in range(len(x)):
        sums = vectors.add_scaled(sums, scalars, (j, 2), vectors.load(x, (j,)))
    vectors.store_rows(z, (1, 0), sums)


@jit.inlined
def add_up(x, dy, totals):
    sums = vectors.filled(dy, 0)
    for j in range(len(x)):
        sums = vectors.add_products(sums, dy, (j, 1), vectors.load(x, (j,)))
    vectors.add_totals(totals, (1,), sums)


@jit.inlined
def compete(x, y, winners, shares, left):
    best, winner = vectors.larger(vectors.load(x, (0,)), 9, vectors.load(x, (1,)), 1)
    best, winner = vectors.larger(best, winner, vectors.load(x, (2,)), 2)
    vectors.store(y, (0,), best)
    vectors.store(winners, (0,), winner)
    vectors.store(left, (0,), vectors.where(winners, (0,), 2, vectors.load(shares, (0,))))


def test_a_vector_is_moved_and_nothing_beside_it(filled):
    of, to = filled(1, 3, filled.lanes), filled(3, 2, filled.lanes)
    expected = to.copy()
    expected[1, 0] = of[0, 2]
    move(of, to, 2)
    np.testing.assert_array_equal(to, expected)


def test_rows_are_sums_of_scalars_times_vectors(filled):
    scalars, start = filled(5, ROWS + 3), filled(ROWS + 2)
    x, z = filled(5, filled.lanes), filled(2, ROWS + 1, filled.lanes)
    expected = z.copy()
    expected[1, :ROWS] = start[1 : 1 + ROWS, None] + scalars[:, 2 : 2 + ROWS].T @ x
    multiply(scalars, start, x, z)
    np.testing.assert_array_equal(z, expected)


def test_totals_are_sums_over_the_lanes_of_each_row(filled):
    x, dy = filled(5, filled.lanes), filled(5, ROWS + 2, filled.lanes)
    totals = filled(ROWS + 3)
    expected = totals.copy()
    expected[1 : 1 + ROWS] += np.einsum("jl,jkl->k", x, dy[:, 1 : 1 + ROWS])
    add_up(x, dy, totals)
    np.testing.assert_array_equal(totals, expected)


NAN = float("nan")


@pytest.mark.parametrize(
    ("three", "best", "winner"),
    [
        ((1, 2, 3), 3, 2),
        ((3, 2, 1), 3, 9),
        ((1, 3, 3), 3, 1),
        ((2, 2, 2), 2, 9),
        ((1, NAN, 3), NAN, 1),
        ((NAN, 5, 6), NAN, 9),
        ((1, NAN, NAN), NAN, 2),
        ((-np.inf, -np.inf, 0), 0, 2),
    ],
)
def test_the_first_of_the_largest_wins_and_the_last_nan(filled, three, best, winner):
    x, shares = filled(3, filled.lanes), filled(1, filled.lanes)
    x[:, 1] = three
    y, left = np.zeros_like(shares), np.ones_like(shares)
    winners = np.zeros(shares.shape, np.uint8)
    compete(x, y, winners, shares, left)
    np.testing.assert_array_equal(y[0, 1], best)
    assert winners[0, 1] == winner
    np.testing.assert_array_equal(left, np.where(winners == 2, shares, 0))
    others = np.arange(filled.lanes) != 1
    np.testing.assert_array_equal(y[0, others], x[:, others].max(0))


ADD_UP = """
import numpy as np
from cnnkernels import jit, simd
simd.vector_bytes = lambda: {vector_bytes}
from cnnkernels import vectors

@jit.inlined
def add_up(x, dy, totals):
    sums = vectors.filled(dy, 0)
    for j in range(len(x)):
        sums = vectors.add_products(sums, dy, (j, 0), vectors.load(x, (j,)))
    vectors.add_totals(totals, (0,), sums)

for dtype in (np.float32, np.float64):
    lanes, rows = simd.lanes(dtype().itemsize), vectors.ROWS
    x = np.arange(3 * lanes, dtype=dtype).reshape(3, lanes)
    dy = np.arange(3 * rows * lanes, dtype=dtype).reshape(3, rows, lanes) % 7
    totals = np.zeros(rows, dtype)
    add_up(x, dy, totals)
    np.testing.assert_array_equal(totals, np.einsum("jl,jkl->k", x, dy))
    print(lanes)
"""


@pytest.mark.parametrize("vector_bytes", [16, 32, 64])
def test_totals_are_right_in_the_vectors_of_other_processors(vector_bytes, python, tmp_path):
    printed = python(ADD_UP.format(vector_bytes=vector_bytes), NUMBA_CACHE_DIR=str(tmp_path))
    assert printed.split() == [str(vector_bytes // 4), str(vector_bytes // 8)]
