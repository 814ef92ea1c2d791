"""Convolution on vector registers: every way a share of the work can be cut."""

import numpy as np
import pytest

from cnnkernels import conformance, registry
from cnnkernels.contract import Conv2D
from cnnkernels.descriptor import parse

pytest.importorskip("numba")
simd = pytest.importorskip("cnnkernels.simd")
numba_simd = pytest.importorskip("cnnkernels.convolution.numba_simd")

CUTS = {
    "in place, padded": "mb2ic5ih20oc7oh20kh3ph1",
    "in place, as the source is, a last panel that would leave it": "mb2ic3ih7iw9oc5oh7ow9kh1ph0",
    "in place, several blocks of taps": "mb1ic70ih12oc13oh12kh3ph1",
    "in place, no padding, more columns than outputs": "mb2ic4ih9iw40oc6oh7ow38kh3ph0",
    "packed, several blocks of taps": "mb2ic70ih6oc70oh6kh3ph1",
    "packed, panels across lines and images": "mb5ic3ih7oc70oh7kh3ph1",
    "packed, a share of one image": "mb2ic3ih40oc8oh20kh7sh2ph3",
    "packed, as the source is": "mb3ic9ih14oc80oh7kh1sh2ph0",
    "phases without taps": "mb2ic5ih9oc6oh3kh1sh3ph0",
    "phases larger than the kernel": "mb1ic3ih11oc4oh3kh2sh4ph0",
    "groups, tiles of several heights": "g3mb2ic12ih9oc39oh9kh3ph1",
    "depthwise": "g40mb2ic40ih9oc40oh9kh3ph1",
    "a batch in splits": "mb9ic1ih8oc8oh8kh3ph1",
    "many panels of taps": "mb2ic64ih5oc9oh5kh3ph1",
    "more taps than pixels": "mb1ic40ih3oc20oh3kh3ph1",
    "lines shorter than a vector": "mb4ic6ih3iw2oc80oh3ow2kh3ph1",
    "a pixel": "mb1ic64ih1oc70oh1kh1ph0",
}


@pytest.mark.parametrize("dtype", ["", "f64"])
@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_every_cut_is_exact(descriptor, dtype):
    backend = registry.load("numba-simd")
    found = conformance.check(backend, parse(descriptor + dtype))
    assert (found.outcome, found.reason) == ("ok", "")


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


def test_shapes_that_nobody_listed_are_exact():
    random = np.random.default_rng(20261123)
    backend = registry.load("numba-simd")
    done = 0
    while done < 60:
        groups = int(random.choice([1, 1, 1, 2, 3]))
        channels, filters = (groups * int(n) for n in random.integers(1, 24, 2))
        kernel, stride, dilation, low, high = random.integers(1, 4, (5, 2)).tolist()
        padding = tuple((a - 1, b - 1) for a, b in zip(low, high, strict=True))
        size = random.integers(1, 24, 2).tolist()
        try:
            problem = Conv2D(
                int(random.integers(1, 5)), channels, *size, filters, tuple(kernel), tuple(stride),
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
@pytest.mark.parametrize(("vector_bytes", "rows"), [(64, 12), (32, 6), (16, 12)])
def test_the_vectors_of_other_processors_are_exact(vector_bytes, rows, python, tmp_path):
    printed = python(
        "from cnnkernels import conformance, registry, simd\n"
        "from cnnkernels.descriptor import parse\n"
        f"simd.vector_bytes, simd.ROWS = lambda: {vector_bytes}, {rows}\n"
        "backend = registry.load('numba-simd')\n"
        f"for descriptor in {list(CUTS.values())}:\n"
        "    found = conformance.check(backend, parse(descriptor))\n"
        "    print(found.outcome, found.reason)\n",
        NUMBA_CACHE_DIR=str(tmp_path),  # its code is not for this machine
    )
    assert printed.split() == ["ok"] * len(CUTS)
