"""Kernels in several Python threads at once, on each threading layer."""

import functools

import numpy as np
import pytest

numba = pytest.importorskip("numba")
jit = pytest.importorskip("cnnkernels.jit")

POOLS = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}

COMPUTE = """
import concurrent.futures
import numpy as np
import cnnkernels

def draw(*shape):
    return np.random.default_rng(sum(shape)).integers(-2, 3, shape).astype("float32")

def compute(name):
    "Return the bits of all results; integers, so that they are the same from every backend."
    x, w = draw(4, 8, 9, 9), draw(16, 8, 3, 3)
    y = cnnkernels.conv2d(x, w, padding=1, backend=name)
    dx, dw, _ = cnnkernels.conv2d_backward(y, x, w, padding=1, backend=name)
    pooled = cnnkernels.max_pool2d(y, 2, backend=name)
    dy = cnnkernels.max_pool2d_backward(pooled, y, 2, backend=name)
    return [array.tobytes() for array in (y, dx, dw, pooled, dy)]

names = ("numpy", "numba", "numba-simd")
right = compute("numpy")
"""

STIR = """
import numba
import numpy as np
from cnnkernels import jit

def stirred(x):
    for _ in range(10_000):
        x = x * 5 + 1
    return x

stirred_once = jit.inlined(stirred)

@jit.kernel(parallel=True)
def stir(x):
    y = np.empty_like(x)
    for i in numba.prange(x.size):
        y[i] = stirred_once(x[i])
    return y
"""


@pytest.fixture(params=POOLS)
def layer(request):
    """Return each threading layer in turn that Numba can load here."""
    pytest.importorskip(f"numba.np.ufunc.{POOLS[request.param]}", exc_type=ImportError)
    return request.param


@pytest.fixture
def python(python, layer):
    """Return a function that runs code in a process with two threads of a layer."""
    return functools.partial(python, NUMBA_THREADING_LAYER=layer, NUMBA_NUM_THREADS="2")


def test_a_pool_for_one_caller_at_a_time_takes_one_and_turns_others_away(monkeypatch):
    monkeypatch.setattr(jit, "_LOOPS", [])

    @jit.kernel(parallel=True)
    def count(x):
        for i in numba.prange(x.size):
            x[i] += 1
        return x

    count.in_turn = lambda _: "in turn"
    x = np.zeros(3)
    try:
        jit._use_pool("single")
        with jit._single:
            assert count(x) == "in turn"
        with pytest.raises(numba.TypingError):
            count(None)
        assert count(x) is x
        np.testing.assert_array_equal(x, 1)
    finally:
        jit._use_pool("")


@pytest.mark.slow
def test_several_python_threads_compute_at_once(python):
    python(
        COMPUTE + "with concurrent.futures.ThreadPoolExecutor(4) as threads:\n"
        "    for name in names:\n"
        "        assert list(threads.map(compute, [name] * 12)) == [right] * 12, name\n"
    )


@pytest.mark.slow
def test_several_python_threads_compile_and_launch_at_once(python, tmp_path):
    (tmp_path / "kernels.py").write_text(STIR)
    python(
        "import concurrent.futures, threading\n"
        "import numpy as np\n"
        "from cnnkernels import jit\n"
        "from kernels import stir, stirred\n"
        "x = np.arange(1000)\n"
        "right = stirred(x)\n"
        "together = threading.Barrier(4)\n"
        "def call(_):\n"
        "    together.wait()\n"
        "    for _ in range(30):\n"
        "        assert (stir(x) == right).all()\n"
        "    return jit.threads()\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as threads:\n"
        "    assert list(threads.map(call, range(4))) == [2] * 4\n",
        NUMBA_CACHE_DIR="cache",
    )
