"""A kernel with a fallback: each problem goes to one of two, and it is known to which."""

import dataclasses
from types import SimpleNamespace

import pytest

from cnnkernels import Unsupported, registry
from cnnkernels.conformance import check
from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.convolution import im2col, naive
from cnnkernels.fallback import WithFallback

SMALL, LARGE = Conv2D(1, 2, 4, 4, 3, 1), Conv2D(1, 2, 5, 5, 3, 3)


def backend(**changed):
    asked = []

    def unsupported(problem):
        asked.append(problem)
        return None if problem.kernel_size == (1, 1) else "1x1 only"

    functions = {name: getattr(naive, name) for name in ("cache_spec", "forward", "backward")}
    own = SimpleNamespace(**{**functions, "unsupported": unsupported, **changed})
    made = dataclasses.replace(
        registry.load("numpy"),
        name="mine",
        convolution=WithFallback(own, im2col),
        fallback="numpy",
    )
    return made, own, asked


def test_each_problem_has_its_kernel_and_passes():
    made, own, _ = backend()
    assert made.convolution.chosen(SMALL) is own
    assert made.convolution.chosen(LARGE) is im2col
    for problem, owner in ((SMALL, "mine"), (LARGE, "numpy")):
        found = check(made, problem)
        found.require()
        assert (found.owner, made.owner(problem)) == (owner, owner)
    assert made.owner(MaxPool2D(1, 1, 4, 4, 2)) == "numpy"
    assert registry.load("numpy").owner(SMALL) == "numpy"


def test_a_problem_is_asked_about_once():
    made, _, asked = backend()
    for _ in range(3):
        made.convolution.chosen(SMALL)
    assert asked == [SMALL]


def test_what_neither_supports_is_unsupported_in_the_fallbacks_words():
    made, own, _ = backend()
    neither = WithFallback(own, SimpleNamespace(unsupported=lambda _: "no convolutions"))
    made = dataclasses.replace(made, convolution=neither)
    assert made.unsupported(LARGE) == "no convolutions"
    assert made.unsupported(SMALL) is None


def test_an_accuracy_is_that_of_the_problems_kernel():
    made, _, _ = backend(accuracy=lambda _: "mine")
    assert made.accuracy(SMALL) == "mine"
    assert made.accuracy(LARGE) is None
    assert made.accuracy(MaxPool2D(1, 1, 4, 4, 2)) is None


@pytest.mark.parametrize(("name", "outputs"), [("numba-winograd-f4", 4), ("numba-winograd-f2", 2)])
def test_winograd_takes_3x3_of_stride_1(name, outputs):
    try:
        winograd, direct = registry.load(name), registry.load("numba-simd")
    except Unsupported as reason:
        pytest.skip(str(reason))
    assert winograd.accuracy(LARGE).name == f"F({outputs}x{outputs}, 3x3)"
    assert winograd.owner(LARGE) == name
    assert winograd.convolution.chosen(SMALL) is direct.convolution
    assert winograd.accuracy(SMALL) is None
    assert winograd.pooling is direct.pooling
