"""Winograd's kernels: exact where every number in between is an integer, bounded elsewhere."""

import itertools
import re

import numpy as np
import pytest

from cnnkernels.conformance import reference
from cnnkernels.contract import Conv2D, Needs
from cnnkernels.descriptor import parse
from cnnkernels.winograd.accuracy import Accuracy

numba = pytest.importorskip("numba")
winograd = pytest.importorskip("cnnkernels.convolution.numba_winograd")
parallel = pytest.importorskip("cnnkernels.parallel")

CASES = {
    "one tile": "mb1ic1ih4oc1kh3ph1",
    "one pixel": "mb1ic2ih1oc3kh3ph1",
    "no padding, one output": "mb1ic1ih3oc1kh3ph0",
    "whole tiles, one unit": "mb2ic3ih8oc5kh3ph1",
    "tiles cut at both edges": "mb1ic17ih31iw45oc9kh3ph0",
    "padding of two": "mb1ic5ih13oc3kh3ph2",
    "padding on some sides": "mb2ic6ih9iw6oc7oh8ow7kh3ph0pw2",
    "groups": "g2mb3ic8ih7oc10kh3ph1",
    "depthwise": "g9mb2ic9ih10oc9kh3ph1",
    "runs longer than a vector": "mb1ic2ih6iw150oc4kh3ph1",
    "several units": "mb5ic4ih25oc18kh3ph1",
    "an odd number of units": "mb2ic4ih25oc18kh3ph1",
    "several packs, more weights than pixels": "mb1ic40ih4oc70kh3ph1",
    "several blocks of channels and filters": "mb2ic80ih6oc130kh3ph1",
    "no images": "mb0ic3ih5oc4kh3ph1",
}


def of_dtype(descriptor, dtype):
    return parse(descriptor + ("f64" if dtype == "float64" else ""))


def results(kernel, problem, x, w, b, dy):
    y, cache = kernel.forward(problem, x, w, b)
    gradients = kernel.backward(problem, dy, x, w, cache)
    return {"y": y, **gradients._asdict()}


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_integers_give_integers_exactly(case, outputs):
    problem = of_dtype(CASES[case], "float64")
    random = np.random.default_rng(1)
    x, w, b, dy = (random.integers(-4, 5, shape).astype("f8") for shape in problem.shapes)
    kernel, multiple = winograd.Winograd(outputs), Accuracy(problem, outputs).integral
    got = results(kernel, problem, x, w * multiple, b, dy)
    right = reference.convolution(problem, x, w * multiple, b, dy)
    for name in ("y", "dx", "db"):
        np.testing.assert_array_equal(got[name], getattr(right, name), err_msg=name)
    got = results(kernel, problem, x, w, b, dy * multiple)
    right = reference.convolution(problem, x, w, b, dy * multiple)
    np.testing.assert_array_equal(got["dw"], right.dw)


@pytest.mark.parametrize("outputs", [2, 4])
def test_integers_are_exact_in_float32_as_far_as_it_goes(outputs):
    problem = Conv2D(1, 7, 9, 10, 5, 3, padding=1)
    random = np.random.default_rng(1)
    x, w, b, dy = (random.choice([-1, 1], shape).astype("f4") for shape in problem.shapes)
    accuracy = Accuracy(problem, outputs)
    multiple = accuracy.integral
    for name in ("y", "dx"):
        assert accuracy.magnitude(name, x, w * multiple, b, dy).max() <= 2**24
    got = results(winograd.Winograd(outputs), problem, x, w * multiple, b, dy)
    right = reference.convolution(problem, x, w * multiple, b, dy)
    for name in ("y", "dx"):
        np.testing.assert_array_equal(got[name], getattr(right, name), err_msg=name)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("case", CASES)
def test_errors_are_within_the_bound(case, outputs, dtype):
    problem = of_dtype(CASES[case], dtype)
    random = np.random.default_rng(2)
    x, w, b, dy = (random.standard_normal(shape).astype(dtype) for shape in problem.shapes)
    got = results(winograd.Winograd(outputs), problem, x, w, b, dy)
    right = reference.convolution(problem, x, w, b, dy)
    for name in ("y", "dx", "dw"):
        assert got[name].dtype == dtype
        error = np.abs(got[name] - getattr(right, name))
        assert (error <= Accuracy(problem, outputs).bound(name, x, w, b, dy)).all(), name


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize(
    "case",
    [
        "several units",
        "an odd number of units",
        "several packs, more weights than pixels",
        "several blocks of channels and filters",
    ],
)
def test_bits_do_not_depend_on_threads(case, outputs):
    problem = parse(CASES[case])
    random = np.random.default_rng(3)
    arrays = [random.standard_normal(shape).astype("f4") for shape in problem.shapes]
    found = []
    most = parallel.most_threads()
    try:
        for threads in (1, most):
            numba.set_num_threads(threads)
            found.append(results(winograd.Winograd(outputs), problem, *arrays))
    finally:
        numba.set_num_threads(most)
    for name in found[0]:
        np.testing.assert_array_equal(found[0][name], found[1][name], err_msg=name)


@pytest.mark.parametrize("outputs", [2, 4])
def test_a_pixel_that_is_no_number_spoils_its_tiles_alone(outputs):
    problem = Conv2D(2, 3, 24, 40, 2, 3, padding=1, dtype="float64")
    random = np.random.default_rng(4)
    x, w, b, _ = (random.integers(-2, 3, shape).astype("f8") for shape in problem.shapes)
    w *= Accuracy(problem, outputs).integral
    kernel = winograd.Winograd(outputs)
    right, _ = kernel.forward(problem, x, w, b)
    for value in (np.nan, np.inf):
        x[1, 2, 13, 22] = value
        got, _ = kernel.forward(problem, x, w, b)
        assert not np.isfinite(got[1, :, 12:15, 21:24]).any()
        spoilt = np.zeros(got.shape, bool)
        for p, q in itertools.product((12, 14), (21, 23)):
            rows, columns = (slice(at // outputs * outputs, at // outputs * outputs + outputs)
                             for at in (p, q))  # fmt: skip
            spoilt[1, :, rows, columns] = True
        np.testing.assert_array_equal(got[~spoilt], right[~spoilt])


@pytest.mark.parametrize("outputs", [2, 4])
def test_each_gradient_can_be_asked_for_alone(outputs):
    problem = parse(CASES["groups"])
    random = np.random.default_rng(5)
    x, w, b, dy = (random.standard_normal(shape).astype("f4") for shape in problem.shapes)
    kernel = winograd.Winograd(outputs)
    del b
    everything = kernel.backward(problem, dy, x, w, ())
    for name in Needs._fields:
        alone = kernel.backward(problem, dy, x, w, (), Needs(*(name == n for n in Needs._fields)))
        for other in Needs._fields:
            if other == name:
                np.testing.assert_array_equal(
                    getattr(alone, name), getattr(everything, name), err_msg=name
                )
            else:
                assert getattr(alone, other) is None


@pytest.mark.parametrize(
    ("descriptor", "reason"),
    [
        ("mb1ic1ih5oc1kh5ph2", "needs a 3x3 kernel, got 5x5"),
        ("mb1ic1ih5oc1kh3kw1ph1pw0", "needs a 3x3 kernel, got 3x1"),
        ("mb1ic1ih5oc1oh3kh3sh2ph1", "needs stride 1 and dilation 1"),
        ("mb1ic1ih5oc1kh3ph2dh1", "needs stride 1 and dilation 1"),
        ("g9mb2ic9ih10oc9kh3ph1", "needs 16 channels and filters in a group, got 1"),
        ("g2mb2ic32ih8oc30kh3ph1", "needs 16 channels and filters in a group, got 15"),
        ("g1024mb1ic16384ih1oc16384kh3ph1", "its transforms would take"),
    ],
)
def test_other_problems_are_unsupported(descriptor, reason):
    assert reason in winograd.Winograd(4).unsupported(parse(descriptor))


def test_sums_and_products_of_transforms_are_neither_reordered_nor_fused():
    # Numba adds its flags to operations that have none.
    vector_code = pytest.importorskip("cnnkernels.convolution.numba_winograd.vector_code")

    @numba.njit(fastmath=True)
    def everything(m, of, to):
        vector_code.transform_images(m, of, 0, 1, 1, to, 0, 1, 1)
        vector_code.transform_weights(m, of, 0, 1, 1, to, 0, 1, 1)
        vector_code.transform_back(m, of, 0, 1, 1, to, 0, 1, 1)
        vector_code.transform_gradients(m, of, 0, 1, 1, to, 0, 1, 1)
        vector_code.transform_weights_back(m, of, 0, 1, 1, to, 0, 1, 1)
        vector_code.store_pixels(m, of, 0, 1, of[0], to, 0)

    array = numba.types.Array(numba.float32, 1, "C")
    everything.compile((numba.int64, array, array))
    (code,) = everything.inspect_llvm().values()
    operations = re.findall(r"= (f(?:add|sub|mul) .*)", code)
    assert len(operations) > 100
    assert {re.match(r"f\w+ ([a-z ]*)", found)[1] for found in operations} == {"nsz "}


@pytest.mark.parametrize("outputs", [2, 4])
@pytest.mark.parametrize("size", [1e38, 1e-42])
def test_huge_and_subnormal_numbers_are_computed_like_others(outputs, size):
    # Intermediate numbers overflow and underflow before direct sums do; nothing else happens.
    problem = parse(CASES["several units"])
    random = np.random.default_rng(6)
    x, w, b, dy = (random.standard_normal(shape).astype("f4") for shape in problem.shapes)
    got = results(winograd.Winograd(outputs), problem, x, (w * size).astype("f4"), b * 0, dy)
    right = reference.convolution(problem, x, (w * size).astype("f4"), b * 0, dy)
    for name in ("y", "dx"):
        finite = np.isfinite(got[name])
        assert finite.all() or size > 1
        error = np.abs(got[name] - getattr(right, name))[finite]
        assert (error <= 1e-3 * np.abs(getattr(right, name)).max() + 1e-40).all()
