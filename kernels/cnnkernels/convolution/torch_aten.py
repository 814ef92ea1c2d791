"""PyTorch's own convolution, called below autograd: `aten::convolution` and its backward.

On the CPU this runs oneDNN or PyTorch's own loops; on CUDA it runs cuDNN. The tensors' memory
layout selects the algorithm, so one module serves all PyTorch backends.
"""

from __future__ import annotations

import torch
from torch.nn import functional

from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs

_aten = torch.ops.aten


def unsupported(problem: Conv2D) -> None:
    """Return None: every problem is supported."""
    del problem


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


def forward(
    problem: Conv2D, x: torch.Tensor, w: torch.Tensor, b: torch.Tensor | None
) -> tuple[torch.Tensor, Cache]:
    """Call `aten::convolution`; apply asymmetric padding first.

    See `contract.Conv2DKernel.forward` for parameters.
    """
    padding = problem.symmetric_padding
    if padding is None:
        x, padding = _padded(problem, x), (0, 0)
    y = _aten.convolution.default(
        x,
        w,
        b,
        problem.stride,
        padding,
        problem.dilation,
        False,
        (0, 0),
        problem.groups,
    )
    return y, ()


def backward(
    problem: Conv2D,
    dy: torch.Tensor,
    x: torch.Tensor,
    w: torch.Tensor,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Call `aten::convolution_backward` for the requested gradients.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del cache
    padding = problem.symmetric_padding
    layout = _layout(x)
    cropped = padding is None
    if padding is None:
        x, padding = _padded(problem, x), (0, 0)
    dx, dw, db = _aten.convolution_backward.default(
        dy,
        x,
        w,
        (problem.out_channels,) if problem.bias else None,
        problem.stride,
        padding,
        problem.dilation,
        False,
        (0, 0),
        problem.groups,
        (needs.dx, needs.dw, needs.db and problem.bias),
    )
    if cropped and dx is not None:
        (top, _), (left, _) = problem.padding
        dx = dx[:, :, top : top + problem.height, left : left + problem.width]
        dx = dx.contiguous(memory_format=layout)
    # oneDNN computes dw together with db, even if not requested.
    return Conv2DGradients(dx, dw if needs.dw else None, db)


class ChannelsLastOnCPU:
    """The kernel for channels_last tensors on the CPU; rejects problems that crash PyTorch."""

    cache_spec = staticmethod(cache_spec)
    forward = staticmethod(forward)
    backward = staticmethod(backward)

    @staticmethod
    def unsupported(problem: Conv2D) -> str | None:
        """Return why PyTorch must not run this problem, or None.

        PyTorch 2.13.0 crashed with a segmentation fault on windows that see no pixel: 27 channels
        in three groups, 6x1 pixels, a kernel of 4x1, stride 3, padding (3, 2), dilation 3. It
        happens only on some processors, and callers cannot catch it.
        """
        for axis, out in enumerate((problem.out_height, problem.out_width)):
            if problem.first_blind(axis) < out:
                return (
                    f"PyTorch {torch.__version__} may crash on channels_last images "
                    "where a window sees only padding"
                )
        return None


def _padded(problem: Conv2D, x: torch.Tensor) -> torch.Tensor:
    (top, bottom), (left, right) = problem.padding
    return functional.pad(x, (left, right, top, bottom))


def _layout(x: torch.Tensor) -> torch.memory_format:
    return torch.contiguous_format if x.is_contiguous() else torch.channels_last
