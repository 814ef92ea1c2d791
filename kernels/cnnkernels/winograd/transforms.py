"""Winograd's transforms, generated from interpolation points in rational arithmetic.

F(m, r) computes m outputs of a filter with r taps by t = m + r - 1 products [1]_ [2]_::

    y = A^T [(G g) * (B^T d)]

with t inputs d and r weights g. The matrices follow from t - 1 points and the point at infinity, by
Toom and Cook's construction. Two axes are transformed one after the other. Rows of G share a
denominator each, which is kept apart: the other numbers are small integers if the points are, and
the arithmetic on integers is then exact.

The gradient of the weights is F(r, m) of the same points: its inputs are transformed by the same
B^T, its m gradients by the same evaluation at the points.

References
----------
.. [1] S. Winograd, "Arithmetic Complexity of Computations", 1980.
.. [2] A. Lavin, S. Gray, "Fast Algorithms for Convolutional Neural Networks", 2015,
   arXiv:1509.09308.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

Matrix = tuple[tuple[Fraction, ...], ...]
"""Rows of numbers."""

TAPS = 3
"""Taps of a filter along an axis."""

POINTS = {2: (0, 1, -1), 4: (0, 1, -1, 2, -2)}
"""Finite interpolation points, by the outputs of a tile along an axis."""


@dataclass(frozen=True)
class Transforms:
    """The matrices of F(m, 3), and of the gradient of its weights.

    Attributes
    ----------
    image : (t, t)
        B^T: transforms t pixels.
    weights : (t, 3)
        G without its denominators.
    output : (m, t)
        A^T: transforms t sums to m outputs.
    gradient : (t, m)
        Transforms m gradients of outputs, without denominators.
    weights_back : (3, t)
        Transforms t sums to gradients of the 3 weights.
    denominators : (t,)
        By which products are divided, once along each axis.
    """

    image: Matrix
    weights: Matrix
    output: Matrix
    gradient: Matrix
    weights_back: Matrix
    denominators: tuple[Fraction, ...]


@functools.cache
def transforms(outputs: int) -> Transforms:
    """Return the matrices of F(outputs, 3)."""
    points = [Fraction(point) for point in POINTS[outputs]]
    size = outputs + TAPS - 1
    image = [_product_of([p for p in points if p is not left_out]) for left_out in points]
    image.append(_product_of(points))
    rows = [(*row, *[Fraction(0)] * (size - len(row))) for row in image]
    denominators = [_at(row, point) for row, point in zip(rows, points, strict=False)]
    # A sign that moves from a denominator to the row of B^T leaves both matrices as small.
    signs = [Fraction(1 if d > 0 else -1) for d in denominators]
    rows[:-1] = [
        tuple(sign * value for value in row) for sign, row in zip(signs, rows, strict=False)
    ]
    return Transforms(
        image=tuple(rows),
        weights=_powers(points, TAPS),
        output=_transposed(_powers(points, outputs)),
        gradient=_powers(points, outputs),
        weights_back=_transposed(_powers(points, TAPS)),
        denominators=(*map(abs, denominators), Fraction(1)),
    )


def _product_of(points: Sequence[Fraction]) -> list[Fraction]:
    """Return the coefficients of the product of (x - point), the constant first."""
    coefficients = [Fraction(1)]
    for point in points:
        shifted = [Fraction(0), *coefficients]
        scaled = [*(-point * c for c in coefficients), Fraction(0)]
        coefficients = [a + b for a, b in zip(shifted, scaled, strict=True)]
    return coefficients


def _at(coefficients: Sequence[Fraction], point: Fraction) -> Fraction:
    return sum((c * point**power for power, c in enumerate(coefficients)), Fraction(0))


def _powers(points: Sequence[Fraction], count: int) -> Matrix:
    """Return the rows (1, point, point^2, ...); that of infinity has the highest power alone."""
    rows = [tuple(point**power for power in range(count)) for point in points]
    return (*rows, (*[Fraction(0)] * (count - 1), Fraction(1)))


def _transposed(matrix: Matrix) -> Matrix:
    return tuple(zip(*matrix, strict=True))
