"""Checks of gradients against forward: finite differences and the adjoint identity."""

from __future__ import annotations

import numpy as np

from cnnkernels.contract import Backend, Conv2D


def finite_difference_error(
    backend: Backend, problem: Conv2D, probes: int = 20, step: float = 1e-3
) -> float:
    """Return the largest relative error of dx, dw and db against central differences.

    Convolution is linear in each argument, so central differences are exact up to rounding. Expect
    about 1e-10 for a float64 problem.

    Parameters
    ----------
    backend : Backend
        The backend to check.
    problem : Conv2D
        A float64 problem; in float32 rounding swamps the difference.
    probes : int
        Number of random elements tested in each argument.
    step : float
        Half the distance between the two points of a difference.
    """
    arguments, dy = _random(problem)
    put, get = backend.arrays.put, backend.arrays.get

    def objective() -> float:
        x, w, b = (None if a is None else put(a.copy()) for a in arguments)
        y, _ = backend.convolution.forward(problem, x, w, b)
        return float(np.sum(get(y) * dy))

    x, w, b = (None if a is None else put(a.copy()) for a in arguments)
    _, cache = backend.convolution.forward(problem, x, w, b)
    gradients = backend.convolution.backward(problem, put(dy.copy()), x, w, cache)
    random = np.random.default_rng(2)
    worst = 0.0
    for argument, gradient in zip(arguments, gradients, strict=True):
        if argument is None or not argument.size:
            continue
        analytic = get(gradient)
        for _ in range(probes):
            place = tuple(int(random.integers(size)) for size in argument.shape)
            kept = argument[place]
            argument[place] = kept + step
            above = objective()
            argument[place] = kept - step
            below = objective()
            argument[place] = kept
            numeric = (above - below) / (2 * step)
            size = abs(numeric) + abs(float(analytic[place])) + 1.0
            worst = max(worst, abs(numeric - float(analytic[place])) / size)
    return worst


def adjoint_error(backend: Backend, problem: Conv2D) -> float:
    """Return the relative difference between <conv(x, w), dy>, <x, dx> and <w, dw>.

    The three are equal in exact arithmetic, because dx and dw are adjoints of forward.
    """
    (x, w, b), dy = _random(problem)
    put, get = backend.arrays.put, backend.arrays.get
    bias = None if b is None else put(np.zeros_like(b))
    y, cache = backend.convolution.forward(problem, put(x), put(w), bias)
    gradients = backend.convolution.backward(problem, put(dy), put(x), put(w), cache)
    by_y = float(np.vdot(get(y).astype(float), dy))
    by_x = float(np.vdot(get(gradients.dx).astype(float), x))
    by_w = float(np.vdot(get(gradients.dw).astype(float), w))
    size = float(np.linalg.norm(get(y).ravel()) * np.linalg.norm(dy.ravel())) + 1.0
    return max(abs(by_y - by_x), abs(by_y - by_w)) / size


def _random(
    problem: Conv2D,
) -> tuple[tuple[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray]:
    random = np.random.default_rng(1)
    shapes = problem.shapes
    x, w, dy = (
        random.standard_normal(shape).astype(problem.dtype)
        for shape in (shapes.x, shapes.w, shapes.y)
    )
    b = random.standard_normal(shapes.b).astype(problem.dtype) if problem.bias else None
    return (x, w, b), dy
