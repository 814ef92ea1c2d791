"""The cache of blockings, and the memory limit of a call.

For each geometry a kernel computes once how to divide its work: its blocking, with index tables for
its loops. All blockings of a process share one budget of bytes, so that images and batches of ever
new sizes do not fill the memory: see `Store`.

Besides its arrays, a call uses tables and scratch memory in proportion to them: see `allowed`.
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
"""Maximum bytes of all cached blockings of a process."""

_SMALL = 16 * 1024 * 1024
"""Bytes that every call may use, a few times the size of a processor's L2 cache."""

_OBJECT = 1024
"""Approximate bytes of a problem, a blocking or a function without its arrays."""


def allowed(arrays: int) -> int:
    """Return the byte limit for a call's tables plus a thread's scratch memory.

    It is four times the bytes of the call's arrays, at least `_SMALL`. If a driver would need
    more, another one that needs less is used.
    """
    return max(_SMALL, 4 * arrays)


def weigh(value: object) -> int:
    """Return the approximate bytes of a value: its arrays and the objects around them."""
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
    """A cache of function results by key, with a budget of bytes.

    The budget limits the sum of `weigh` over the keys and values of all functions. A value above
    the budget is returned but not cached. Callers hold references to the values they use, so
    eviction does not affect them.

    Values are young or old. When the young ones exceed half the budget, they all become old; an old
    value that is requested becomes young again. If a new value does not fit, the values that have
    been old for longest are evicted. So evicted values have not been used for long, and looking up
    a young value is a plain dictionary access, without counting or locking.

    Parameters
    ----------
    budget : int
        The limit in bytes.
    """

    def __init__(self, budget: int) -> None:
        self.budget = budget
        self.weight = 0
        """Bytes of all cached values, as counted by `weigh`."""
        self._young = 0
        self._tables: list[_Table] = []
        self._old: dict[tuple[int, Any], tuple[Any, int]] = {}
        self._lock = threading.RLock()  # reentrant, for signal handlers and finalizers that compute

    def cached(self, make: Callable[[Key], Value]) -> Callable[[Key], Value]:
        """Return a cached version of a function of one key.

        Threads that request the same value at once may each compute it, but get the same one.
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
        """Return the value of a key that is not young: an old one, or a new one."""
        table = self._tables[number]
        with self._lock:
            if self._is_young(number, key):
                return table[key]
        value = make(key)
        weight = weigh(key) + weigh(value)
        with self._lock:
            if self._is_young(number, key):  # another thread has added it
                return table[key]
            if weight <= self.budget:
                self._drop(self.weight + weight - self.budget)
                self._add(number, key, value, weight)
                self.weight += weight
                if self._young > self.budget // 2:
                    self._age()
        return value

    def _is_young(self, number: int, key: Any) -> bool:
        """Make an old value young; return whether the key now has a young value."""
        if (number, key) in self._old:
            self._add(number, key, *self._old.pop((number, key)))
        return key in self._tables[number]

    def _add(self, number: int, key: Any, value: Any, weight: int) -> None:
        """Add a young value."""
        table = self._tables[number]
        table[key], table.weights[key] = value, weight
        self._young += weight

    def _age(self) -> None:
        """Make all young values old."""
        for number, table in enumerate(self._tables):
            for key, value in table.items():
                self._old[number, key] = value, table.weights[key]
            table.clear()
            table.weights.clear()
        self._young = 0

    def _drop(self, excess: int) -> None:
        """Evict values, those old for longest first, until `excess` bytes are freed."""
        if excess > self.weight - self._young:
            self._age()
        while excess > 0:
            _, weight = self._old.pop(next(iter(self._old)))
            self.weight -= weight
            excess -= weight


class _Table(dict[Any, Any]):
    """The young values of one function by key; other keys are passed to `find`."""

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
    """Return the first key equal to this one, among about the last thousand.

    A dictionary finds an identical key without comparing it, and comparing problems takes longer
    than a lookup.
    """
    first: Key = _first_equal(key)
    return first


BLOCKINGS = Store(BUDGET)
"""The cache of this process's blockings."""
