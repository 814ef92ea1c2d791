"""One short recipe a backend: which convolution, which pooling, which arrays.

A recipe imports what it needs when it is called, so that naming a backend costs nothing, and raises
`Unsupported` with the reason where it cannot run.
"""

from __future__ import annotations

import numpy as np

from cnnkernels.contract import Array, Backend, Unsupported


class NumpyArrays:
    """NumPy arrays, C-contiguous."""

    layout = "NCHW"

    def put(self, array: np.ndarray) -> np.ndarray:
        """Return the array itself, or a contiguous copy."""
        return np.ascontiguousarray(array)

    def get(self, array: Array) -> np.ndarray:
        """Return the array itself, or a contiguous copy."""
        return np.ascontiguousarray(array)

    def synchronize(self) -> None:
        """Return at once: NumPy and Numba on the CPU are done when they return."""


def naive() -> Backend:
    """Plain Python loops: the definition."""
    from cnnkernels.convolution import naive as convolution
    from cnnkernels.pooling import naive as pooling

    return Backend(
        name="naive",
        description="plain Python loops: the definition",
        convolution=convolution,
        pooling=pooling,
        arrays=NumpyArrays(),
        deterministic=True,
    )


def numpy() -> Backend:
    """im2col and matrix products; pooling by window views."""
    from cnnkernels.convolution import im2col
    from cnnkernels.pooling import windows

    return Backend(
        name="numpy",
        description="NumPy: im2col and a matrix product",
        convolution=im2col,
        pooling=windows,
        arrays=NumpyArrays(),
    )


def numba() -> Backend:
    """The definition's loops, compiled."""
    try:
        import numba  # noqa: F401  # its absence has to be told apart from a fault of ours
    except ImportError as error:
        raise Unsupported(f"Numba is not installed here ({error})") from None
    from cnnkernels.convolution import numba_direct as convolution
    from cnnkernels.pooling import numba_direct as pooling

    return Backend(
        name="numba",
        description="Numba: the definition's loops, compiled, in threads",
        convolution=convolution,
        pooling=pooling,
        arrays=NumpyArrays(),
        deterministic=True,
    )
