"""Timed calls on inputs that change, so that the result of an earlier call is a wrong one.

The same call again and again is what a clock needs, and the fastest way to answer it is to give the
last result once more. So inputs change in place: one element before every call, and all elements by
powers of two before a series of calls, whose last result is checked. A power of two scales every
product and sum exactly, so that the right results are known, whatever the algorithm.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from cnnkernels.conformance.calls import Call
from cnnkernels.conformance.fills import Filled, errors_over_bounds
from cnnkernels.contract import FORWARD, Cache, Direction

_SPOTS = 4096
"""Elements of a result that are checked; all of a small one."""


class WrongResult(Exception):
    """A timed call gave a wrong result; the message says which, and where."""


@dataclass(frozen=True)
class Spots:
    """What is right at some places of a result, and how far rounding may miss it.

    Attributes
    ----------
    places : np.ndarray, (spots,)
        Indices into the flat result.
    expected, bounds : np.ndarray, (spots,)
    """

    places: np.ndarray
    expected: np.ndarray
    bounds: np.ndarray


def spots_of(right: Filled) -> dict[str, Spots]:
    """Return some spots of each result of a 'real' fill, chosen anew each time."""
    random = np.random.default_rng()
    spots = {}
    for name in ("y", "dx", "dw", "db"):
        expected, bounds = getattr(right, name), getattr(right, f"{name}_bound")
        if expected.size:
            places = random.choice(expected.size, min(_SPOTS, expected.size), replace=False)
            spots[name] = Spots(places, expected.flat[places], bounds.flat[places])
    return spots


class ChangingCall:
    """A direction of a call, to be timed on inputs that change.

    Parameters
    ----------
    call : Call
    direction : str
    cache : tuple of arrays
        As forward left it; it stays right, because a backward direction changes dy alone.
    spots : dict of str to Spots
        What is right of the call's inputs as they are.
    from_nchw : bool
        Whether arrays are converted from C-contiguous NCHW and back.
    """

    def __init__(
        self,
        call: Call,
        direction: Direction,
        cache: Cache,
        spots: dict[str, Spots],
        from_nchw: bool,
    ) -> None:
        self._call, self._direction, self._cache = call, direction, cache
        self._spots, self._from_nchw = spots, from_nchw
        self._input = "x" if direction == FORWARD else "dy"
        self._first = call.first_element(self._input)
        self._scale = 1.0
        self._factors = call.NO_FACTORS
        self._changes = 0

    def function(self) -> Callable[[], Any]:
        """Return the function that a clock runs, for the inputs as they are now."""
        if self._from_nchw:
            return self._call.timed_from_nchw(self._direction, self._cache)
        return self._call.timed(self._direction, self._cache)

    @contextlib.contextmanager
    def scaled(self) -> Iterator[None]:
        """Multiply inputs by powers of two inside the block, and by others the next time."""
        one, other = (float(2**exponent) for exponent in np.random.default_rng().integers(1, 5, 2))
        how = {"x": one, "w": other} if self._direction == FORWARD else {"dy": one}
        with self._call.scaled(on_host=self._from_nchw, **how) as factors:
            self._scale, self._factors = one, factors
            try:
                yield
            finally:
                self._scale, self._factors = 1.0, self._call.NO_FACTORS

    def change(self) -> None:
        """Set the first element of the images, or of dy, to a number that it never had."""
        self._changes += 1
        self._call.set_first_element(self._input, self._changes, self._from_nchw)

    def restore(self) -> None:
        """Undo the changes."""
        if self._first is not None:
            self._call.set_first_element(self._input, self._first * self._scale, self._from_nchw)

    def require_right(self, result: Any) -> None:
        """Check some elements of the last call's result.

        Raises
        ------
        WrongResult
            If one is off by more than rounding can make.
        """
        arrays = self._call.results(self._direction, result, self._from_nchw)
        for name, array in arrays.items():
            if name not in self._spots:  # empty
                continue
            spots, factor = self._spots[name], self._factors[name]
            got = array.flat[spots.places]
            ratios = errors_over_bounds(got, spots.expected * factor, spots.bounds * factor)
            worst = int(np.argmax(ratios))
            if not ratios[worst] <= 1:
                raise WrongResult(
                    f"a timed call gave {got[worst]:.9g} as an element of {name}, not "
                    f"{spots.expected[worst] * factor:.9g}: its inputs had changed, and its result "
                    "did not follow"
                )
