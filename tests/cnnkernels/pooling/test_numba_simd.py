"""Max-pooling on vector registers: every way a share of the work can be cut."""

import sys
import threading
import tracemalloc

import numpy as np
import pytest

from cnnkernels import conformance, memory, registry
from cnnkernels.contract import MaxPool2D
from cnnkernels.descriptor import parse
from cnnkernels.pooling import windows

pytest.importorskip("numba")
numba_simd = pytest.importorskip("cnnkernels.pooling.numba_simd")

EACH = "mb2ic1ih1iw20000oh127ow1kh127kw2sh1sw1ph126pw0dh0dw19998"
EACH_OF_MANY = "mb1ic2ih3iw40oh20ow40kh18kw40sh1ph17pw20"

CUTS = {
    "lines without gaps": "mb2ic3ih36oh18kh2sh2ph0",
    "lines with gaps, padded": "mb2ic3ih37oh19kh3sh2ph1",
    "chunks of lines": "mb1ic2ih260oh130kh2sh2ph0",
    "chunks of lines, windows that overlap": "mb1ic2ih261oh130kh3sh2ph0",
    "every third column": "mb1ic3ih70oh23kh3sh3ph0",
    "windows that leave pixels out": "mb1ic3ih70oh24kh2sh3ph1",
    "stride 1": "mb2ic2ih20oh20kh3sh1ph1",
    "winners of more than a byte": "mb1ic2ih40oh24kh17sh1ph0",
    "pairs of columns": "mb5ic8ih18iw26oh9ow13kh2sh2ph0",
    "pairs of columns, windows of one": "mb4ic6ih16iw27oh8ow14kh2kw1sh2ph0",
    "pairs of columns, pixels of no window": "mb3ic7ih13iw31oh5ow16kh2kw1sh3sw2ph0pw0",
    "lanes of planes": "mb16ic5ih8oh4kh2sh2ph0",
    "lanes of planes, some of them empty": "mb3ic7ih5oh3kh3sh2ph1",
    "lanes of planes, winners of more than a byte": "mb8ic4ih20oh4kh17sh1ph0",
    "a plane": "mb1ic1ih9oh4kh3sh2ph0",
    "pairs of columns, one pixel wide": "mb3ic7ih13iw1oh6ow1kh2kw1sh2ph0",
    "a stride beyond the image": "mb2ic3ih24oh1kh1sh30000ph0",
    "a stride beyond the image, padded": "mb2ic3ih9iw7oh1ow1kh3kw3sh3000sw4000ph2pw1",
    "windows that begin far before the image": "mb1ic2ih9iw20oh29ow49kh21kw30sh1ph20pw29",
    "taps far apart": "mb2ic2ih8iw9oh2ow2kh3kw2sh30ph30dh29",
    "one by one, copies too large": EACH,
    "one by one, winners of more than a byte": EACH_OF_MANY,
}


@pytest.mark.parametrize("dtype", ["", pytest.param("f64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_every_cut_is_exact(descriptor, dtype):
    found = conformance.check(registry.load("numba-simd"), parse(descriptor + dtype))
    assert (found.outcome, found.reason) == ("ok", "")


@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_the_bits_are_the_same_at_any_number_of_threads(descriptor, thread_counts):
    problem = parse(descriptor)
    random = np.random.default_rng(2)
    x, dy = (
        random.standard_normal(shape, "float32") for shape in (problem.shapes.x, problem.shapes.y)
    )
    results = set()
    for _ in thread_counts():
        y, cache = numba_simd.forward(problem, x)
        dx = numba_simd.backward(problem, dy, cache)
        results.add((y.tobytes(), cache[0].tobytes(), dx.tobytes()))
    assert len(results) == 1


def test_shapes_that_nobody_listed_are_exact():
    random = np.random.default_rng(20261123)
    backend = registry.load("numba-simd")
    done = 0
    while done < 60:
        kernel, stride, dilation = random.integers(1, 4, (3, 2)).tolist()
        padding = tuple(map(tuple, random.integers(0, 3, (2, 2)).tolist()))
        batch, channels = random.integers(1, 9, 2).tolist()
        size = random.integers(1, 40, 2).tolist()
        try:
            problem = MaxPool2D(
                batch, channels, *size, tuple(kernel), tuple(stride), padding, tuple(dilation)
            )
        except ValueError:  # a window that does not fit, or lies in the padding
            continue
        found = conformance.check(backend, problem)
        assert (found.outcome, found.reason) == ("ok", ""), str(problem)
        done += 1


def test_ways_are_chosen_by_shape():
    ways = numba_simd._forward_way, numba_simd._backward_way
    kernels = {
        EACH: (numba_simd._select_each, numba_simd._credit_each),
        EACH_OF_MANY: (numba_simd._select_each_of_many, numba_simd._credit_each_of_many),
        "mb1ic1ih100000oh50001kh50000sh1ph0": (  # of more taps than 31 bits count
            numba_simd._select_each_of_many,
            numba_simd._credit_each_of_many,
        ),
        "mb8ic64ih40oh20kh2sh2ph0": (numba_simd._select, numba_simd._credit),
        "mb64ic8ih8oh7kh2sh1ph0": (numba_simd._select_in_lanes, numba_simd._credit_in_lanes),
    }
    for descriptor, expected in kernels.items():
        assert tuple(way(parse(descriptor)).kernel for way in ways) == expected


# --------------------------------------------------------------------------------------------
# memory


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


def test_plans_are_in_proportion_to_the_images():
    for problem in extremes(5, 400):
        most = memory.allowed(problem.bytes_moved("forward"))
        for way_of in (numba_simd._forward_way, numba_simd._backward_way):
            tracemalloc.start()
            way = way_of.__wrapped__(problem)
            plan = way.plan(way.key)
            _, tables = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            assert tables + plan.work * np.dtype(problem.dtype).itemsize <= most, str(problem)
        memory.PLANS.clear()


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
    memory.PLANS.clear()
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
    monkeypatch.setattr(memory.PLANS, "budget", 30_000)
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
            assert memory.PLANS.weight <= 30_000
    assert 1 < len(memory.PLANS) < 20


@pytest.mark.parametrize("descriptor", ["ic16ih14oh7kh2sh2ph0", "ic5ih40oh20kh3sh2ph1", EACH[3:]])
def test_the_batch_makes_no_new_plan(descriptor):
    memory.PLANS.clear()
    kept = []
    for batch in (1, 2, 7, 32, 1):
        problem = parse(f"mb{batch}{descriptor}")
        x, dy = (np.ones(shape, "f4") for shape in (problem.shapes.x, problem.shapes.y))
        numba_simd.backward(problem, dy, numba_simd.forward(problem, x)[1])
        kept.append(len(memory.PLANS))
    assert kept == [kept[0]] * 5


def test_images_of_new_sizes_take_no_more_memory():
    """Of 40 sizes near 500 pixels, each of which took a third of a megabyte."""
    x = np.ones((1, 1, 600, 500), "f4")

    def pool(size):
        problem = MaxPool2D(1, 1, size, 500, 2)
        y, cache = numba_simd.forward(problem, x[:, :, :size])
        numba_simd.backward(problem, y, cache)

    pool(500)
    tracemalloc.start()
    for size in range(501, 541):
        pool(size)
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 1_000_000


def test_threads_that_drop_each_others_plans_get_the_same_results(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(memory.PLANS, "budget", 20_000)
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
    assert memory.PLANS.weight <= 20_000
