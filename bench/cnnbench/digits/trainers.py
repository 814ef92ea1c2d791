"""Trainers of the digits CNN by name: every backend, layer by layer, and whole programs.

A program is not made of a backend's kernels, so that none can be checked apart; its losses tell
whether it is right.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import EntryPoint

from cnnbench.digits.options import Options
from cnnbench.digits.training import Training, train
from cnnkernels import backends, registry
from cnnkernels.contract import Backend, Unsupported


@dataclass(frozen=True)
class Trainer:
    """What trains the digits CNN.

    Attributes
    ----------
    name, description : str
    train : callable
        Takes `Options`, returns the `Training`.
    backend : Backend or None
        Whose kernels it is made of.
    """

    name: str
    description: str
    train: Callable[[Options], Training]
    backend: Backend | None = None


@dataclass(frozen=True)
class _Program:
    description: str
    library: str
    place: str


_PROGRAMS = {
    "numba (compiled run)": _Program(
        "the whole training as one function, compiled by Numba; one thread",
        "numba",
        "cnnbench.digits.numba_run:train",
    ),
    "torch eager": _Program(
        "PyTorch's layers, autograd and SGD, as they are",
        "torch",
        "cnnbench.digits.torch_run:train_eager",
    ),
    "torch.compile": _Program(
        "the same, network and loss compiled by torch.compile",
        "torch",
        "cnnbench.digits.torch_run:train_compiled_by_torch",
    ),
    "jax": _Program(
        "JAX: a step compiled by XLA, on the CPU", "jax", "cnnbench.digits.jax_run:train"
    ),
}

PROGRAMS = tuple(_PROGRAMS)
"""The names of those that are not made of a backend's kernels."""


def names() -> tuple[str, ...]:
    """Return the names of all trainers, backends first, whether they can run or not."""
    return (*registry.names(), *PROGRAMS)


def require_known(name: str) -> None:
    """Refuse a name that no trainer has.

    Raises
    ------
    UnknownBackendError
        With the names that there are.
    """
    registry.require_known(name, PROGRAMS)


def load(name: str) -> Trainer:
    """Return the trainer of this name.

    Raises
    ------
    UnknownBackendError
        If no trainer has this name.
    Unsupported
        If it cannot run here, with the reason.
    """
    require_known(name)
    if name not in _PROGRAMS:
        backend = registry.load(name)
        return Trainer(name, backend.description, functools.partial(train, backend), backend)
    program = _PROGRAMS[name]
    try:
        importlib.import_module(program.library)
    except ImportError as error:
        raise Unsupported(f"{program.library} is not installed here ({error})") from None
    if program.library == "numba":
        backends.require_numba()
    return Trainer(name, program.description, EntryPoint(name, program.place, "").load())
