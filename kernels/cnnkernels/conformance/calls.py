"""A kernel with its arrays in place: what is checked is also what is timed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from cnnkernels import contract
from cnnkernels.conformance.fills import Filled
from cnnkernels.contract import Array, Backend, Cache, Conv2D, Direction, Needs, Problem

NEEDS: dict[Direction, Needs] = {
    contract.BACKWARD_DATA: Needs(True, False, False),
    contract.BACKWARD_WEIGHTS: Needs(False, True, True),
    contract.BACKWARD: contract.ALL,
}
"""The gradients that a direction stands for."""


class Call:
    """A problem on a backend, its inputs where the backend computes.

    Parameters
    ----------
    backend : Backend
        Whose kernel and arrays.
    problem : Conv2D or MaxPool2D
        What is computed.
    inputs : Filled
        On what; copied, so that a kernel that writes to its inputs spoils nobody else's.
    """

    def __init__(self, backend: Backend, problem: Problem, inputs: Filled) -> None:
        self.backend, self.problem = backend, problem
        self._host = {"x": inputs.x, "dy": inputs.dy}
        if isinstance(problem, Conv2D):
            self._host["w"] = inputs.w
            if problem.bias:
                self._host["b"] = inputs.b
        self._placed = {
            name: backend.arrays.put(_copy(array)) for name, array in self._host.items()
        }

    def forward(self) -> tuple[Array, Cache]:
        """Return y and the cache."""
        return self._forward(self._placed)

    def backward(self, cache: Cache, needs: Needs = contract.ALL) -> dict[str, Array | None]:
        """Return the gradients by name, None where they were not needed."""
        gradients = self._backward(self._placed, cache, needs)
        if isinstance(self.problem, Conv2D):
            return dict(zip(("dx", "dw", "db"), gradients, strict=True))
        return {"dx": gradients}

    def timed(self, direction: Direction, cache: Cache) -> Callable[[], Any]:
        """Return what a clock may run: one contract call, and the wait until it is done."""
        synchronize = self.backend.arrays.synchronize
        needs = NEEDS.get(direction, contract.ALL)
        problem, placed = self.problem, self._placed
        arguments: tuple[Any, ...]
        if isinstance(problem, Conv2D):
            if direction == contract.FORWARD:
                function: Callable[..., Any] = self.backend.convolution.forward
                arguments = (problem, placed["x"], placed["w"], placed.get("b"))
            else:
                function = self.backend.convolution.backward
                arguments = (problem, placed["dy"], placed["x"], placed["w"], cache, needs)
        elif direction == contract.FORWARD:
            function, arguments = self.backend.pooling.forward, (problem, placed["x"])
        else:
            function, arguments = self.backend.pooling.backward, (problem, placed["dy"], cache)

        def once() -> Any:
            result = function(*arguments)
            synchronize()
            return result

        return once

    def timed_from_nchw(self, direction: Direction, cache: Cache) -> Callable[[], Any]:
        """Return the same from C-contiguous NCHW and back, for a backend of another layout."""
        read = {
            contract.FORWARD: ("x", "w", "b"),
            contract.BACKWARD_DATA: ("dy", "w"),
            contract.BACKWARD_WEIGHTS: ("dy", "x"),
            contract.BACKWARD: ("dy", "x", "w"),
        }[direction]
        put, get = self.backend.arrays.put, self.backend.arrays.get
        needs = NEEDS.get(direction, contract.ALL)
        names = [name for name in read if name in self._host]

        def once() -> Any:
            arrays = {**self._placed, **{name: put(self._host[name]) for name in names}}
            if direction == contract.FORWARD:
                return get(self._forward(arrays)[0])
            gradients = self._backward(arrays, cache, needs)
            if not isinstance(self.problem, Conv2D):
                return get(gradients)
            return [get(gradient) for gradient in gradients if gradient is not None]

        return once

    def inputs(self) -> dict[str, np.ndarray]:
        """Return what the inputs hold now."""
        return {name: self.backend.arrays.get(array) for name, array in self._placed.items()}

    def _forward(self, arrays: dict[str, Array]) -> tuple[Array, Cache]:
        if isinstance(self.problem, Conv2D):
            kernel = self.backend.convolution
            return kernel.forward(self.problem, arrays["x"], arrays["w"], arrays.get("b"))
        return self.backend.pooling.forward(self.problem, arrays["x"])

    def _backward(self, arrays: dict[str, Array], cache: Cache, needs: Needs) -> Any:
        if isinstance(self.problem, Conv2D):
            return self.backend.convolution.backward(
                self.problem, arrays["dy"], arrays["x"], arrays["w"], cache, needs
            )
        return self.backend.pooling.backward(self.problem, arrays["dy"], cache)


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy that begins with a cache line, as what backends return does."""
    copied = contract.empty(array.shape, array.dtype.name)
    copied[...] = array
    return copied
