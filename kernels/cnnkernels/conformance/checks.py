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
    absent,
    errors_over_bounds,
    filled,
    fills_of,
    untrusted,
)
from cnnkernels.contract import (
    Accuracy,
    ArraySpec,
    Backend,
    Cache,
    Conv2D,
    MaxPool2D,
    Needs,
    Problem,
    Unsupported,
    directions,
)

Outcome: TypeAlias = Literal["ok", "wrong", "failed", "unsupported"]


@dataclass(frozen=True)
class Algorithm:
    """An algorithm with an accuracy of its own, on one problem; values by direction.

    Attributes
    ----------
    name : str
        Such as 'F(4x4, 3x3)'.
    error_over_own_bound : dict
        The largest error, divided by the algorithm's own bound; above 1 is wrong.
    bound_ratio : dict
        The norm of the algorithm's bounds, divided by that of direct's bounds: how much larger its
        errors are to be expected.
    worst_bound_ratio : dict
        The largest ratio of an element's bound to direct's: how large an error can be.
    products : dict
        How many products it computes.
    """

    name: str
    error_over_own_bound: dict[str, float]
    bound_ratio: dict[str, float]
    worst_bound_ratio: dict[str, float]
    products: dict[str, int]


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
        By direction, the largest error on real numbers, divided by the bound of rounding in direct
        sums, in any order. Above 1 is wrong, unless the kernel declares another accuracy.
    algorithm : Algorithm or None
        The algorithm whose accuracy the kernel declares; None for direct sums.
    owner : str
        The backend whose kernel computes the problem: another one for a fallback.
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
    algorithm: Algorithm | None = None
    owner: str = ""

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
        accuracy = backend.accuracy(problem)
        for fill in fills_of(problem, accuracy):
            right = filled(problem, fill, folder, accuracy)
            _check_exact(backend, problem, fill, right, accuracy)
        right = filled(problem, "real", folder, accuracy)
        direct = right if accuracy is None else filled(problem, "real", folder)
        real = _check_real(backend, problem, right, direct, accuracy)
    except (Unsupported, TooLargeError) as error:
        return Check(name, descriptor, "unsupported", str(error))
    except _Broken as broken:
        return Check(name, descriptor, "wrong", str(broken))
    except Exception as error:
        return Check(name, descriptor, "failed", f"{type(error).__name__}: {error}")
    return Check(name, descriptor, "ok", owner=backend.owner(problem), **real)


def _check_exact(
    backend: Backend, problem: Problem, fill: str, right: Filled, accuracy: Accuracy | None
) -> None:
    """Check every rule on inputs for which the algorithm is exact, if there are any."""
    spoils = None if accuracy is None or fill != "nonfinite" else accuracy.reach
    doubt = untrusted(problem, right)
    if doubt:
        raise _Broken(f"not trusted: {doubt}")
    call = Call(backend, problem, right)
    before = {name: array.copy() for name, array in call.inputs().items()}
    fences = Fences()
    with arrays.allocating(fences):
        y, cache = call.forward()
        _check_array(backend, "y", y, problem.shapes.y, problem.dtype)
        _check_equal("y", backend.arrays.get(y), right.y, fill, spoils)
        _check_cache(backend, problem, cache)
        results = {"y": y}
        if fill != "nonfinite" or isinstance(problem, MaxPool2D):
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


def _check_equal(
    name: str, got: np.ndarray, expected: np.ndarray, fill: str, spoils: int | None = None
) -> None:
    """Check that results are the expected ones, if any are: an algorithm may be exact on others.

    With `spoils`, NaNs and infinities may stand for each other, and may spread by that many pixels
    in the same image.
    """
    if absent(expected) or np.array_equal(got, expected, equal_nan=True):
        return
    differs = ~((got == expected) | (np.isnan(got) & np.isnan(expected)))
    if spoils is not None:
        differs &= np.isfinite(got) | ~_around(~np.isfinite(expected), spoils)
        if not differs.any():
            return
    place = tuple(int(i) for i in np.argwhere(differs)[0])
    with np.errstate(invalid="ignore"):
        near = np.nanmax(np.abs(got - expected), where=differs, initial=0) < 0.5
    raise _Broken(
        f"{name}[{', '.join(map(str, place))}] is {got[place]:.9g}, not {expected[place]:.9g} "
        f"({np.count_nonzero(differs)} of {got.size} differ; {fill})"
        + (f"; {_DECLARE}" if near and fill.startswith("integers") else "")
    )


_DECLARE = (
    "direct sums of integers are exact; if the kernel has another algorithm, it must declare its "
    "accuracy: see cnnkernels/accuracy.py"
)


def _around(mask: np.ndarray, pixels: int) -> np.ndarray:
    """Return the elements up to some pixels away from those of a mask, along both axes."""
    for axis in (-2, -1):
        near = mask.copy()
        for away in range(1, min(pixels, mask.shape[axis] - 1) + 1):
            ahead, behind = (
                tuple(slice(None) if a != axis else part for a in range(-mask.ndim, 0))
                for part in (slice(away, None), slice(None, -away))
            )
            near[ahead] |= mask[behind]
            near[behind] |= mask[ahead]
        mask = near
    return mask


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
    backend: Backend, problem: Problem, right: Filled, direct: Filled, accuracy: Accuracy | None
) -> dict[str, Any]:
    """Check errors on real numbers against the algorithm's bounds; return the fields of `Check`.

    `right` has the algorithm's bounds, `direct` those of direct sums.
    """
    whose = "direct sums" if accuracy is None else accuracy.name
    call = Call(backend, problem, right)
    first = _results(backend, call)
    # The second run uses the same arrays with scaled contents: results must follow the contents.
    with call.scaled(x=2.0, w=4.0, dy=8.0) as factors:
        second = {name: got / factors[name] for name, got in _results(backend, call).items()}
    errors, own_errors, ratios, worst_ratios = {}, {}, {}, {}
    for name, got in first.items():
        expected = getattr(right, name)
        own, unit = (getattr(filled, f"{name}_bound") for filled in (right, direct))
        _require_within(name, got, expected, own, whose)
        changed = f"after its inputs were changed in place, {name}"
        _require_within(changed, second[name], expected, own, whose)
        errors[name] = errors_over_bounds(got, expected, unit).max(initial=0)
        own_errors[name] = errors_over_bounds(got, expected, own).max(initial=0)
        ratios[name] = np.linalg.norm(own) / (np.linalg.norm(unit) or 1)
        wider = np.divide(own, unit, out=np.ones_like(own), where=unit > 0)
        worst_ratios[name] = wider.max(initial=1)
    repeatable = all(np.array_equal(first[name], second[name]) for name in first)
    if backend.deterministic and not repeatable:
        raise _Broken("a second run gave other bits, although the backend promises the same")
    digest = hashlib.sha256()
    for got in first.values():
        digest.update(got.tobytes())
    return {
        "error_over_bound": _by_direction(errors),
        "repeatable": repeatable,
        "digest": digest.hexdigest()[:16],
        "algorithm": accuracy
        and Algorithm(
            accuracy.name,
            _by_direction(own_errors),
            _by_direction(ratios),
            _by_direction(worst_ratios),
            {direction: accuracy.products(direction) for direction in directions(problem)},
        ),
    }


def _by_direction(largest: dict[str, Any]) -> dict[str, float]:
    """Return the largest value of the results of each direction, from that of each result."""
    of_results = {
        contract.FORWARD: ("y",),
        contract.BACKWARD_DATA: ("dx",),
        contract.BACKWARD_WEIGHTS: ("dw", "db"),
        contract.BACKWARD: ("dx", "dw", "db"),
    }
    if "dw" not in largest:
        of_results = {contract.FORWARD: ("y",), contract.BACKWARD: ("dx",)}
    return {
        str(direction): max(float(largest[name]) for name in names if name in largest)
        for direction, names in of_results.items()
    }


def _results(backend: Backend, call: Call) -> dict[str, np.ndarray]:
    y, cache = call.forward()
    arrays = {"y": y, **call.backward(cache)}
    return {name: backend.arrays.get(a).copy() for name, a in arrays.items() if a is not None}


def _require_within(
    name: str, got: np.ndarray, expected: np.ndarray, bound: np.ndarray, whose: str
) -> None:
    if not got.size:
        return
    ratios = errors_over_bounds(got, expected, bound)
    worst = int(np.argmax(ratios))
    largest = float(ratios.flat[worst])
    if not largest <= 1:
        place = ", ".join(map(str, np.unravel_index(worst, got.shape)))
        raise _Broken(
            f"{name}[{place}] is {got.flat[worst]:.9g}, not {expected.flat[worst]:.9g}: "
            f"{largest:.3g} times the error that rounding can make in {whose}"
        )
