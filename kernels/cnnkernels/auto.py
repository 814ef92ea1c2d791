"""The backend that follows a plan: each problem goes to whom the plan has chosen for it."""

from __future__ import annotations

import numpy as np

from cnnkernels import plan as plans
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
    """Return the backend that follows a plan; unless one is given, whichever is then in force."""
    return Backend(
        name=AUTO,
        description="whom the plan has chosen, problem by problem",
        convolution=_Convolution(plan),
        pooling=_Pooling(plan),
        arrays=NumpyArrays(),
    )


class _Kept(tuple[Array, ...]):
    """A cache that knows whose it is: by the time of backward another plan may be in force."""

    owner: Backend


def _kept(owner: Backend, cache: Cache) -> _Kept:
    kept = _Kept(map(owner.arrays.get, cache))
    kept.owner = owner
    return kept


class _Follower:
    """What both kernels do: find who was chosen."""

    def __init__(self, plan: Plan | None) -> None:
        self._given = plan

    @property
    def _plan(self) -> Plan:
        return self._given or plans.current()

    def _owner(self, problem: Problem, cache: Cache) -> Backend:
        return cache.owner if isinstance(cache, _Kept) else self._plan.backend_for(problem)

    def unsupported(self, problem: Problem) -> str | None:
        """Return why who was chosen cannot do the problem, or why nobody was."""
        try:
            return self._plan.backend_for(problem).unsupported(problem)
        except Unsupported as reason:
            return str(reason)


class _Convolution(_Follower):
    """Convolutions, each by its own backend."""

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return what who was chosen keeps."""
        return self._plan.backend_for(problem).convolution.cache_spec(problem)

    def forward(
        self, problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
    ) -> tuple[np.ndarray, Cache]:
        """Let who was chosen do it; see `contract.Conv2DKernel.forward`."""
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
        """Let who was chosen do it; see `contract.Conv2DKernel.backward`."""
        chosen = self._owner(problem, cache)
        put, get = chosen.arrays.put, chosen.arrays.get
        kept = tuple(map(put, cache))
        found = chosen.convolution.backward(problem, put(dy), put(x), put(w), kept, needs)
        return Conv2DGradients(*(None if gradient is None else get(gradient) for gradient in found))


class _Pooling(_Follower):
    """Max-poolings, each by its own backend."""

    def cache_spec(self, problem: MaxPool2D) -> tuple[ArraySpec, ...]:
        """Return what who was chosen keeps."""
        return self._plan.backend_for(problem).pooling.cache_spec(problem)

    def forward(self, problem: MaxPool2D, x: np.ndarray) -> tuple[np.ndarray, Cache]:
        """Let who was chosen do it; see `contract.MaxPool2DKernel.forward`."""
        chosen = self._plan.backend_for(problem)
        y, cache = chosen.pooling.forward(problem, chosen.arrays.put(x))
        return chosen.arrays.get(y), _kept(chosen, cache)

    def backward(self, problem: MaxPool2D, dy: np.ndarray, cache: Cache) -> np.ndarray:
        """Let who was chosen do it; see `contract.MaxPool2DKernel.backward`."""
        chosen = self._owner(problem, cache)
        put, get = chosen.arrays.put, chosen.arrays.get
        return get(chosen.pooling.backward(problem, put(dy), tuple(map(put, cache))))
