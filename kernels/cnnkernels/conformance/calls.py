"""A kernel call with its arrays in place; checks and timings use the same calls."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import numpy as np

from cnnkernels import arrays, contract
from cnnkernels.conformance.fills import Filled
from cnnkernels.contract import Array, Backend, Cache, Conv2D, Direction, Needs, Problem

NEEDS: dict[Direction, Needs] = {
    contract.BACKWARD_DATA: Needs(True, False, False),
    contract.BACKWARD_WEIGHTS: Needs(False, True, True),
    contract.BACKWARD: contract.ALL,
}
"""The gradients that each direction computes."""


class Call:
    """A problem on a backend, with inputs on the backend's device.

    Parameters
    ----------
    backend : Backend
        The backend to call.
    problem : Conv2D or MaxPool2D
        The problem to compute.
    inputs : Filled
        The inputs; copied, so that a kernel that overwrites them affects no other call.
    """

    NO_FACTORS: ClassVar = {"y": 1.0, "dx": 1.0, "dw": 1.0, "db": 1.0}
    """Factors of the results if no input is `scaled`."""

    def __init__(self, backend: Backend, problem: Problem, inputs: Filled) -> None:
        self.backend, self.problem = backend, problem
        self._host: dict[str, np.ndarray] = {"x": inputs.x, "dy": inputs.dy}
        if isinstance(problem, Conv2D):
            self._host["w"] = inputs.w
            if problem.bias:
                self._host["b"] = inputs.b
        self._placed: dict[str, Array] = {
            name: backend.arrays.put(_copy(array)) for name, array in self._host.items()
        }

    def forward(self) -> tuple[Array, Cache]:
        """Return y and the cache."""
        return self._forward(self._placed)

    def backward(self, cache: Cache, needs: Needs = contract.ALL) -> dict[str, Array | None]:
        """Return the gradients by name; None for those not needed."""
        gradients = self._backward(self._placed, cache, needs)
        if isinstance(self.problem, Conv2D):
            return dict(zip(("dx", "dw", "db"), gradients, strict=True))
        return {"dx": gradients}

    def timed(self, direction: Direction, cache: Cache) -> Callable[[], Any]:
        """Return the function to time: one contract call, then the wait for the device."""
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
        """Return the function to time with conversion from C-contiguous NCHW and back."""
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

    def results(self, direction: Direction, result: Any, from_nchw: bool) -> dict[str, np.ndarray]:
        """Return by name the arrays returned by a function of `timed` or `timed_from_nchw`."""
        if direction == contract.FORWARD:
            named = {"y": result if from_nchw else result[0]}
        elif not isinstance(self.problem, Conv2D):
            named = {"dx": result}
        else:
            wanted = zip(("dx", "dw", "db"), NEEDS.get(direction, contract.ALL), strict=True)
            names = [name for name, needed in wanted if needed]
            given = [gradient for gradient in result if gradient is not None]
            named = dict(zip(names, given, strict=False))  # without a bias there is no db, the last
        get = self.backend.arrays.get
        return named if from_nchw else {name: get(array) for name, array in named.items()}

    @contextlib.contextmanager
    def scaled(
        self, *, x: float = 1.0, w: float = 1.0, dy: float = 1.0, on_host: bool = False
    ) -> Iterator[dict[str, float]]:
        """Multiply inputs in place by powers of two inside the block.

        Parameters
        ----------
        x, w, dy : float
            Powers of two; the bias is scaled by x * w. Max-poolings ignore w.
        on_host : bool
            Whether to scale the inputs of `timed_from_nchw`, instead of those of `timed`.

        Yields
        ------
        dict of str to float
            The exact factors by which the results are multiplied.
        """
        arrays = self._arrays(on_host)
        w = w if isinstance(self.problem, Conv2D) else 1.0
        factors = {"x": x, "w": w, "b": x * w, "dy": dy}
        _multiply(arrays, factors)
        try:
            yield {"y": x * w, "dx": dy * w, "dw": dy * x, "db": dy}
        finally:
            _multiply(arrays, {name: 1 / factor for name, factor in factors.items()})

    def first_element(self, name: str) -> float | None:
        """Return the first element of an input; None if it is empty."""
        array = self._host[name]
        return float(array.flat[0]) if array.size else None

    def set_first_element(self, name: str, value: float, on_host: bool) -> None:
        """Set the first element of images or dy, unless the array is empty or immutable."""
        if self._host[name].size:
            with contextlib.suppress(TypeError):  # arrays of some libraries are immutable
                self._arrays(on_host)[name][0, 0, 0, 0] = value
            self.backend.arrays.synchronize()

    def _arrays(self, on_host: bool) -> dict[str, Array]:
        return self._host if on_host else self._placed

    def inputs(self) -> dict[str, np.ndarray]:
        """Return the current contents of the inputs."""
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


def _multiply(arrays: dict[str, Array], factors: dict[str, float]) -> None:
    for name, array in arrays.items():
        if factors[name] != 1:
            array *= factors[name]  # in place, if arrays are mutable
            arrays[name] = array


def _copy(array: np.ndarray) -> np.ndarray:
    """Return a copy aligned to a cache line, like the arrays that backends return."""
    copied = arrays.empty(array.shape, array.dtype.name)
    copied[...] = array
    return copied
