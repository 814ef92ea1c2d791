"""The backend that follows a plan: it passes each problem to the backend chosen for it."""

from __future__ import annotations

import numpy as np

from cnnkernels import plan as plans
from cnnkernels.accuracy import Accuracy
from cnnkernels.backends import NumpyArrays
from cnnkernels.contract import (
    ALL,
    Array,
    ArraySpec,
    Backend,
    Cache,
    Conv2D,
    Conv2DGradients,
    MaxPool2D,
    Needs,
    Problem,
    Unsupported,
)
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO


def backend(plan: Plan | None = None) -> Backend:
    """Return the backend that follows a plan; by default, the plan active at each call."""
    return Backend(
        name=AUTO,
        description="the plan's choice for each problem",
        convolution=_Convolution(plan),
        pooling=_Pooling(plan),
        arrays=NumpyArrays(),
    )


class _Kept(tuple[Array, ...]):
    """A cache with its backend, because another plan may be active when backward runs."""

    owner: Backend


def _kept(owner: Backend, cache: Cache) -> _Kept:
    kept = _Kept(map(owner.arrays.get, cache))
    kept.owner = owner
    return kept


class _Follower:
    """Looks up the chosen backend; base of both kernels."""

    def __init__(self, plan: Plan | None) -> None:
        self._given = plan

    @property
    def _plan(self) -> Plan:
        return self._given or plans.current()

    def _owner(self, problem: Problem, cache: Cache) -> Backend:
        return cache.owner if isinstance(cache, _Kept) else self._plan.backend_for(problem)

    def unsupported(self, problem: Problem) -> str | None:
        """Return why the chosen backend cannot run this problem, or why none was chosen."""
        try:
            return self._plan.backend_for(problem).unsupported(problem)
        except Unsupported as reason:
            return str(reason)


class _Convolution(_Follower):
    """Runs each convolution on its chosen backend."""

    def accuracy(self, problem: Conv2D) -> Accuracy | None:
        """Return the accuracy that the chosen backend declares."""
        return self._plan.backend_for(problem).accuracy(problem)

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return the cache specification of the chosen backend."""
        return self._plan.backend_for(problem).convolution.cache_spec(problem)

    def forward(
        self, problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
    ) -> tuple[np.ndarray, Cache]:
        """Run the chosen backend; see `contract.Conv2DKernel.forward`."""
        chosen = self._plan.backend_for(problem)
        put, get = chosen.arrays.put, chosen.arrays.get
        bias = None if b is None else put(b)
        y, cache = chosen.convolution.forward(problem, put(x), put(w), bias)
        return get(y), _kept(chosen, cache)

    def backward(
        self,
        problem: Conv2D,
        dy: np.ndarray,
        x: np.ndarray,
        w: np.ndarray,
        cache: Cache,
        needs: Needs = ALL,
    ) -> Conv2DGradients:
        """Run the backend that ran forward; see `contract.Conv2DKernel.backward`."""
        chosen = self._owner(problem, cache)
        put, get = chosen.arrays.put, chosen.arrays.get
        kept = tuple(map(put, cache))
        found = chosen.convolution.backward(problem, put(dy), put(x), put(w), kept, needs)
        return Conv2DGradients(*(None if gradient is None else get(gradient) for gradient in found))


class _Pooling(_Follower):
    """Runs each max-pooling on its chosen backend."""

    def cache_spec(self, problem: MaxPool2D) -> tuple[ArraySpec, ...]:
        """Return the cache specification of the chosen backend."""
        return self._plan.backend_for(problem).pooling.cache_spec(problem)

    def forward(self, problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
        """Run the chosen backend; see `contract.MaxPool2DKernel.forward`."""
        chosen = self._plan.backend_for(problem)
        y, cache = chosen.pooling.forward(problem, chosen.arrays.put(x))
        return chosen.arrays.get(y), _kept(chosen, cache)

    def backward(self, problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
        """Run the backend that ran forward; see `contract.MaxPool2DKernel.backward`."""
        chosen = self._owner(problem, cache)
        put, get = chosen.arrays.put, chosen.arrays.get
        return get(chosen.pooling.backward(problem, put(dy), tuple(map(put, cache))))
