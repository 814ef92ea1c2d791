"""How a convolution algorithm declares its accuracy.

Direct sums of products need no declaration: each element's error is at most `rounding` times the
same sum of absolute values. An algorithm with other intermediate numbers, such as Winograd's or
one by Fourier transforms, declares an `Accuracy`.
"""

from __future__ import annotations

from typing import Literal, Protocol, TypeAlias

import numpy as np

from cnnkernels.problem import Direction

Result: TypeAlias = Literal["y", "dx", "dw"]
"""A result of a convolution: its output, or the gradient of its images or weights."""


def rounding(dtype: str, terms: int) -> float:
    """Return gamma_n, the bound of the relative error of n roundings in any order.

    This bound is Higham's [1]_, doubled for float64, because the reference rounds too.

    References
    ----------
    .. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, ch. 3.
    """
    unit = float(np.finfo(dtype).eps) / 2
    return (2 if dtype == "float64" else 1) * terms * unit / (1 - terms * unit)


class Accuracy(Protocol):
    """The error and the products of a convolution algorithm other than direct sums.

    A kernel declares it by a function ``accuracy(problem)``. Without one, or where it returns None,
    results are held to the error of direct sums, and must be exact on small integers.
    """

    name: str
    """The algorithm's name, for messages: 'F(4x4, 3x3)'."""

    integral: int | None
    """The number whose multiples make every intermediate number an integer.

    Forward and backward-data are exact if weights are multiples of it and the other inputs
    integers; backward-weights if dy is. None if the algorithm is exact on no inputs.
    """

    reach: int
    """How many pixels a NaN or an infinity spreads beyond direct's results, along each axis."""

    def bound(
        self, result: Result, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        """Return a proven bound of the error of each element of a result, float64.

        Without a bias, b is empty.
        """
        ...

    def magnitude(
        self, result: Result, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        """Return a bound of the intermediate numbers of each element of a result, float64.

        Integers are exact as long as the type holds them exactly. Only called if `integral` is not
        None.
        """
        ...

    def products(self, direction: Direction) -> int:
        """Return how many products a direction computes: half its floating-point operations."""
        ...
