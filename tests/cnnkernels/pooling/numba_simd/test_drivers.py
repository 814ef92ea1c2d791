"""Max-pooling on vector registers: every driver, and every case that it distinguishes."""

import numpy as np
import pytest

from cnnkernels import conformance, registry
from cnnkernels.contract import MaxPool2D
from cnnkernels.descriptor import parse

pytest.importorskip("numba")
numba_simd = pytest.importorskip("cnnkernels.pooling.numba_simd")

FAR_TAPS = "mb2ic1ih1iw20000oh127ow1kh127kw2sh1sw1ph126pw0dh0dw19998"
HALF_OUTSIDE = "mb1ic2ih3iw40oh20ow40kh18kw40sh1ph17pw20"

CUTS = {
    "lines without gaps": "mb2ic3ih36oh18kh2sh2ph0",
    "lines with gaps, padded": "mb2ic3ih37oh19kh3sh2ph1",
    "blocks of lines": "mb1ic2ih260oh130kh2sh2ph0",
    "blocks of lines, windows that overlap": "mb1ic2ih261oh130kh3sh2ph0",
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
    "extreme windows, copies too large": FAR_TAPS,
    "extreme windows, winners of more than a byte": HALF_OUTSIDE,
}


@pytest.mark.parametrize("dtype", ["", pytest.param("f64", marks=pytest.mark.slow)])
@pytest.mark.parametrize("descriptor", CUTS.values(), ids=CUTS)
def test_every_cut_is_exact(descriptor, dtype):
    row = conformance.check(registry.load("numba-simd"), parse(descriptor + dtype))
    assert (row.outcome, row.reason) == ("ok", "")


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
        row = conformance.check(backend, problem)
        assert (row.outcome, row.reason) == ("ok", ""), str(problem)
        done += 1


@pytest.mark.parametrize(
    ("descriptor", "forward", "backward"),
    [
        (
            FAR_TAPS,
            numba_simd.extreme_windows._select_uint8,
            numba_simd.extreme_windows._credit_uint8,
        ),
        (
            HALF_OUTSIDE,
            numba_simd.extreme_windows._select_int64,
            numba_simd.extreme_windows._credit_int64,
        ),
        (  # of more taps than 31 bits count
            "mb1ic1ih100000oh50001kh50000sh1ph0",
            numba_simd.extreme_windows._select_int64,
            numba_simd.extreme_windows._credit_int64,
        ),
        (
            "mb8ic64ih40oh20kh2sh2ph0",
            numba_simd.window_lanes._select_uint8,
            numba_simd.pixel_lanes._credit,
        ),
        (
            "mb8ic4ih40oh24kh17sh1ph0",
            numba_simd.window_lanes._select_int64,
            numba_simd.extreme_windows._credit_int64,
        ),
        (
            "mb64ic8ih4oh3kh2sh1ph0",
            numba_simd.plane_lanes._select_uint8,
            numba_simd.plane_lanes._credit,
        ),
        (
            "mb64ic8ih19oh3kh17sh1ph0",
            numba_simd.plane_lanes._select_int64,
            numba_simd.extreme_windows._credit_int64,
        ),
    ],
)
def test_drivers_are_chosen_by_shape(descriptor, forward, backward):
    problem = parse(descriptor)
    assert numba_simd._forward_launch(problem).kernel is forward
    assert numba_simd._backward_launch(problem).kernel is backward
