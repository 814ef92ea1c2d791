"""Blockings that kernels keep between calls, and how much memory a call may take.

A kernel works out once for a geometry how to cut its work: its blocking, and tables of places that
its loops read. All blockings of a process share one budget of bytes, so that images and batches of
ever new sizes do not fill the memory: see `Store`.

Beside its arrays a call takes tables and scratch memory in proportion to them: see `allowed`.
"""

from __future__ import annotations

import dataclasses
import functools
import threading
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

Key = TypeVar("Key")
Value = TypeVar("Value")

BUDGET = 64 * 1024 * 1024
"""Bytes of all blockings that a process keeps, at the most."""

_SMALL = 16 * 1024 * 1024
"""Bytes that every call may take: a few times what the second cache of a processor holds."""

_OBJECT = 1024
"""Bytes that a problem, a blocking or a function takes beside its arrays, about."""


def allowed(arrays: int) -> int:
    """Return how many bytes the tables of a call and the scratch memory of a thread may take.

    Four times as many as its arrays have, or `_SMALL`. What would take more is computed in a way
    that takes less, whatever the geometry.
    """
    return max(_SMALL, 4 * arrays)


def weigh(value: object) -> int:
    """Return how many bytes a value takes, about: the arrays in it and the objects around them."""
    if isinstance(value, np.ndarray):
        return value.nbytes + _OBJECT // 4
    if isinstance(value, bytes):
        return len(value)
    if isinstance(value, tuple):
        return sum(map(weigh, value))
    if isinstance(value, functools.partial):
        return _OBJECT + weigh(value.args)
    if dataclasses.is_dataclass(value):
        return _OBJECT + sum(weigh(getattr(value, f.name)) for f in dataclasses.fields(value))
    return 0


class Store:
    """Values that functions have made, kept by key within a budget of bytes.

    What is bounded is the sum of `weigh` over the keys and values of all functions. A value that
    weighs more than the budget is handed out and not kept. Callers hold a value while they use it,
    so that dropping it here does not touch them.

    Values are young or old. Whenever the young ones weigh half of the budget they become old; an
    old one that is asked for becomes young again. Where a new value does not fit, those are dropped
    that have been old for longest. So what is dropped has not been used for long, and finding a
    young value takes no longer than looking it up in a dictionary: nothing is counted or locked.

    Parameters
    ----------
    budget : int
        Bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.weight = 0
        """Bytes that are kept, as `weigh` counts them."""
        self._young = 0
        self._tables: list[_Table] = []
        self._old: dict[tuple[int, Any], tuple[Any, int]] = {}
        self._lock = threading.RLock()  # a signal or a finalizer may compute, too

    def cached(self, make: Callable[[Key], Value]) -> Callable[[Key], Value]:
        """Return a function that makes the value of a key where the store has none.

        Threads that ask for the same value at once may each make it, and get the same one.
        """
        table = _Table(functools.partial(self._find, len(self._tables), make))
        self._tables.append(table)
        return table.__getitem__

    def __len__(self) -> int:
        return len(self._old) + sum(map(len, self._tables))

    def clear(self) -> None:
        """Drop all values."""
        with self._lock:
            self._drop(self.weight)

    def _find(self, number: int, make: Callable[[Any], Any], key: Any) -> Any:
        """Return the value that a function has for a key, where that is not young."""
        table = self._tables[number]
        with self._lock:
            if self._is_young(number, key):
                return table[key]
        value = make(key)
        weight = weigh(key) + weigh(value)
        with self._lock:
            if self._is_young(number, key):  # another thread has made it
                return table[key]
            if weight <= self.budget:
                self._drop(self.weight + weight - self.budget)
                self._add(number, key, value, weight)
                self.weight += weight
                if self._young > self.budget // 2:
                    self._age()
        return value

    def _is_young(self, number: int, key: Any) -> bool:
        """Return whether a value is young; an old one becomes so."""
        if (number, key) in self._old:
            self._add(number, key, *self._old.pop((number, key)))
        return key in self._tables[number]

    def _add(self, number: int, key: Any, value: Any, weight: int) -> None:
        """Let a value be young."""
        table = self._tables[number]
        table[key], table.weights[key] = value, weight
        self._young += weight

    def _age(self) -> None:
        """Let all young values be old."""
        for number, table in enumerate(self._tables):
            for key, value in table.items():
                self._old[number, key] = value, table.weights[key]
            table.clear()
            table.weights.clear()
        self._young = 0

    def _drop(self, excess: int) -> None:
        """Drop those that have been old for longest, until they weigh as much together."""
        if excess > self.weight - self._young:
            self._age()
        while excess > 0:
            _, weight = self._old.pop(next(iter(self._old)))
            self.weight -= weight
            excess -= weight


class _Table(dict[Any, Any]):
    """The young values of one function by key, and where others come from."""

    def __init__(self, find: Callable[[Any], Any]) -> None:
        super().__init__()
        self._find = find
        self.weights: dict[Any, int] = {}

    def __missing__(self, key: Any) -> Any:
        return self._find(key)


@functools.lru_cache(1024)
def _first_equal(value: Any) -> Any:
    return value


def first_equal(key: Key) -> Key:
    """Return the first key that is equal to this one, of the last some hundred.

    A dictionary finds a key that is the same object without comparing it, and problems take longer
    to compare than tables to be found.
    """
    first: Key = _first_equal(key)
    return first


BLOCKINGS = Store(BUDGET)
"""The blockings of this process."""
