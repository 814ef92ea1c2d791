"""Algorithms with an accuracy of their own: declared, they pass; undeclared, they are told how."""

import dataclasses
import math
from types import SimpleNamespace

import numpy as np
import pytest

from cnnkernels import registry
from cnnkernels.conformance import CORNER, check, checks
from cnnkernels.conformance.broken_winograd import NumpyWinograd
from cnnkernels.conformance.fills import filled, fills_of
from cnnkernels.contract import Conv2D, directions
from cnnkernels.convolution import im2col
from cnnkernels.descriptor import parse
from cnnkernels.fallback import WithFallback
from cnnkernels.winograd.accuracy import Accuracy

PROBLEM = Conv2D(2, 3, 9, 10, 5, 3, padding=1)


def backend(kernel):
    return dataclasses.replace(
        registry.load("numpy"), name="mine", convolution=WithFallback(kernel, im2col)
    )


class Undeclared(NumpyWinograd):
    accuracy = None


class Fourier:
    """Correlation by Fourier transforms; gradients by im2col."""

    unsupported = staticmethod(im2col.unsupported)
    cache_spec = staticmethod(im2col.cache_spec)
    backward = staticmethod(im2col.backward)

    def forward(self, problem, x, w, b):
        y, cache = im2col.forward(problem, x, w, b)
        (top, bottom), (left, right) = problem.padding
        images = np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)))
        size = images.shape[2:]
        spectra = np.fft.rfft2(images, size), np.conj(np.fft.rfft2(w, size))
        whole = np.fft.irfft2(np.einsum("nchw,kchw->nkhw", *spectra), size)
        y[...] = whole[:, :, : problem.out_height, : problem.out_width]
        if b is not None:
            y += b[:, None, None]
        return y, cache


class DeclaredFourier(Fourier):
    """Declares a bound in norms: the logarithm of the size, times norms."""

    def accuracy(self, problem):
        def bound(result, x, w, b, dy):
            given = {"y": (x, w), "dx": (dy, w), "dw": (x, dy)}[result]
            norms = math.prod(float(np.linalg.norm(array)) for array in given)
            shape = getattr(problem.shapes, result.removeprefix("d"))
            size = math.log2(problem.height * problem.width) + np.abs(b).max(initial=0)
            return np.full(shape, 1e-6 * size * norms)

        return SimpleNamespace(
            name="FFT", integral=None, reach=0, bound=bound, magnitude=None,
            products=lambda _: problem.multiply_adds // 2,
        )  # fmt: skip


DECLARED = [
    problem
    for problem in map(parse, CORNER)
    if isinstance(problem, Conv2D) and not NumpyWinograd().unsupported(problem)
]


@pytest.mark.parametrize("problem", DECLARED, ids=str)
def test_a_right_algorithm_passes_within_the_bound_it_declares(problem):
    found = check(backend(NumpyWinograd()), problem)
    found.require()
    assert found.algorithm.name == "F(4x4, 3x3)"
    for of_algorithm in vars(found.algorithm).values():
        assert of_algorithm == found.algorithm.name or len(of_algorithm) == 4
    assert max(found.algorithm.error_over_own_bound.values()) < 1
    assert min(found.algorithm.worst_bound_ratio.values()) >= 1
    assert set(found.algorithm.products) == set(directions(problem))


def test_an_algorithm_that_declares_nothing_is_told_to():
    found = check(backend(Undeclared()), dataclasses.replace(PROBLEM, dtype="float32"))
    assert found.outcome == "wrong"
    assert "direct sums of integers are exact" in found.reason
    assert "must declare its accuracy: see cnnkernels/accuracy.py" in found.reason


def test_an_algorithm_that_is_exact_on_nothing_has_its_errors_checked_alone():
    found = check(backend(DeclaredFourier()), PROBLEM)
    found.require()
    assert found.algorithm.name == "FFT"
    assert 0 < found.algorithm.error_over_own_bound["forward"] < 1
    assert fills_of(PROBLEM, DeclaredFourier().accuracy(PROBLEM)) == ("integers",)


def test_such_an_algorithm_must_follow_all_other_rules():
    class Overwriting(DeclaredFourier):
        def forward(self, problem, x, w, b):
            result = super().forward(problem, x, w, b)
            x[...] = 0
            return result

    found = check(backend(Overwriting()), PROBLEM)
    assert (found.outcome, found.reason) == ("wrong", "the input x was written to")


def test_an_error_beyond_the_declared_bound_is_wrong_and_names_the_algorithm():
    class Boasting(NumpyWinograd):
        def accuracy(self, problem):
            accuracy = Accuracy(problem, 4)
            honest = accuracy.bound
            accuracy.bound = lambda *given: honest(*given) / 1e6
            return accuracy

    found = check(backend(Boasting()), PROBLEM)
    assert found.outcome == "wrong"
    assert found.reason.endswith("times the error that rounding can make in F(4x4, 3x3)")


@pytest.mark.parametrize("change", [np.nan_to_num, lambda y: np.where(np.isnan(y), np.inf, y)])
def test_a_nan_may_become_an_infinity_and_spread_by_its_reach_alone(change):
    class Changed(NumpyWinograd):
        def correlated(self, *given):
            return change(super().correlated(*given))

    class Spreading(NumpyWinograd):
        def correlated(self, *given):
            y = super().correlated(*given)
            y[np.isnan(y).any(axis=(1, 2, 3))] = np.nan
            return y

    found = check(backend(Changed()), PROBLEM)
    assert found.outcome == ("wrong" if change is np.nan_to_num else "ok")
    found = check(backend(Spreading()), dataclasses.replace(PROBLEM, height=30))
    assert found.outcome == "wrong"
    assert found.reason.endswith("; nonfinite)")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fill", ["integers", "integers dw"])
@pytest.mark.parametrize("outputs", [2, 4])
def test_no_number_on_the_way_exceeds_what_the_type_holds_exactly(outputs, fill, dtype):
    problem = Conv2D(2, 40, 9, 10, 50, 3, padding=1, dtype=dtype)
    accuracy = Accuracy(problem, outputs)
    data = filled(problem, fill, None, accuracy)
    given = data.x, data.w, data.b, data.dy
    for name in ("dw",) if fill == "integers dw" else ("y", "dx"):
        assert accuracy.magnitude(name, *given).max() <= 2 ** (24 if dtype == "float32" else 53)
        right = getattr(data, name)
        assert np.count_nonzero(right) > 0.3 * right.size


def test_what_lies_around_a_mask_ends_at_the_image():
    mask = np.zeros((1, 2, 9, 3), bool)
    mask[0, 1, 4, 0] = True
    near = np.zeros_like(mask)
    near[0, 1, 2:7, :3] = True
    np.testing.assert_array_equal(checks._around(mask, 2), near)
    narrow = checks._around(mask[..., :1], 9)
    assert narrow[0, 1].all()
    assert not narrow[0, 0].any()
