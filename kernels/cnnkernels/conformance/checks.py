"""Checks one backend on one problem: every direction and every rule of the contract.

The first broken rule ends the check and becomes its reason. A check that passes also reports the
backend's accuracy, and whether it is bit-reproducible.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from cnnkernels import arrays, contract
from cnnkernels.conformance.calls import Call
from cnnkernels.conformance.fences import Fences
from cnnkernels.conformance.fills import (
    Filled,
    TooLargeError,
    errors_over_bounds,
    filled,
    fills_of,
    untrusted,
)
from cnnkernels.contract import (
    ArraySpec,
    Backend,
    Cache,
    Conv2D,
    MaxPool2D,
    Needs,
    Problem,
    Unsupported,
)

Outcome: TypeAlias = Literal["ok", "wrong", "failed", "unsupported"]


@dataclass(frozen=True)
class Check:
    """The result of a check.

    Attributes
    ----------
    backend, problem : str
        The backend's name, and the canonical descriptor of the problem.
    outcome : str
        'ok', 'wrong' (broke a rule), 'failed' (raised an error) or 'unsupported'.
    reason : str
        The reason if the outcome is not 'ok', else empty.
    error_over_bound : dict
        By direction, the largest error on real numbers, divided by the bound of rounding in any
        order of summation; above 1 is wrong.
    repeatable : bool or None
        Whether a second run gave the same bits; None if the check ended earlier.
    digest : str
        Hash of the results on real numbers; equal for bit-identical results.
    """

    backend: str
    problem: str
    outcome: Outcome
    reason: str = ""
    error_over_bound: dict[str, float] = field(default_factory=dict)
    repeatable: bool | None = None
    digest: str = ""

    def require(self) -> None:
        """Raise AssertionError, with the reason, unless the outcome is 'ok'."""
        if self.outcome != "ok":
            raise AssertionError(f"{self.backend} on {self.problem}: {self.outcome}: {self.reason}")


class _Broken(Exception):
    """A rule of the contract is broken; the message says which one and where."""


def check(backend: Backend, problem: Problem, folder: Path | None = None) -> Check:
    """Check a backend against every rule of the contract on one problem.

    Parameters
    ----------
    backend : Backend
        The backend to check.
    problem : Conv2D or MaxPool2D
        The problem to check it on.
    folder : path, optional
        Cache folder for inputs and expected results, shared by checks of several backends.
    """
    name, descriptor = backend.name, str(problem)
    try:
        reason = backend.unsupported(problem)
        if reason is not None:
            return Check(name, descriptor, "unsupported", reason)
        for fill in fills_of(problem):
            _check_exact(backend, problem, fill, filled(problem, fill, folder))
        errors, repeatable, digest = _check_real(backend, problem, filled(problem, "real", folder))
    except (Unsupported, TooLargeError) as error:
        return Check(name, descriptor, "unsupported", str(error))
    except _Broken as broken:
        return Check(name, descriptor, "wrong", str(broken))
    except Exception as error:
        return Check(name, descriptor, "failed", f"{type(error).__name__}: {error}")
    return Check(name, descriptor, "ok", "", errors, repeatable, digest)


def _check_exact(backend: Backend, problem: Problem, fill: str, right: Filled) -> None:
    doubt = untrusted(problem, right)
    if doubt:
        raise _Broken(f"not trusted: {doubt}")
    call = Call(backend, problem, right)
    before = {name: array.copy() for name, array in call.inputs().items()}
    fences = Fences()
    with arrays.allocating(fences):
        y, cache = call.forward()
        _check_array(backend, "y", y, problem.shapes.y, problem.dtype)
        _check_equal("y", backend.arrays.get(y), right.y, fill)
        _check_cache(backend, problem, cache)
        results = {"y": y}
        if right.dx.ndim == right.x.ndim:
            results |= _check_gradients(backend, call, cache, right, fill)
        kept = {name: backend.arrays.get(a).copy() for name, a in results.items()}
        again, _ = call.forward()
    for name, array in results.items():
        if not np.array_equal(backend.arrays.get(array), kept[name], equal_nan=True):
            raise _Broken(
                f"{name} of an earlier call changed in a later one: not freshly allocated"
            )
    _check_fresh(backend, {**results, "y (second call)": again}, call.inputs())
    for name, array in call.inputs().items():
        if not np.array_equal(array, before[name], equal_nan=True):
            raise _Broken(f"the input {name} was written to")
    trodden = fences.trodden()
    if trodden:
        raise _Broken(trodden)


def _check_gradients(
    backend: Backend, call: Call, cache: Cache, right: Filled, fill: str
) -> dict[str, Any]:
    """Check all gradients together, then each one requested alone."""
    problem = call.problem
    expected: dict[str, tuple[int, ...]] = {"dx": problem.shapes.x}
    if isinstance(problem, Conv2D):
        expected["dw"] = problem.shapes.w
        if problem.bias:
            expected["db"] = problem.shapes.b
    everything = call.backward(cache)
    _check_wanted(everything, expected)
    for name, shape in expected.items():
        _check_array(backend, name, everything[name], shape, problem.dtype)
        _check_equal(name, backend.arrays.get(everything[name]), getattr(right, name), fill)
    if isinstance(problem, Conv2D):
        for wanted in expected:
            alone = call.backward(cache, Needs(*(name == wanted for name in Needs._fields)))
            _check_wanted(alone, (wanted,))
            _check_array(backend, wanted, alone[wanted], expected[wanted], problem.dtype)
            _check_equal(
                wanted,
                backend.arrays.get(alone[wanted]),
                getattr(right, wanted),
                f"{fill}, asked for alone",
            )
    return {name: everything[name] for name in expected}


def _check_wanted(gradients: dict[str, Any], wanted: Iterable[str]) -> None:
    for name, gradient in gradients.items():
        if name in wanted and gradient is None:
            raise _Broken(f"{name} was asked for, and is None")
        if name not in wanted and gradient is not None:
            raise _Broken(f"{name} was not asked for, and is not None")


def _check_array(
    backend: Backend, name: str, array: Any, shape: tuple[int, ...], dtype: str
) -> None:
    native = backend.arrays.get(array)
    if native.shape != shape:
        raise _Broken(f"{name} has shape {native.shape}, not {shape}")
    if native.dtype.name != dtype:
        raise _Broken(f"{name} has dtype {native.dtype.name}, not {dtype}")
    if backend.arrays.layout == "NCHW" and isinstance(array, np.ndarray):
        if not array.flags.c_contiguous:
            raise _Broken(f"{name} is not C-contiguous")
        if not array.flags.writeable:
            raise _Broken(f"{name} is read-only")


def _check_cache(backend: Backend, problem: Problem, cache: Cache) -> None:
    declared: tuple[ArraySpec, ...]
    if isinstance(problem, Conv2D):
        declared = backend.convolution.cache_spec(problem)
    else:
        declared = backend.pooling.cache_spec(problem)
    found = tuple((native.shape, native.dtype.name) for native in map(backend.arrays.get, cache))
    if found != declared:
        raise _Broken(f"the cache holds {found}, and cache_spec says {declared}")


def _check_equal(name: str, got: np.ndarray, expected: np.ndarray, fill: str) -> None:
    if np.array_equal(got, expected, equal_nan=True):
        return
    differs = ~((got == expected) | (np.isnan(got) & np.isnan(expected)))
    place = tuple(int(i) for i in np.argwhere(differs)[0])
    raise _Broken(
        f"{name}[{', '.join(map(str, place))}] is {got[place]:.9g}, not {expected[place]:.9g} "
        f"({np.count_nonzero(differs)} of {got.size} differ; {fill})"
    )


def _check_fresh(backend: Backend, results: dict[str, Any], inputs: dict[str, np.ndarray]) -> None:
    """Reject results that share memory with each other or with an input."""
    natives = {name: backend.arrays.get(array) for name, array in results.items()} | inputs
    names = list(natives)
    for i, one in enumerate(names):
        for other in names[i + 1 :]:
            if one in inputs:
                continue
            if np.may_share_memory(natives[one], natives[other]):
                raise _Broken(f"{one} shares memory with {other}: not freshly allocated")


def _check_real(
    backend: Backend, problem: Problem, right: Filled
) -> tuple[dict[str, float], bool, str]:
    call = Call(backend, problem, right)
    first = _results(backend, call)
    # The second run uses the same arrays with scaled contents: results must follow the contents.
    with call.scaled(x=2.0, w=4.0, dy=8.0) as factors:
        second = {name: got / factors[name] for name, got in _results(backend, call).items()}
    ratios = {}
    for name, got in first.items():
        expected, bound = getattr(right, name), getattr(right, f"{name}_bound")
        ratios[name] = _error_over_bound(name, got, expected, bound)
        changed = f"after its inputs were changed in place, {name}"
        _error_over_bound(changed, second[name], expected, bound)
    repeatable = all(np.array_equal(first[name], second[name]) for name in first)
    if backend.deterministic and not repeatable:
        raise _Broken("a second run gave other bits, although the backend promises the same")
    digest = hashlib.sha256()
    for got in first.values():
        digest.update(got.tobytes())
    errors = {contract.FORWARD: ratios["y"]}
    if isinstance(problem, MaxPool2D):
        errors[contract.BACKWARD] = ratios["dx"]
    else:
        errors[contract.BACKWARD_DATA] = ratios["dx"]
        errors[contract.BACKWARD_WEIGHTS] = max(ratios["dw"], ratios.get("db", 0.0))
        errors[contract.BACKWARD] = max(ratios["dx"], errors[contract.BACKWARD_WEIGHTS])
    return {str(key): value for key, value in errors.items()}, repeatable, digest.hexdigest()[:16]


def _results(backend: Backend, call: Call) -> dict[str, np.ndarray]:
    y, cache = call.forward()
    arrays = {"y": y, **call.backward(cache)}
    return {name: backend.arrays.get(a).copy() for name, a in arrays.items() if a is not None}


def _error_over_bound(name: str, got: np.ndarray, expected: np.ndarray, bound: np.ndarray) -> float:
    if not got.size:
        return 0.0
    ratios = errors_over_bounds(got, expected, bound)
    worst = int(np.argmax(ratios))
    largest = float(ratios.flat[worst])
    if not largest <= 1:
        place = ", ".join(map(str, np.unravel_index(worst, got.shape)))
        raise _Broken(
            f"{name}[{place}] is {got.flat[worst]:.9g}, not {expected.flat[worst]:.9g}: "
            f"{largest:.3g} times the error that rounding can make"
        )
    return largest
