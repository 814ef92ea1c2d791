"""PyTorch's max-pooling under the contract."""

import numpy as np
import pytest

from cnnkernels.backends import TorchArrays
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling import naive

pytest.importorskip("torch")
torch_aten = pytest.importorskip("cnnkernels.pooling.torch_aten")


def pool(size, kernel_size, padding=0, **geometry):
    return MaxPool2D(2, 3, size, size, kernel_size, padding=padding, **geometry)


@pytest.mark.parametrize(
    "problem",
    [
        pool(8, 2),
        pool(8, 3, 1, stride=2),  # stored as one row above and none below
        pool(8, 3, stride=2, ceil_mode=True),
        pool(7, (2, 4), (1, 2), stride=(2, 3), ceil_mode=True),
        pool(9, 3, ((0, 1), (0, 0)), stride=(3, 1)),  # padding that no window reaches
        pool(9, 3, 1, stride=2, dilation=2),
    ],
    ids=str,
)
def test_what_torch_can_mean_is_done_as_the_definition_does(problem):
    random = np.random.default_rng(1)
    x, dy = (random.integers(-9, 9, shape).astype("float32") for shape in problem.shapes)
    y, winners = naive.forward(problem, x)
    dx = naive.backward(problem, dy, winners)
    assert torch_aten.unsupported(problem) is None
    for layout in ("NCHW", "NHWC"):
        x_, dy_ = map(TorchArrays("cpu", layout).put, (x, dy))
        y_, cache = torch_aten.forward(problem, x_)
        np.testing.assert_array_equal(y_.numpy(), y, strict=True)
        np.testing.assert_array_equal(torch_aten.backward(problem, dy_, cache).numpy(), dx)
        specs = tuple((tuple(a.shape), str(a.dtype).removeprefix("torch.")) for a in cache)
        assert specs == torch_aten.cache_spec(problem)


BEYOND = {
    "more than half the kernel": (
        pool(8, 3, 2, stride=1),
        "PyTorch pads at most half the kernel (3, 3), not (2, 2)",
    ),
    "one side only": (
        pool(8, 2, ((0, 0), (0, 1)), stride=1),
        "PyTorch pads the same on both sides, not ((0, 0), (0, 1))",
    ),
    "a kernel that fits by uneven padding alone": (
        pool(2, 3, ((0, 1), (0, 1)), stride=1),
        "PyTorch pads the same on both sides, not ((0, 1), (0, 1))",
    ),
    "a stride of more than 32 bits": (
        pool(8, 2, stride=2**31),
        "PyTorch's window parameters are limited to 2147483647, got 2147483648",
    ),
    "a window that even padding would blind": (
        MaxPool2D(1, 1, 1, 4, (3, 1), (3, 1), ((4, 0), (0, 0)), (2, 1)),
        "PyTorch pads the same on both sides, not ((4, 0), (0, 0))",
    ),
}


@pytest.mark.parametrize(("problem", "reason"), BEYOND.values(), ids=BEYOND)
def test_what_torch_cannot_mean_is_unsupported_with_the_reason(problem, reason):
    assert torch_aten.unsupported(problem) == reason
