"""Memory of max-pooling on vector registers: tables and scratch memory, in and after calls."""

import sys
import threading
import tracemalloc

import numpy as np
import pytest

from cnnkernels import memory
from cnnkernels.contract import MaxPool2D
from cnnkernels.descriptor import parse
from cnnkernels.pooling import windows

pytest.importorskip("numba")
numba_simd = pytest.importorskip("cnnkernels.pooling.numba_simd")


def extreme_axis(random):
    """Return size, padding, kernel, stride and dilation along an axis; windows may not fit."""
    size = int(random.choice([1, 2, 7, 24, 50, 200, 1000]))
    kernel = int(random.choice([1, 2, 3, 5, 11, 64, size, size // 2 + 1]))
    stride = int(random.choice([1, 2, 3, kernel, size, 300, 30000, 2**40]))
    dilation = int(random.choice([1, 1, 1, 2, size, 1000, 2**30]))
    span = dilation * (kernel - 1)
    pads = random.choice([0, 0, kernel // 2, span, span // 2, 1000], 2).tolist()
    return size, pads, kernel, stride, dilation


def extremes(seed, count):
    """Yield problems of extreme windows on small images."""
    random = np.random.default_rng(seed)
    while count:
        (height, *high), (width, *wide) = extreme_axis(random), extreme_axis(random)
        batch, channels = random.choice([(1, 1), (2, 3), (16, 4)]).tolist()
        padding, kernel, stride, dilation = zip(high, wide, strict=True)
        dtype = str(random.choice(["float32", "float64"]))
        try:
            problem = MaxPool2D(
                batch, channels, height, width, kernel, stride, padding, dilation, dtype=dtype
            )
        except ValueError:
            continue
        if problem.bytes_moved("forward") < 10**7:
            yield problem
            count -= 1


@pytest.mark.slow
def test_blockings_are_in_proportion_to_the_images():
    for problem in extremes(5, 400):
        most = memory.allowed(problem.bytes_moved("forward"))
        for launch_of in (numba_simd._forward_launch, numba_simd._backward_launch):
            tracemalloc.start()
            launch = launch_of.__wrapped__(problem)
            blocking = launch.blocking(launch.geometry)
            _, tables = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            scratch = blocking.fields.scratch * np.dtype(problem.dtype).itemsize
            assert tables + scratch <= most, str(problem)
        memory.BLOCKINGS.clear()


@pytest.mark.parametrize(
    "descriptor",
    [
        "mb1ic1ih24oh1kh1sh30000ph0",
        "mb1ic1ih24oh1kh24sh30000ph12dh1",
        "mb1ic1ih1500oh1kh1500sh1500ph0",
        "mb1ic1ih1500iw1501oh1ow2kh1500kw1500sh1ph0pw0",
        "mb16ic4ih24iw500oh12ow248kh11kw11sh2sw2ph0pw5dh29999dw0",
        "mb64ic1ih1iw500oh101ow1kh200kw250sh1sw500ph100pw125",
        "mb1ic1ih500iw1oh1ow1kh1kw1sh500ph0",
    ],
)
def test_a_call_takes_as_much_memory_as_its_images_and_no_more(descriptor):
    problem = parse(descriptor)
    x, dy = (np.ones(shape, problem.dtype) for shape in (problem.shapes.x, problem.shapes.y))
    numba_simd.backward(problem, dy, numba_simd.forward(problem, x)[1])  # compiles
    memory.BLOCKINGS.clear()
    tracemalloc.start()
    numba_simd.backward(problem, dy, numba_simd.forward(problem, x)[1])
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= 4 * problem.bytes_moved("forward") + 100_000


@pytest.mark.skipif(sys.platform != "linux", reason="bounds addresses as Linux does")
def test_extreme_windows_are_computed_in_little_memory(python):
    printed = python(
        "import resource\n"
        "import numpy as np\n"
        "from cnnkernels import registry\n"
        "from cnnkernels.descriptor import parse\n"
        "pooling = registry.load('numba-simd').pooling\n"
        "def pool(descriptor):\n"
        "    problem = parse(descriptor)\n"
        "    shape = problem.shapes.x\n"
        "    x = np.arange(1, np.prod(shape) + 1, dtype='f4').reshape(shape)\n"
        "    y, cache = pooling.forward(problem, x)\n"
        "    dx = pooling.backward(problem, np.ones_like(y), cache)\n"
        "    print(y.max() == x.max(), dx.sum() == y.size, flush=True)\n"
        "pool('mb1ic1ih24oh12kh2sh2ph0')\n"
        "size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()\n"
        "resource.setrlimit(resource.RLIMIT_AS, (size + 2**29, -1))\n"
        "for descriptor in (\n"
        "    'mb1ic1ih24oh1kh1sh30000ph0', 'mb1ic1ih24oh1kh24sh30000ph0',\n"
        "    'mb1ic1ih3000oh1kh3000sh3000ph0',\n"
        "    'mb1ic1ih1iw50oh1ow1kh1kw2sh1sw300000ph0pw0dh0dw48',\n"
        "):\n"
        "    pool(descriptor)\n"
    )
    assert set(printed.splitlines()[1:]) <= {"True True", "False True"}
    assert printed.count("True\n") == 5


def geometry_of(size):
    return f"mb2ic3ih{size}oh{(size - 1) // 2 + 1}kh3sh2ph1"


def test_new_sizes_and_batches_do_not_add_up(monkeypatch):
    monkeypatch.setattr(memory.BLOCKINGS, "budget", 30_000)
    random = np.random.default_rng(4)
    for number in range(20):
        for descriptor in (geometry_of(30 + number), f"mb{16 + number}ic1ih6oh3kh2sh2ph0"):
            problem = parse(descriptor)
            x, dy = (random.integers(-9, 9, shape).astype("f4") for shape in problem.shapes)
            y, cache = numba_simd.forward(problem, x)
            expected, winners = windows.forward(problem, x)
            np.testing.assert_array_equal(y, expected)
            np.testing.assert_array_equal(
                numba_simd.backward(problem, dy, cache), windows.backward(problem, dy, winners)
            )
            assert memory.BLOCKINGS.weight <= 30_000
    assert 1 < len(memory.BLOCKINGS) < 20


@pytest.mark.parametrize(
    "descriptor",
    [
        "ic16ih14oh7kh2sh2ph0",
        "ic5ih40oh20kh3sh2ph1",
        "ic1ih1iw20000oh127ow1kh127kw2sh1sw1ph126pw0dh0dw19998",
    ],
)
def test_the_batch_makes_no_new_blocking(descriptor):
    memory.BLOCKINGS.clear()
    counts = []
    for batch in (1, 2, 7, 32, 1):
        problem = parse(f"mb{batch}{descriptor}")
        x, dy = (np.ones(shape, "f4") for shape in (problem.shapes.x, problem.shapes.y))
        numba_simd.backward(problem, dy, numba_simd.forward(problem, x)[1])
        counts.append(len(memory.BLOCKINGS))
    assert counts == [counts[0]] * 5


def test_images_of_new_sizes_take_no_more_memory():
    """The tables of 40 sizes near 500 pixels took a third of a megabyte each."""
    x = np.ones((1, 1, 600, 500), "f4")

    def pool(size):
        problem = MaxPool2D(1, 1, size, 500, 2)
        y, cache = numba_simd.forward(problem, x[:, :, :size])
        numba_simd.backward(problem, y, cache)

    pool(500)
    tracemalloc.start()
    for size in range(501, 541):
        pool(size)
    more, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert more < 1_000_000


def test_threads_that_drop_each_others_blockings_get_the_same_results(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(memory.BLOCKINGS, "budget", 20_000)
    random = np.random.default_rng(3)
    calls = []
    for number in range(12):
        problem = parse(
            geometry_of(20 + number) if number % 2 else f"mb{16 + number}ic1ih6oh3kh2sh2"
        )
        x, dy = (random.standard_normal(shape, "f4") for shape in problem.shapes)
        y, cache = numba_simd.forward(problem, x)
        calls.append((problem, x, dy, y, numba_simd.backward(problem, dy, cache)))
    wrong = []

    def compute(seed):
        numba.set_num_threads(1)
        for number in np.random.default_rng(seed).integers(0, len(calls), 300).tolist():
            problem, x, dy, y, dx = calls[number]
            mine, cache = numba_simd.forward(problem, x)
            same = np.array_equal(mine, y)
            if not (same and np.array_equal(numba_simd.backward(problem, dy, cache), dx)):
                wrong.append(str(problem))

    threads = [threading.Thread(target=compute, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert memory.BLOCKINGS.weight <= 20_000
