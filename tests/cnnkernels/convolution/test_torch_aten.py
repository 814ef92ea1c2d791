"""PyTorch's convolution under the contract."""

import itertools

import numpy as np
import pytest

from cnnkernels import backends
from cnnkernels.backends import TorchArrays
from cnnkernels.contract import Conv2D, Needs
from cnnkernels.convolution import naive

torch = pytest.importorskip("torch")
torch_aten = pytest.importorskip("cnnkernels.convolution.torch_aten")

PROBLEMS = [
    Conv2D(2, 4, 6, 7, 6, 3, padding=1),
    Conv2D(2, 4, 6, 7, 6, (2, 3), padding="same"),
    Conv2D(2, 4, 6, 7, 6, 3, 2, ((2, 0), (0, 1)), groups=2),
    Conv2D(2, 1, 6, 7, 3, 2, padding=((0, 1), (1, 0)), bias=False),
]


def filled(problem):
    """Return dy, x, w and b, of small integers."""
    random = np.random.default_rng(1)
    shapes = problem.shapes
    dy, x, w = (
        random.integers(-4, 5, shape).astype("float32") for shape in (shapes.y, shapes.x, shapes.w)
    )
    return dy, x, w, np.arange(problem.out_channels, dtype="float32") if problem.bias else None


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("problem", PROBLEMS, ids=str)
def test_padding_on_either_side_gives_the_definitions_answers_in_the_same_layout(problem, layout):
    dy, x, w, b = filled(problem)
    y, _ = naive.forward(problem, x, w, b)
    expected = [y, *naive.backward(problem, dy, x, w, ())]
    arrays = TorchArrays("cpu", layout)
    dy_, x_, w_, b_ = (None if a is None else arrays.put(a) for a in (dy, x, w, b))
    y_, cache = torch_aten.forward(problem, x_, w_, b_)
    results = [y_, *torch_aten.backward(problem, dy_, x_, w_, cache)]
    assert cache == torch_aten.cache_spec(problem) == ()
    for got, right in zip(results, expected, strict=True):
        if right is None:
            assert got is None
        else:
            np.testing.assert_array_equal(got.numpy(), right, strict=True)
    formats = {"NCHW": torch.contiguous_format, "NHWC": torch.channels_last}
    for images in results[:2]:
        assert images.is_contiguous(memory_format=formats[layout])


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3)))
def test_only_the_gradients_that_are_needed_come_back(needs):
    problem = PROBLEMS[0]
    dy, x, w, _ = map(torch.from_numpy, filled(problem))
    gradients = torch_aten.backward(problem, dy, x, w, (), Needs(*needs))
    assert tuple(gradient is not None for gradient in gradients) == needs


def test_every_problem_can_be_done():
    assert [torch_aten.unsupported(problem) for problem in PROBLEMS] == [None] * len(PROBLEMS)


@pytest.mark.parametrize(
    ("problem", "blind"),
    [
        (Conv2D(1, 27, 6, 1, 3, (4, 1), 3, (3, 2), 3, groups=3), True),
        (Conv2D(1, 27, 6, 1, 3, (4, 1), 3, (3, 0), 3, groups=3), False),
        (Conv2D(1, 4, 5, 5, 4, 1, padding=((0, 0), (0, 1))), True),
        (Conv2D(1, 4, 5, 5, 4, 1, padding=((1, 0), (0, 0)), dtype="float64"), True),
        (Conv2D(1, 4, 2, 5, 4, (2, 1), padding=((2, 1), (0, 0)), dilation=(3, 1)), True),
        *((problem, False) for problem in PROBLEMS),
    ],
    ids=str,
)
def test_channels_last_images_are_declined_where_a_window_sees_only_padding(problem, blind):
    """PyTorch itself has crashed on these windows, which no test can survive."""
    reason = torch_aten.ChannelsLastOnCPU.unsupported(problem)
    assert (reason is not None) == blind
    if blind:
        assert torch.__version__ in reason
        assert "a window sees only padding" in reason


def test_backends_decline_where_their_layout_is_at_fault():
    problem = Conv2D(1, 4, 5, 5, 4, 1, padding=1)
    assert backends.torch_cpu_nhwc().unsupported(problem) is not None
    assert backends.torch_cpu().unsupported(problem) is None
