"""How large the numbers between inputs and results can be, and with them the error.

An element's error is at most gamma_n times its magnitude [1]_: what the algorithm gives if all
inputs, and all numbers of its transforms, are replaced by their absolute values. n is the number of
roundings on the longest way from an input to a result. The bound holds in any order of summation,
and nothing in it is tuned. Where inputs are such that all numbers in between are integers, results
are exact as long as magnitudes are integers that the type holds.

References
----------
.. [1] N. J. Higham, "Accuracy and Stability of Numerical Algorithms", 2nd ed., 2002, ch. 3.
"""

from __future__ import annotations

import numpy as np

from cnnkernels.accuracy import Result, rounding
from cnnkernels.contract import (
    BACKWARD,
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    Conv2D,
    Direction,
)
from cnnkernels.winograd.algorithm import (
    Matrices,
    correlated,
    matrices,
    of_backward_data,
    of_forward,
    tiles_along,
    weight_gradients,
)
from cnnkernels.winograd.transforms import TAPS


class Accuracy:
    """The accuracy of F(m x m, 3 x 3): a `cnnkernels.accuracy.Accuracy`.

    Parameters
    ----------
    problem : Conv2D
    outputs : int
        m.
    """

    def __init__(self, problem: Conv2D, outputs: int) -> None:
        self._problem = problem
        self._given = Matrices(*map(np.abs, matrices(outputs)))
        self.name = f"F({outputs}x{outputs}, {TAPS}x{TAPS})"
        self.integral: int | None = int(self._given.denominators.max()) ** 2
        self.reach = outputs - 1

    def bound(
        self, result: Result, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        """Return the bound of the error of each element of a result."""
        gamma = rounding(self._problem.dtype, self._roundings(result))
        return gamma * self.magnitude(result, x, w, b, dy)

    def magnitude(
        self, result: Result, x: np.ndarray, w: np.ndarray, b: np.ndarray, dy: np.ndarray
    ) -> np.ndarray:
        """Return the magnitude of each element of a result."""
        problem = self._problem
        if result == "dw":
            return weight_gradients(self._given, problem, _sizes(x), _sizes(dy))
        if result == "dx":
            return correlated(self._given, of_backward_data(problem, _sizes(dy), _sizes(w)))
        y = correlated(self._given, of_forward(problem, _sizes(x), _sizes(w)))
        return y + _sizes(b)[:, None, None] if b.size else y

    def products(self, direction: Direction) -> int:
        """Return how many products of tiles a direction computes."""
        problem = self._problem
        pairs = problem.batch * problem.out_channels * problem.in_channels // problem.groups
        of_y = self._tiles(problem.out_height, problem.out_width)
        of_x = self._tiles(problem.height, problem.width)
        count = {
            FORWARD: of_y, BACKWARD_WEIGHTS: of_y, BACKWARD_DATA: of_x, BACKWARD: of_x + of_y,
        }  # fmt: skip
        return len(self._given.image) ** 2 * pairs * count[direction]

    def _roundings(self, result: Result) -> int:
        """Return how many roundings there are on the longest way to an element of a result."""
        problem, given = self._problem, self._given
        divided = 2  # the factor of a division is rounded, and so is its result
        if result == "dw":
            transformed = _steps(given.image) + _steps(given.gradient) + _steps(given.weights_back)
            summed = problem.batch * self._tiles(problem.out_height, problem.out_width)
        else:
            transformed = _steps(given.image) + _steps(given.weights) + _steps(given.output)
            channels = problem.in_channels if result == "y" else problem.out_channels
            summed = channels // problem.groups + (problem.bias and result == "y")
        return summed + 2 * transformed + divided

    def _tiles(self, height: int, width: int) -> int:
        m = self._given.outputs
        return tiles_along(height, m) * tiles_along(width, m)


def _sizes(array: np.ndarray) -> np.ndarray:
    return np.abs(np.asarray(array, np.float64))


def _steps(matrix: np.ndarray) -> int:
    """Return how many roundings a product with a matrix takes, along one axis."""
    return int(np.count_nonzero(matrix, axis=1).max())
