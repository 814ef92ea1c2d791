"""The checks pass correct backends, and catch every broken one for the right reason."""

import dataclasses
import re
from types import SimpleNamespace

import numpy as np
import pytest

from cnnkernels import Unsupported, registry
from cnnkernels.backends import NumpyArrays
from cnnkernels.conformance import BROKEN, CORNER, CORNER_ONNX, check
from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.descriptor import parse
from cnnkernels.pooling import windows

PROBLEM = parse("mb2ic3ih7oc4oh7kh3ph1")
POOLING = parse("mb2ic3ih7oh4kh3sh2ph1")


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """Return the folder of fills, shared by all checks of this session."""
    return tmp_path_factory.mktemp("fills")


# --------------------------------------------------------------------------------------------
# correct backends

LONG_FOR_LOOPS = 8_000
"""Multiply-adds that take Python's loops too long."""


def _cases(descriptors):
    """Yield each backend's name with each descriptor."""
    for name in registry.names():
        for descriptor in descriptors:
            work = getattr(parse(descriptor), "multiply_adds", 0)
            marks = [pytest.mark.cuda] if name == "torch-cuda" else []
            if name == "naive" and work > LONG_FOR_LOOPS:
                marks.append(pytest.mark.slow)
            yield pytest.param(name, descriptor, marks=marks)


@pytest.mark.parametrize(("backend", "descriptor"), list(_cases(CORNER)), indirect=["backend"])
def test_every_backend_gets_every_corner_problem_right(backend, descriptor, folder):
    found = check(backend, parse(descriptor), folder)
    if backend.name == "torch-cpu-nhwc" and found.outcome == "unsupported":
        assert "may crash" in found.reason  # PyTorch itself
    else:
        found.require()


@pytest.mark.parametrize(("backend", "descriptor"), list(_cases(CORNER_ONNX)), indirect=["backend"])
def test_what_only_onnx_allows_is_right_or_declined_with_a_reason(backend, descriptor, folder):
    found = check(backend, parse(descriptor), folder)
    if found.outcome == "unsupported":
        assert found.reason
    else:
        found.require()


@pytest.mark.parametrize(
    ("problem", "directions"),
    [
        (PROBLEM, {"forward", "backward_data", "backward_weights", "backward"}),
        (POOLING, {"forward", "backward"}),
    ],
)
def test_a_check_says_how_accurate_and_repeatable_a_backend_is(problem, directions):
    found = check(registry.load("numpy"), problem)
    assert (found.backend, found.problem, found.outcome) == ("numpy", str(problem), "ok")
    assert found.reason == ""
    assert found.repeatable is True
    assert set(found.error_over_bound) == directions
    assert all(0 <= error <= 1 for error in found.error_over_bound.values())
    assert check(registry.load("numpy"), problem).digest == found.digest
    double = dataclasses.replace(problem, dtype="float64")
    assert check(registry.load("numpy"), double).digest != found.digest


# --------------------------------------------------------------------------------------------
# broken backends

REASONS = {
    "flipped": r"^y\[.* differ; integers\)$",
    "last-tap": r"^y\[.* differ; integers\)$",
    "edge-padding": r"^y\[0, 0, 0, 0\] ",
    "not-zeroed": r"^y\[0, 0, 0, 0\] is nan",
    "zeros": r"^y\[.* is 0, not ",
    "beyond-the-end": r"^wrote beyond an array of \d+ elements$",
    "input-overwritten": r"^the input x was written to$",
    "one-buffer": r"not freshly allocated$",
    "remembered": r"^after its inputs were changed in place, y\[.* can make in direct sums$",
    "half-precision": r"times the error that rounding can make in direct sums$",
    "wider": r"^y has dtype float64, not float32$",
    "strided": r"^y is not C-contiguous$",
    "racing": r"^a second run gave other bits",
    "dx-not-added": r"^dx\[",
    "dx-rim": r"^dx\[.* is 0, not ",
    "dw-averaged": r"^dw\[",
    "db-averaged": r"^db\[",
    "needs-ignored": r"^dw was not asked for, and is not None$",
    "winograd-entry": r"^y\[.* differ; integers\)$",
    "winograd-entry-back": r"^dw\[.* differ; integers dw\)$",
    "winograd-phases": r"^y\[.* differ; integers\)$",
    "winograd-edge": r"^y\[.* differ; integers\)$",
    "winograd-block-twice": r"^y\[.* differ; integers\)$",
    "winograd-neighbors": r"^y\[.* differ; integers\)$",
    "winograd-bfloat16": r"^y\[.* times the error that rounding can make in F\(4x4, 3x3\)$",
    "zero-padding": r"^y\[.* is 0, not -",
    "last-maximum": r"^dx\[.*; ties\)$",
    "nan-ignored": r"^y\[.* not nan .*; nonfinite\)$",
    "cache-input": r"^the cache holds .* and cache_spec says",
}


def test_there_are_broken_backends_of_many_kinds():
    assert len(BROKEN) >= 12
    assert {f"broken-{name}" for name in REASONS} <= set(BROKEN)
    for name, backend in BROKEN.items():
        assert backend.name == name
        assert backend.description


@pytest.mark.parametrize("name", BROKEN)
def test_every_broken_backend_is_caught_for_what_is_broken(name, folder):
    broken = BROKEN[name]
    kind = Conv2D if broken.pooling is windows else MaxPool2D
    problems = (problem for problem in map(parse, CORNER) if isinstance(problem, kind))
    checks = (check(broken, problem, folder) for problem in problems)
    caught = next(found for found in checks if found.outcome != "ok")
    assert caught.outcome == "wrong"
    assert re.search(REASONS.get(name.removeprefix("broken-"), "."), caught.reason)
    with pytest.raises(AssertionError, match=re.escape(f"{name} on {caught.problem}: wrong: ")):
        caught.require()


def test_a_backend_that_promises_no_bits_is_not_held_to_them():
    racing = dataclasses.replace(BROKEN["broken-racing"], deterministic=False)
    checks = [check(racing, parse(descriptor)) for descriptor in CORNER]
    assert {found.outcome for found in checks} == {"ok"}
    assert False in {found.repeatable for found in checks}


# --------------------------------------------------------------------------------------------
# other outcomes


def spoilt(**functions):
    """Return the numpy backend with functions of both kernels replaced."""
    backend = registry.load("numpy")
    names = "unsupported", "cache_spec", "forward", "backward"
    kernels = {
        kind: SimpleNamespace(
            **{name: getattr(getattr(backend, kind), name) for name in names} | functions
        )
        for kind in ("convolution", "pooling")
    }
    return dataclasses.replace(backend, **kernels)


def raises(error):
    def function(*_):
        raise error

    return function


@pytest.mark.parametrize("problem", [PROBLEM, POOLING], ids=str)
@pytest.mark.parametrize(
    ("backend", "outcome", "reason"),
    [
        (spoilt(forward=raises(RuntimeError("boom"))), "failed", "RuntimeError: boom"),
        (spoilt(backward=raises(IndexError("out"))), "failed", "IndexError: out"),
        (spoilt(unsupported=raises(KeyError("k"))), "failed", "KeyError: 'k'"),
        (spoilt(forward=raises(Unsupported("no"))), "unsupported", "no"),
        (spoilt(unsupported=lambda _: "too odd"), "unsupported", "too odd"),
    ],
)
def test_an_error_is_failed_and_a_refusal_unsupported(backend, problem, outcome, reason):
    found = check(backend, problem)
    assert (found.outcome, found.reason) == (outcome, reason)
    assert (found.error_over_bound, found.repeatable, found.digest) == ({}, None, "")
    with pytest.raises(AssertionError, match=f"{outcome}: {reason}"):
        found.require()


def test_a_convolution_too_long_to_check_exactly_is_unsupported():
    found = check(registry.load("numpy"), Conv2D(1, 1, 4096, 4097, 1, 1))
    assert found.outcome == "unsupported"
    assert "cannot be checked exactly" in found.reason


@pytest.mark.parametrize(
    ("result", "reason"),
    [
        (lambda y: y[:, :, 1:], "y has shape (2, 4, 6, 7), not (2, 4, 7, 7)"),
        (lambda y: np.broadcast_to(y, y.shape), "y is read-only"),
        (np.nan_to_num, "; nonfinite)"),
    ],
)
def test_an_output_of_the_wrong_kind_is_wrong(result, reason):
    numpy = registry.load("numpy")

    def forward(*arguments):
        y, cache = numpy.convolution.forward(*arguments)
        return result(y), cache

    backend = spoilt(forward=forward)
    found = check(dataclasses.replace(backend, pooling=numpy.pooling), PROBLEM)
    assert found.outcome == "wrong"
    assert reason in found.reason


@pytest.mark.parametrize("missing", ["dx", "dw", "db"])
def test_a_gradient_that_is_left_out_is_wrong(missing):
    kernel = registry.load("numpy").convolution

    def backward(*arguments):
        return kernel.backward(*arguments)._replace(**{missing: None})

    found = check(spoilt(backward=backward), PROBLEM)
    assert (found.outcome, found.reason) == ("wrong", f"{missing} was asked for, and is None")


def test_a_gradient_that_is_wrong_only_when_asked_for_alone_is_wrong():
    kernel = registry.load("numpy").convolution

    def backward(problem, dy, x, w, cache, needs):
        gradients = kernel.backward(problem, dy, x, w, cache, needs)
        if needs == (False, True, False):
            gradients.dw[...] += 1
        return gradients

    found = check(spoilt(backward=backward), PROBLEM)
    assert found.outcome == "wrong"
    assert found.reason.startswith("dw[0, 0, 0, 0] is ")
    assert found.reason.endswith("asked for alone)")


def test_an_output_that_the_next_call_writes_to_is_wrong():
    kernel = registry.load("numpy").convolution
    given = []

    def forward(*arguments):
        for earlier in given:
            earlier[...] = 0
        y, cache = kernel.forward(*arguments)
        given.append(y)
        return y, cache

    found = check(spoilt(forward=forward), PROBLEM)
    assert found.outcome == "wrong"
    assert found.reason.startswith("y of an earlier call changed in a later one")


class CopyingArrays(NumpyArrays):
    """Arrays that share no memory with NumPy's, like those on a device."""

    def put(self, array):
        return array.copy()

    def get(self, array):
        return np.array(array, order="C")


@pytest.mark.xfail(strict=True, reason="the later call computes the same numbers")
def test_an_output_in_the_memory_of_the_last_is_wrong_on_a_device_too():
    broken = dataclasses.replace(BROKEN["broken-one-buffer"], arrays=CopyingArrays())
    assert check(broken, PROBLEM).outcome == "wrong"


@pytest.mark.parametrize(
    "problem",
    [
        Conv2D(1, 1, 1, 1, 1, 1, padding=1, bias=False),
        parse("mb2ic1ih9iw11oc1oh4ow2kh4kw5sh4sw1ph4pw3dh0dw2f64"),
    ],
    ids=str,
)
def test_a_right_backend_is_not_blamed_for_zeros_that_are_right(problem):
    check(registry.load("numpy"), problem).require()


# --------------------------------------------------------------------------------------------
# the folder of fills


def test_fills_are_kept_in_the_folder_and_used_again(tmp_path):
    backend = registry.load("numpy")
    check(backend, POOLING, tmp_path).require()
    kept = sorted(tmp_path.iterdir())
    assert len(kept) == len(("integers", "ties", "nonfinite", "real"))
    times = [path.stat().st_mtime_ns for path in kept]
    check(registry.load("naive"), POOLING, tmp_path).require()
    assert sorted(tmp_path.iterdir()) == kept
    assert [path.stat().st_mtime_ns for path in kept] == times


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [(lambda y: y + 1, "y[0, 0, 0, 0] is "), (np.zeros_like, "not trusted: 0 non-zeros among")],
)
def test_what_the_folder_says_is_right_is_what_is_expected(tmp_path, spoil, reason):
    backend = registry.load("numpy")
    check(backend, POOLING, tmp_path).require()
    for path in tmp_path.iterdir():
        with np.load(path) as stored:
            arrays = dict(stored)
        np.savez(path, **arrays | {"y": spoil(arrays["y"])})
    found = check(backend, POOLING, tmp_path)
    assert found.outcome == "wrong"
    assert found.reason.startswith(reason)
