"""Kernels in several Python threads at once, and in forked processes, on each threading layer."""

import functools
import sys

import numpy as np
import pytest

numba = pytest.importorskip("numba")
parallel = pytest.importorskip("cnnkernels.parallel")

POOLS = {"omp": "omppool", "workqueue": "workqueue", "tbb": "tbbpool"}

COMPUTE = """
import concurrent.futures, multiprocessing, os, signal, traceback, warnings
import numpy as np
import cnnkernels

warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of forks beside threads

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

def holds_when_forked(assertion):
    "Return whether an assertion holds in a forked process, and within 200 seconds."
    child = os.fork()
    if child:
        return os.waitpid(child, 0)[1] == 0
    signal.alarm(200)
    try:
        assertion()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)

names = ("numpy", "numba", "numba-simd")
right = compute("numpy")

def assert_right():
    for name in names:
        assert compute(name) == right, name
"""

STIR = """
import numba
import numpy as np
from cnnkernels import jit, parallel

def stirred(x):
    for _ in range(10_000):
        x = x * 5 + 1
    return x

stirred_once = jit.inlined(stirred)

@parallel.kernel
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
    monkeypatch.setattr(parallel, "_LOOPS", [])

    @parallel.kernel
    def count(x):
        for i in numba.prange(x.size):
            x[i] += 1
        return x

    count.in_turn = lambda _: "in turn"
    x = np.zeros(3)
    try:
        parallel._use_pool("single")
        with parallel._single:
            assert count(x) == "in turn"
        with pytest.raises(numba.TypingError):
            count(None)
        assert count(x) is x
        np.testing.assert_array_equal(x, 1)
    finally:
        parallel._use_pool("")


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
        "from cnnkernels import parallel\n"
        "from kernels import stir, stirred\n"
        "x = np.arange(1000)\n"
        "right = stirred(x)\n"
        "together = threading.Barrier(4)\n"
        "def call(_):\n"
        "    together.wait()\n"
        "    for _ in range(30):\n"
        "        assert (stir(x) == right).all()\n"
        "    return parallel.threads()\n"
        "with concurrent.futures.ThreadPoolExecutor(4) as threads:\n"
        "    assert list(threads.map(call, range(4))) == [2] * 4\n",
        NUMBA_CACHE_DIR="cache",
    )


@pytest.mark.slow
def test_a_forked_process_computes_whatever_threads_its_parent_has(python):
    python(
        COMPUTE + "assert_right()\n"
        "def assert_right_in_threads():\n"
        "    assert_right()\n"
        "    with concurrent.futures.ThreadPoolExecutor(2) as threads:\n"
        "        assert list(threads.map(compute, names)) == [right] * 3\n"
        "def assert_right_in_forks():\n"
        "    assert_right_in_threads()\n"
        "    assert holds_when_forked(assert_right)\n"
        "assert holds_when_forked(assert_right_in_forks)\n"
        "with multiprocessing.get_context('fork').Pool(2) as processes:\n"
        "    assert processes.map_async(compute, names).get(200) == [right] * 3\n"
        "assert_right()\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp"], indirect=True)
def test_a_forked_process_computes_where_the_system_does_not_tell_what_is_loaded(python):
    python(
        COMPUTE + "from cnnkernels import parallel\n"
        "parallel._has_openmp = lambda process: False\n"
        "assert_right()\n"
        "assert holds_when_forked(assert_right)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp"], indirect=True)
def test_a_process_forked_before_there_were_threads_has_its_own(python):
    python(
        COMPUTE + "from cnnkernels import parallel, registry\n"
        "for name in names:\n"
        "    registry.load(name)\n"
        "def assert_right_in_two_threads():\n"
        "    assert_right()\n"
        "    assert parallel.threads() == 2\n"
        "assert holds_when_forked(assert_right_in_two_threads)\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("layer", ["omp"], indirect=True)
@pytest.mark.parametrize(
    "before", ["from cnnkernels import parallel\n", ""], ids=["before", "after"]
)
def test_a_forked_process_computes_where_pytorch_alone_had_threads(python, before):
    pytest.importorskip("torch")
    python(
        "import torch\n"
        "torch.set_num_threads(2)\n"
        "torch.ones(1 << 20).add(1)\n"
        + before
        + COMPUTE
        + "assert holds_when_forked(assert_right)\n"
    )


@pytest.mark.slow
def test_forked_workers_of_a_data_loader_compute(python, layer):
    pytest.importorskip("torch")
    gnu = layer == "omp" and sys.platform == "linux"
    printed = python(
        COMPUTE + "import torch\n"
        "from torch.utils.data import DataLoader, Dataset\n"
        "import cnnkernels.torch as layers\n"
        "network = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.MaxPool2d(2))\n"
        "layers.convert(network, 'numba-simd')\n"
        "class Images(Dataset):\n"
        "    def __len__(self):\n"
        "        return 4\n"
        "    def __getitem__(self, index):\n"
        "        x, w = draw(1, 3, 8, 8 + index), draw(3, 3, 3, 3)\n"
        "        y = cnnkernels.conv2d(x, w, padding=1, backend='numba')\n"
        "        with torch.no_grad():\n"
        "            return network(torch.from_numpy(y))\n"
        "images = Images()\n"
        "network(torch.ones(8, 3, 16, 16)).sum().backward()\n"
        "here = [images[index] for index in range(4)]\n"
        "workers = DataLoader(\n"
        "    images, None, num_workers=2, multiprocessing_context='fork', timeout=200\n"
        ")\n"
        "for one, other in zip(here, workers, strict=True):\n"
        "    assert torch.equal(one, other)\n"
        "def count():\n"
        "    torch.set_num_threads(2)\n"
        "    print(layers.threads(), flush=True)\n"
        "assert holds_when_forked(count)\n"
    )
    assert printed == f"{{'torch': 2, 'numba': {1 if gnu else 2}}}\n"
