"""Deliberately broken Winograd kernels, with the accuracy that a right F(4x4, 3x3) declares.

Each is F(4x4, 3x3) in NumPy with one fault, for 3x3 filters of stride 1. A right one is here too:
the checks must let it pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkernels import arrays, contract
from cnnkernels.contract import ArraySpec, Cache, Conv2D, Conv2DGradients, Needs
from cnnkernels.winograd.accuracy import Accuracy
from cnnkernels.winograd.algorithm import (
    Correlation,
    Matrices,
    correlated,
    matrices,
    of_backward_data,
    of_forward,
    weight_gradients,
)
from cnnkernels.winograd.transforms import TAPS

_OUTPUTS = 4


class NumpyWinograd:
    """F(4x4, 3x3) in NumPy; the methods below `backward` are what faults replace."""

    given: Matrices = matrices(_OUTPUTS)
    gradient_matrices: Matrices = matrices(_OUTPUTS)
    stored: Callable[[np.ndarray], np.ndarray] = staticmethod(np.asarray)

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why the algorithm cannot compute a problem, or None."""
        square = problem.kernel_size == (TAPS, TAPS)
        adjacent = problem.stride == problem.dilation == (1, 1)
        return None if square and adjacent else "3x3 filters of stride 1 only"

    def accuracy(self, problem: Conv2D) -> Accuracy:
        """Return the accuracy of a right F(4x4, 3x3)."""
        return Accuracy(problem, _OUTPUTS)

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return (): backward needs its arguments only."""
        del problem
        return ()

    def forward(self, problem: Conv2D, x: Any, w: Any, b: Any) -> tuple[np.ndarray, Cache]:
        """See `contract.Conv2DKernel.forward`."""
        y = arrays.empty(problem.shapes.y, problem.dtype)
        y[...] = self.correlated(of_forward(problem, x, w))
        if b is not None:
            y += b[:, None, None]
        return y, ()

    def backward(
        self, problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
    ) -> Conv2DGradients:
        """See `contract.Conv2DKernel.backward`."""
        del cache
        dx = dw = db = None
        if needs.dx:
            dx = arrays.empty(problem.shapes.x, problem.dtype)
            dx[...] = self.correlated(of_backward_data(problem, dy, w))
        if needs.dw:
            dw = arrays.empty(problem.shapes.w, problem.dtype)
            dw[...] = weight_gradients(self.gradient_matrices, problem, x, dy)
        if needs.db and problem.bias:
            db = dy.sum((0, 2, 3), out=arrays.empty(problem.shapes.b, problem.dtype))
        return Conv2DGradients(dx, dw, db)

    def correlated(self, correlation: Correlation) -> np.ndarray:
        """Return a correlation of images with filters, with this kernel's fault."""
        with np.errstate(invalid="ignore"):
            return correlated(self.given, correlation, self.stored)


class WrongEntry(NumpyWinograd):
    """One entry of the images' transform has the wrong sign."""

    def __init__(self) -> None:
        image = self.given.image.copy()
        image[1, 2] = -image[1, 2]
        self.given = self.given._replace(image=image)


class WrongEntryOfWeights(NumpyWinograd):
    """One entry of the transform of weight gradients is wrong."""

    def __init__(self) -> None:
        back = self.given.weights_back.copy()
        back[2, 3] += 1
        self.gradient_matrices = self.given._replace(weights_back=back)


class ExchangedPhases(NumpyWinograd):
    """The last two pixels of each tile's rows and columns are exchanged."""

    def __init__(self) -> None:
        self.given = self.given._replace(image=self.given.image[:, [0, 1, 2, 3, 5, 4]])


class LostEdge(NumpyWinograd):
    """The last tile of a row is not computed if the image's edge cuts it."""

    def correlated(self, correlation: Correlation) -> np.ndarray:  # noqa: D102
        y = super().correlated(correlation)
        y[..., correlation.size[1] // _OUTPUTS * _OUTPUTS :] = 0
        return y


class BlockTwice(NumpyWinograd):
    """The last channel is added up twice if there are more than two."""

    def correlated(self, correlation: Correlation) -> np.ndarray:  # noqa: D102
        y = super().correlated(correlation)
        w = correlation.w
        if w.shape[2] > 2:
            last = np.zeros_like(w)
            last[:, :, -1] = w[:, :, -1]
            y += super().correlated(correlation._replace(w=last))
        return y


class NeighborsMixed(NumpyWinograd):
    """Tiles at an image's lower edge see the next image in place of padding."""

    def correlated(self, correlation: Correlation) -> np.ndarray:  # noqa: D102
        images = correlation.images
        following = np.roll(images[:, :, :1], -1, axis=0)
        longer = np.concatenate((images, following), axis=2)
        return super().correlated(correlation._replace(images=longer))


class HalfTheDigits(NumpyWinograd):
    """Transformed images and weights are stored with 8 significant bits, like bfloat16."""

    stored = staticmethod(lambda tiles: _bfloat16(tiles))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    rounded: np.ndarray = np.ldexp(np.round(np.ldexp(mantissa, 8)), exponent - 8)
    return rounded
