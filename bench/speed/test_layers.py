"""Every backend on every layer of the history, by pytest-benchmark: `make speed`."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from asv_suite import cases, reference, session


@functools.lru_cache(maxsize=1)
def _right(case: str) -> session.Arrays:
    return session.expected_of(case)


@functools.lru_cache(maxsize=1)
def _prepared(case: str, backend: str) -> session.Prepared:
    return session.Prepared(case, backend)


_CASES = [
    case if case in cases.DIGITS else pytest.param(case, marks=pytest.mark.slow)
    for case in cases.CASES
]

_BACKENDS = [
    pytest.param(backend, marks=pytest.mark.slow) if backend == "naive" else backend
    for backend in cases.BACKENDS
]


@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize("backend", _BACKENDS)
@pytest.mark.parametrize("case", _CASES)
def test_layer(benchmark: Any, case: str, backend: str, direction: str) -> None:
    """Time a call, and compare its result with the reference."""
    if (case, backend) in cases.TOO_SLOW:
        pytest.skip("Python's loops would take minutes")
    try:
        prepared = _prepared(case, backend)
    except NotImplementedError as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{case} {direction}"
    result = benchmark(getattr(prepared, direction))
    error = reference.error_over_bound(_right(case), prepared.named(direction, result))
    benchmark.extra_info["error over bound"] = error
    assert error <= 1.0
