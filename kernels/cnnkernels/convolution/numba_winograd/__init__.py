"""Winograd convolution: 3 x 3 filters by fewer products, in all three directions.

F(2x2, 3x3) takes 16 products for four outputs and F(4x4, 3x3) takes 36 for sixteen, where a direct
convolution takes 36 and 144. The error is larger, by the size of the numbers in between: see
`accuracy`.
"""

from __future__ import annotations

import numpy as np

from cnnkernels import arrays, memory, simd
from cnnkernels.contract import ALL, FORWARD, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs
from cnnkernels.convolution.numba_winograd import correlation, weight_gradients
from cnnkernels.winograd.accuracy import Accuracy
from cnnkernels.winograd.transforms import TAPS

LEAST_OF_A_GROUP = 16
"""Channels and filters a group must have: with fewer, the transforms cost more than they save."""


class Winograd:
    """The kernel of F(m x m, 3 x 3): a `contract.Conv2DKernel`.

    Parameters
    ----------
    outputs : int
        m, 2 or 4: outputs of a tile along an axis.
    """

    def __init__(self, outputs: int) -> None:
        self.outputs = outputs

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why this algorithm cannot compute a problem, or None if it can."""
        if not simd.has_fma():
            return "this processor has no vector FMA instructions"
        if problem.kernel_size != (TAPS, TAPS):
            rows, columns = problem.kernel_size
            return f"Winograd's algorithm needs a 3x3 kernel, got {rows}x{columns}"
        if problem.stride != (1, 1) or problem.dilation != (1, 1):
            return "Winograd's algorithm needs stride 1 and dilation 1"
        of_group = min(problem.in_channels, problem.out_channels) // problem.groups
        if problem.groups > 1 and of_group < LEAST_OF_A_GROUP:
            return (
                f"Winograd's algorithm needs {LEAST_OF_A_GROUP} channels and filters in a group, "
                f"got {of_group}"
            )
        if not problem.batch:
            return None
        most = memory.allowed(problem.bytes_moved(FORWARD))
        needed = max(
            correlation.needed(made((problem, self.outputs)))
            for made in (correlation.forward, correlation.backward_data)
        )
        if needed > most:
            return (
                f"its transforms would take {needed >> 20} MiB, and a call of this size "
                f"may take {most >> 20}"
            )
        return None

    def accuracy(self, problem: Conv2D) -> Accuracy:
        """Return the algorithm's accuracy for a problem."""
        return Accuracy(problem, self.outputs)

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return (): backward needs its arguments only."""
        del problem
        return ()

    def forward(
        self, problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
    ) -> tuple[np.ndarray, Cache]:
        """Correlate images with filters; see `contract.Conv2DKernel.forward`."""
        shapes = problem.shapes
        arrays.require("x", x, shapes.x, problem.dtype)
        arrays.require("w", w, shapes.w, problem.dtype)
        if b is None:
            b = np.zeros(problem.out_channels, problem.dtype)
        arrays.require("b", b, (problem.out_channels,), problem.dtype)
        y = arrays.empty(shapes.y, problem.dtype)
        if y.size:
            correlation.run(correlation.forward((problem, self.outputs)), x, w, b, y)
        return y, ()

    def backward(
        self,
        problem: Conv2D,
        dy: np.ndarray,
        x: np.ndarray,
        w: np.ndarray,
        cache: Cache,
        needs: Needs = ALL,
    ) -> Conv2DGradients:
        """Return the gradients; see `contract.Conv2DKernel.backward`."""
        del cache
        shapes = problem.shapes
        arrays.require("dy", dy, shapes.y, problem.dtype)
        arrays.require("x", x, shapes.x, problem.dtype)
        arrays.require("w", w, shapes.w, problem.dtype)
        dx = dw = db = None
        if needs.dx:
            dx = arrays.empty(shapes.x, problem.dtype)
            if dx.size:
                turned = correlation.backward_data((problem, self.outputs))
                none = np.zeros(problem.in_channels, problem.dtype)
                correlation.run(turned, dy, w, none, dx)
        if needs.dw:
            dw = arrays.empty(shapes.w, problem.dtype)
            if dy.size:
                forward = correlation.forward((problem, self.outputs))
                weight_gradients.run(forward, dy, x, dw)
            else:
                dw[...] = 0
        if needs.db and problem.bias:
            db = dy.sum((0, 2, 3), out=arrays.empty(shapes.b, problem.dtype))
        return Conv2DGradients(dx, dw, db)
