"""Statistics of batch normalization: the mean and variance of each channel, over all images.

PyTorch's kernels for contiguous images (aten/src/ATen/native/cpu/batch_norm_kernel.cpp) add one
pixel after another, each waiting for the one before. Here a vector of partial sums takes several
pixels at a time, so that memory limits the speed. Sums are float64, like PyTorch's.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from cnnkernels import parallel, records


class _Call(NamedTuple):
    """Arguments of the kernel."""

    x: np.ndarray
    """Pixels of all images."""
    moments: np.ndarray
    """float64, (2, channels): means and variances."""
    shares: int
    """Shares of the work."""
    images: int
    channels: int
    pixels: int
    """Pixels of a channel of one image."""


def statistics(x: np.ndarray, epsilon: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return each channel's mean and variance over all images, and the factor for deviations.

    Parameters
    ----------
    x : np.ndarray, (N, C, H, W)
        Images, float32 or float64, C-contiguous, with at least one pixel.
    epsilon : float
        Added to variances before division; positive.

    Returns
    -------
    mean, variance, factor : np.ndarray, (C,)
        Of the dtype of x. The variance is the mean square of deviations, without Bessel's
        correction; the factor is ``1 / sqrt(variance + epsilon)``.
    """
    images, channels, height, width = x.shape
    moments = np.empty((2, channels))
    shares = min(channels, 4 * parallel.threads())
    _moments(shares, x.dtype.name, _Call(x, moments, shares, images, channels, height * width))
    mean, variance = moments
    factor = 1.0 / np.sqrt(variance + epsilon)
    with np.errstate(over="ignore"):  # infinite, as in PyTorch
        return mean.astype(x.dtype), variance.astype(x.dtype), factor.astype(x.dtype)


@parallel.ParallelKernel
def _moments(number, words, like):  # type: ignore[no-untyped-def]
    """Set the means and variances of a share of the channels; whole channels, so bits repeat."""
    call = records.read(_Call, words)
    images, channels, pixels = call.images, call.channels, call.pixels
    x = records.array_at(call.x, like, (images, channels, pixels))
    moments = records.array_of(np.float64, call.moments, (2, channels))
    for channel in range(number * channels // call.shares, (number + 1) * channels // call.shares):
        total = 0.0
        for image in range(images):
            for pixel in range(pixels):
                total += np.float64(x[image, channel, pixel])
        mean = total / (images * pixels)
        squares = 0.0
        for image in range(images):
            for pixel in range(pixels):
                deviation = np.float64(x[image, channel, pixel]) - mean
                squares += deviation * deviation
        moments[0, channel] = mean
        moments[1, channel] = squares / (images * pixels)
