"""Deliberately broken Winograd kernels, with the accuracy that a right F(4x4, 3x3) declares.

Each is F(4x4, 3x3) in NumPy with one fault; other problems than 3x3 of stride 1 are computed by
im2col. A right one is here too: the checks must let it pass.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkernels import contract
from cnnkernels.contract import Cache, Conv2D, Conv2DGradients, Needs
from cnnkernels.convolution import im2col
from cnnkernels.winograd.accuracy import Accuracy
from cnnkernels.winograd.algorithm import Matrices, correlated, matrices, weight_gradients
from cnnkernels.winograd.transforms import TAPS

_OUTPUTS = 4


class NumpyWinograd:
    """F(4x4, 3x3) in NumPy; the methods below `backward` are what faults replace."""

    given: Matrices = matrices(_OUTPUTS)
    gradient_matrices: Matrices = matrices(_OUTPUTS)
    stored: Callable[[np.ndarray], np.ndarray] = staticmethod(np.asarray)

    unsupported = staticmethod(im2col.unsupported)
    cache_spec = staticmethod(im2col.cache_spec)

    def accuracy(self, problem: Conv2D) -> Accuracy | None:
        """Return F(4x4, 3x3)'s accuracy where the algorithm is used."""
        return Accuracy(problem, _OUTPUTS) if _applies(problem) else None

    def forward(self, problem: Conv2D, x: Any, w: Any, b: Any) -> tuple[np.ndarray, Cache]:
        """See `contract.Conv2DKernel.forward`."""
        y, cache = im2col.forward(problem, x, w, b)
        if _applies(problem):
            groups = w.reshape(problem.groups, -1, *w.shape[1:])
            (top, _), (left, _) = problem.padding
            y[...] = self.correlated(x, groups, (top, left), y.shape[2:])
            if b is not None:
                y += b[:, None, None]
        return y, cache

    def backward(
        self, problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
    ) -> Conv2DGradients:
        """See `contract.Conv2DKernel.backward`."""
        gradients = im2col.backward(problem, dy, x, w, cache, needs)
        if not _applies(problem):
            return gradients
        (top, _), (left, _) = problem.padding
        if gradients.dx is not None:
            turned = w.reshape(problem.groups, -1, *w.shape[1:]).swapaxes(1, 2)[..., ::-1, ::-1]
            around = (TAPS - 1 - top, TAPS - 1 - left)
            gradients.dx[...] = self.correlated(dy, turned, around, x.shape[2:])
        if gradients.dw is not None:
            gradients.dw[...] = weight_gradients(
                self.gradient_matrices, x, dy, problem.groups, (top, left)
            )
        return gradients

    def correlated(
        self, images: np.ndarray, w: np.ndarray, padding: tuple[int, int], size: tuple[int, ...]
    ) -> np.ndarray:
        """Return the correlation of images with filters, with this kernel's fault."""
        with np.errstate(invalid="ignore"):
            return correlated(self.given, images, w, padding, size, self.stored)


def _applies(problem: Conv2D) -> bool:
    return problem.kernel_size == (TAPS, TAPS) and problem.stride == problem.dilation == (1, 1)


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

    def correlated(  # noqa: D102
        self, images: np.ndarray, w: np.ndarray, padding: tuple[int, int], size: tuple[int, ...]
    ) -> np.ndarray:
        y = super().correlated(images, w, padding, size)
        y[..., size[1] // _OUTPUTS * _OUTPUTS :] = 0
        return y


class BlockTwice(NumpyWinograd):
    """The last channel is added up twice if there are more than two."""

    def correlated(  # noqa: D102
        self, images: np.ndarray, w: np.ndarray, padding: tuple[int, int], size: tuple[int, ...]
    ) -> np.ndarray:
        y = super().correlated(images, w, padding, size)
        if w.shape[2] > 2:
            last = np.zeros_like(w)
            last[:, :, -1] = w[:, :, -1]
            y += super().correlated(images, last, padding, size)
        return y


class NeighborsMixed(NumpyWinograd):
    """Tiles at an image's lower edge see the next image in place of padding."""

    def correlated(  # noqa: D102
        self, images: np.ndarray, w: np.ndarray, padding: tuple[int, int], size: tuple[int, ...]
    ) -> np.ndarray:
        following = np.roll(images[:, :, :1], -1, axis=0)
        return super().correlated(np.concatenate((images, following), axis=2), w, padding, size)


class HalfTheDigits(NumpyWinograd):
    """Transformed images and weights are stored with 8 significant bits, like bfloat16."""

    stored = staticmethod(lambda tiles: _bfloat16(tiles))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    mantissa, exponent = np.frexp(values)
    rounded: np.ndarray = np.ldexp(np.round(np.ldexp(mantissa, 8)), exponent - 8)
    return rounded
