"""Convolution on vector registers: every driver and every way to divide its work."""

import dataclasses
import itertools
import tracemalloc

import numpy as np
import pytest

from cnnkernels import conformance, memory, registry
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import parse

pytest.importorskip("numba")
simd = pytest.importorskip("cnnkernels.simd")
numba_simd = pytest.importorskip("cnnkernels.convolution.numba_simd")
microkernel = pytest.importorskip("cnnkernels.microkernel")
filter_tiles = pytest.importorskip("cnnkernels.convolution.numba_simd.filter_tiles")
weight_gradients = pytest.importorskip("cnnkernels.convolution.numba_simd.weight_gradients")

CUTS = {
    "panels in lines": "mb2ic5ih20oc17oh20kh3ph1",
    "panels across lines and images": "mb5ic3ih9oc33oh9kh3ph1",
    "panels across images, as the source is": "mb3ic9ih14oc80oh7kh1sh2ph0",
    "several blocks of channels": "mb1ic70ih12oc13oh12kh3ph1",
    "several blocks of windows": "mb2ic3ih20oc20oh20kh19ph9",
    "several blocks, sums that stand apart": "mb2ic70ih9oc33oh9kh3ph1",
    "panels that look beyond one edge": "mb8ic90ih7oc20oh7kh3ph1",
    "panels that look beyond both edges": "mb3ic9ih3iw20oc20oh2ow20kh3kw3sh6sw1ph4pw1dh1dw0",
    "panels that see nothing": "mb8ic9ih3iw10oc20oh9ow10kh1kw3sh1sw1ph3pw1",
    "every second column": "mb2ic3ih40oc18oh20kh7sh2ph3",
    "every fourth column": "mb2ic3ih40oc20oh10kh11ph3sh4",
    "the end of the source": "mb2ic3ih7iw11oc11oh7ow11kh1ph0",
    "lines shorter than a vector": "mb4ic6ih33iw2oc33oh33ow2kh3ph1",
    "a pixel": "mb1ic64ih1oc70oh1kh1ph0",
    "phases without taps": "mb2ic15ih9oc16oh3kh1sh3ph0",
    "phases larger than the kernel": "mb1ic13ih11oc14oh3kh2sh4ph0",
    "phases of rows alone": "mb2ic4ih20iw18oc5oh10ow18kh3sh2sw1ph1pw1",
    "groups, tiles of several heights": "g3mb2ic12ih9oc39oh9kh3ph1",
    "panels, several in an image": "mb2ic9ih11iw21oc20oh11ow21kh1ph0",
    "panels, several in an image, several blocks": "mb3ic400ih8iw25oc19oh8ow25kh1ph0",
    "panels, several in an image, in groups": "g2mb2ic10ih14oc34oh14kh1ph0",
    "planes, zeros of one line end the line before": "mb2ic5ih24iw30oc9oh24ow29kh4kw5ph1pw2",
    "planes, more zeros before a line than after": "mb1ic4ih50oc9oh25kh2sh2ph1",
    "planes, depthwise": "g5mb2ic5ih40oc5oh40kh3ph1",
    "planes, depthwise, every second column": "g6mb2ic6ih33oc6oh17kh3sh2ph1",
    "planes, two filters a channel": "g7mb2ic7ih16oc14oh16kh3ph1",
    "planes, a few filters of many channels": "mb2ic64ih30oc3oh15kh5sh2ph2",
    "planes, chunks of lines": "mb1ic2ih260oc3oh260kh3ph1",
    "planes, wide lines, several blocks and tiles": "mb2ic40ih26oc33oh26kh3ph1",
    "planes, wide lines of every second column": "mb1ic3ih60oc20oh30kh7sh2ph3",
    "planes, wide lines, more windows than a block": "mb2ic3ih31oc20oh31kh31ph15",
    "planes, wide lines, in groups": "g2mb1ic6ih25iw40oc40oh25ow40kh3ph1",
    "filters, pixels at every edge": "mb2ic5ih14oc32oh14kh3ph1",
    "filters, images of one pixel": "mb1ic7ih1oc16oh1kh3ph1",
    "filters, some lanes empty": "mb2ic6ih9oc31oh9kh3ph1",
    "filters, several blocks of channels": "mb1ic130ih9oc48oh9kh3ph1",
    "filters, more weights than pixels": "mb3ic70ih5oc256oh5kh3ph1",
    "filters, several images at a time": "mb5ic20ih9oc16oh9kh3ph1",
    "filters, a pixel of several images": "mb7ic160ih5oc64oh5kh5ph2",
    "filters, a pixel of several images, the last fewer": "mb9ic14ih9oc16oh9kh3ph1",
    "filters, in groups": "g2mb3ic10ih9oc64oh9kh5ph2",
    "filters, chunks of lines": "mb1ic3ih70oc64oh70kh3ph1",
    "filters, parts of lines": "mb2ic40ih7iw26oc64oh7ow26kh3kw9ph1pw4",
    "filters, parts of lines, edges wider than a part": "mb2ic5ih26oc64oh26kh7ph9dh2",
    "filters, every second pixel": "mb2ic3ih30oc48oh15kh7sh2ph3",
    "filters, pixels that see nothing": "mb2ic9ih3oc16oh9kh2ph4",
    "filters whose pixels all see only padding": "mb1ic2ih2oc16oh1kh5sh9ph9dh9",
    "filters, phases of every kind": "mb2ic32ih13oc16oh7kh3sh2ph1",
    "filters, phases of rows alone": "mb2ic32ih12iw9oc16oh6ow9kh3sh2sw1ph1",
    "lanes of images": "mb64ic8ih4oc16oh4kh3ph1",
    "lanes of images, some of them empty": "mb35ic3ih5oc17oh5kh3ph1",
    "lanes of images, in groups": "g2mb33ic8ih4oc16oh4kh3ph1",
    "lanes of images, every second pixel": "mb40ic8ih9oc16oh5kh3ph1sh2",
    "lanes of images, windows beyond the edges": "mb17ic8ih3oc16oh9kh1ph3",
    "lanes of images, few filters": "mb70ic3ih5oc4oh5kh3ph1",
    "lanes of images, weights of more than a copy holds": "mb300ic9ih6oc7oh6kh3ph1",
    "lanes of images, weights that see no pixel": "mb600ic4ih1oc9oh1kh3ph1",
    "weights, rows along a line of the window": "mb9ic1ih18oc8oh18kh3ph1",
    "weights, rows that would evict each other": "mb2ic16ih32oc20oh32kh1ph0",
    "weights, parts of an image": "mb2ic13ih40oc33oh40kh3ph1",
    "weights, ranges of channels and panels of filters": "mb1ic200ih5oc70oh5kh3ph1",
    "weights, panels of filters together": "mb2ic230ih5oc128oh5kh3ph1",
    "weights, a batch in splits": "mb9ic12ih40oc8oh40kh3ph1",
    "weights, windows that see nothing": "mb2ic14ih3oc16oh9kh4ph4",
    "weights, every second pixel": "mb3ic14ih15oc16oh8kh3sh2ph1",
    "weights, rows that would evict each other, at the edges": "mb2ic16ih32oc20oh32kh3ph1",
}


@pytest.mark.parametrize("dtype", ["", pytest.param("f64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_every_cut_is_exact(descriptor, dtype):
    backend = registry.load("numba-simd")
    found = conformance.check(backend, parse(descriptor + dtype))
    assert (found.outcome, found.reason) == ("ok", "")


@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_a_batch_of_no_images_has_gradients(descriptor):
    problem = dataclasses.replace(parse(descriptor), batch=0)
    x, w, b, y = (np.ones(shape, problem.dtype) for shape in problem.shapes)
    assert numba_simd.forward(problem, x, w, b)[0].shape == y.shape
    dx, dw, db = numba_simd.backward(problem, y, x, w, ())
    assert (dx.shape, dw.shape, db.shape) == (x.shape, w.shape, b.shape)
    assert not dw.any()
    assert not db.any()


@pytest.mark.parametrize("lines", [True, False], ids=["lines", "rectangles"])
@pytest.mark.parametrize(
    "descriptor", [cut for name, cut in CUTS.items() if name.startswith("filters")]
)
def test_tiles_make_each_product_once(descriptor, lines):
    correlation = numba_simd.correlation.forward(parse(descriptor))
    (_, height, wide), (rows, columns) = correlation.source, correlation.grid
    down, across, _ = correlation.windows
    images = min(correlation.batch, 3)
    made = np.zeros((images, rows, columns, down.size), int)
    for here in filter_tiles._tiles(correlation, range(images), range(rows), 2, lines):
        for first in itertools.product(*here.firsts):
            for number in range(here.pixels):
                pixel = np.add(first, np.multiply(here.step, number))
                made[(*pixel, here.windows)] += 1
    h = np.arange(rows)[:, None, None] * correlation.step[0] + down
    v = np.arange(columns)[:, None] * correlation.step[1] + across
    seen = (h >= 0) & (h < height) & (v >= 0) & (v < wide)
    assert np.array_equal(made, np.broadcast_to(seen, made.shape))


@pytest.mark.slow
def test_the_loops_of_the_tiles_are_not_unrolled(python, tmp_path):
    printed = python(
        "from cnnkernels import jit, microkernel as tiles\n"
        "tiles.tile_address('float32'), tiles.packed_tile_address('float32')\n"
        "sizes = [(m, v) for m in range(1, tiles.MOST_ROWS + 1) for v in tiles._WIDTHS]\n"
        "sums = sum(m * v for m, v in sizes if v <= tiles._widest(m))\n"
        "for tile in jit._COMPILED:\n"
        "    code = tile._library.get_llvm_str().splitlines()\n"
        "    print(sum('call' in line and '@llvm.fma' in line for line in code) - sums)\n",
        NUMBA_CACHE_DIR=str(tmp_path),  # code loaded from the cache has no assembly text
    )
    assert printed.split() == ["0", "0"]


@pytest.mark.slow
@pytest.mark.skipif(simd.vector_bytes() != 64, reason="of the code for one processor, AVX-512")
def test_the_loops_of_the_tiles_keep_their_sums_in_registers(python, tmp_path):
    printed = python(
        "import re\n"
        "from cnnkernels import jit, microkernel as tiles\n"
        "tiles.tile_address('float32'), tiles.packed_tile_address('float32')\n"
        "for tile in jit._COMPILED:\n"
        "    blocks = re.split(r'^\\.L\\w+:', tile._library.get_asm_str(), flags=re.M)\n"
        "    loops = [block.split('\\tj')[0] for block in blocks if 'vfmadd' in block]\n"
        "    spills = [re.findall(r'.*rsp.*zmm.*|.*zmm.*rsp.*', loop) for loop in loops]\n"
        "    print(len(loops), sum(map(len, spills)))\n",
        NUMBA_CACHE_DIR=str(tmp_path),
        NUMBA_CPU_NAME="znver4",
    )
    sizes = [(m, v) for m in range(1, microkernel.MOST_ROWS + 1) for v in microkernel._WIDTHS]
    tiles = sum(v <= microkernel._widest(m) for m, v in sizes)
    assert printed.split() == [str(tiles), "0"] * 2


@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_the_bits_are_the_same_at_any_number_of_threads(descriptor, thread_counts):
    problem = parse(descriptor)
    random = np.random.default_rng(2)
    x, w, dy = (
        random.standard_normal(shape, "float32")
        for shape in (problem.shapes.x, problem.shapes.w, problem.shapes.y)
    )
    results = set()
    for _ in thread_counts():
        y, cache = numba_simd.forward(problem, x, w, None)
        gradients = numba_simd.backward(problem, dy, x, w, cache)
        results.add((y.tobytes(), gradients.dx.tobytes(), gradients.dw.tobytes()))
    assert len(results) == 1


@pytest.fixture
def new_blockings():
    """Clear cached blockings before and after a test that changes their inputs."""
    memory.BLOCKINGS.clear()
    yield
    memory.BLOCKINGS.clear()


@pytest.mark.usefixtures("new_blockings")
@pytest.mark.parametrize(
    "descriptor",
    [
        "mb3ic9ih11oc20oh11kh1ph0",
        "mb2ic33ih5oc70oh5kh1ph0",
        "mb9ic40ih20oc80oh20kh1ph0",
        "g2mb2ic10ih14oc68oh14kh1ph0",
    ],
)
def test_gradients_of_weights_are_exact_where_images_are_turned(
    descriptor, thread_counts, monkeypatch
):
    monkeypatch.setattr(weight_gradients, "_CACHED", 0)  # else dy is too large for a test
    problem = parse(descriptor)
    assert weight_gradients._blocking(problem).turned
    for _ in thread_counts():
        found = conformance.check(registry.load("numba-simd"), problem)
        assert (found.outcome, found.reason) == ("ok", "")


def test_shapes_that_nobody_listed_are_exact():
    random = np.random.default_rng(20261123)
    backend = registry.load("numba-simd")
    done = 0
    while done < 60:
        groups = int(random.choice([1, 1, 1, 2, 3, 16]))
        channels, filters = (groups * int(n) for n in random.integers(1, 24 // groups + 2, 2))
        kernel, stride, dilation, low, high = random.integers(1, 4, (5, 2)).tolist()
        padding = tuple((a - 1, b - 1) for a, b in zip(low, high, strict=True))
        size = random.integers(1, 24, 2).tolist()
        batch = int(random.choice([1, 2, 4, 19]))
        try:
            problem = Conv2D(
                batch, channels, *size, filters, tuple(kernel), tuple(stride),
                padding, tuple(dilation), groups,
            )  # fmt: skip
        except ValueError:  # a kernel that does not fit
            continue
        found = conformance.check(backend, problem)
        assert (found.outcome, found.reason) == ("ok", ""), str(problem)
        done += 1


def test_without_vector_fmas_it_declines(monkeypatch):
    monkeypatch.setattr(simd, "has_fma", lambda: False)
    problem = parse("mb1ic1ih3oc1oh3kh1ph0")
    assert numba_simd.unsupported(problem) == "this processor has no vector FMA instructions"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("features", "vector_bytes", "tile"),
    [
        ({"sse2", "fma", "avx512f"}, 64, (8, 3)),
        ({"sse2", "fma", "avx"}, 32, (6, 2)),
        ({"neon"}, 16, (8, 3)),
    ],
    ids=["AVX-512", "AVX2", "NEON"],
)
def test_the_vectors_of_other_processors_are_exact(features, vector_bytes, tile, python, tmp_path):
    x86 = "sse2" in simd._FEATURES
    if ("sse2" in features, vector_bytes) == (x86, simd.vector_bytes()):
        pytest.skip("these are this processor's, which every other test here uses")
    printed = python(
        "import llvmlite.binding as llvm\n"
        "import numba\n"
        "numba.njit(lambda: 0)()\n"  # Numba has asked for the features of this one before
        "here = llvm.get_host_cpu_features\n"
        f"llvm.get_host_cpu_features = lambda: dict.fromkeys({features}, True)\n"
        "from cnnkernels import microkernel as tiles, simd\n"
        "llvm.get_host_cpu_features = here\n"
        f"assert (simd.vector_bytes(), tiles.ROWS, tiles.VECTORS) == {(vector_bytes, *tile)}\n"
        "from cnnkernels import conformance, registry\n"
        "from cnnkernels.descriptor import parse\n"
        "backend = registry.load('numba-simd')\n"
        f"for descriptor in {list(CUTS.values())}:\n"
        "    found = conformance.check(backend, parse(descriptor))\n"
        "    print(found.outcome, found.reason)\n",
        NUMBA_CACHE_DIR=str(tmp_path),  # its code is not for this machine
    )
    assert printed.split() == ["ok"] * len(CUTS)


# --------------------------------------------------------------------------------------------
# memory

EXTREMES = (
    "mb1ic1ih24oc1oh1kh1sh30000ph0",
    "mb1ic2ih1500oc1oh1kh1500ph0",
    "mb1ic1ih5oc2oh5kh3ph1000000dh999999",
    "g16mb2ic16ih24oc16oh1kh24sh30000ph0",
    "mb2ic3ih1iw400oc2oh1ow3kh1kw390sh1sw5ph0pw0",
    "mb1ic1ih6oc1oh4kh2sh30000ph50000dh9999",
)
"""Strides, windows, padding and dilations that are far larger than what arrays hold."""

WINDOWS_THAT_TAKE_MUCH = "g1mb2ic1ih200iw1000oc1oh1ow4kh200kw1000sh200sw300ph100pw499dh1dw0f64"
"""Lists of its windows take a large part of what a call may take."""


@pytest.mark.parametrize("descriptor", EXTREMES)
def test_a_call_takes_memory_in_proportion_to_its_arrays(descriptor):
    problem = parse(descriptor)
    random = np.random.default_rng(2)
    x, w, b, dy = (random.integers(-2, 3, shape).astype("f4") for shape in problem.shapes)

    def compute():
        y, cache = numba_simd.forward(problem, x, w, b)
        return y, numba_simd.backward(problem, dy, x, w, cache)

    compute()  # compiles
    memory.BLOCKINGS.clear()
    tracemalloc.start()
    y, gradients = compute()
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most <= 4 * memory.allowed(problem.bytes_moved("forward"))
    assert_exact(problem, x, w, b, dy, y, gradients)


@pytest.mark.parametrize("descriptor", [*EXTREMES, WINDOWS_THAT_TAKE_MUCH])
def test_a_driver_gets_what_lists_of_windows_leave_of_the_memory(descriptor, monkeypatch):
    problem = parse(descriptor)
    tables = numba_simd.correlation.bytes_of_windows(problem)
    allowed = memory.allowed(problem.bytes_moved("forward"))
    taken = []
    for module in numba_simd._DRIVERS:

        def prepare(correlation, threads, module=module, prepare=module.prepare):
            taken.append(tables + module.needed(correlation))
            return prepare(correlation, threads)

        monkeypatch.setattr(module, "prepare", prepare)
    memory.BLOCKINGS.clear()
    numba_simd._forward((problem, 1))
    numba_simd._backward_data((problem, 1))
    assert max(taken, default=0) <= allowed


def assert_exact(problem, x, w, b, dy, y, gradients):
    direct = registry.load("numba").convolution
    np.testing.assert_array_equal(y, direct.forward(problem, x, w, b)[0])
    for got, expected in zip(gradients, direct.backward(problem, dy, x, w, ()), strict=True):
        np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("descriptor", ["g32mb{}ic32ih14oc32oh14kh3ph1", "mb{}ic3ih8oc8oh8kh3ph1"])
def test_batches_of_new_sizes_do_not_add_up(descriptor, monkeypatch):
    monkeypatch.setattr(memory.BLOCKINGS, "budget", 400_000)
    random = np.random.default_rng(3)
    for batch in range(1, 25):
        problem = parse(descriptor.format(batch))
        x, w, b, dy = (random.integers(-3, 4, shape).astype("f4") for shape in problem.shapes)
        y, cache = numba_simd.forward(problem, x, w, b)
        gradients = numba_simd.backward(problem, dy, x, w, cache)
        assert_exact(problem, x, w, b, dy, y, gradients)
        assert memory.BLOCKINGS.weight <= 400_000


def test_depthwise_tables_are_made_once_for_all_batches():
    memory.BLOCKINGS.clear()

    def kept(batch):
        problem = parse(f"g32mb{batch}ic32ih14oc32oh14kh3ph1")
        x, w, b, dy = (np.ones(shape, "f4") for shape in problem.shapes)
        numba_simd.backward(problem, dy, x, w, numba_simd.forward(problem, x, w, b)[1])
        return memory.BLOCKINGS.weight

    first = kept(1)
    for batch in (2, 7, 32):
        kept(batch)
    assert memory.BLOCKINGS.weight < 2 * first  # each with tables of its own: four times
