"""Trainers of the digits CNN by name: every backend, layer by layer, and whole programs.

A whole program has no backend's kernels that could be checked separately; it is checked by its
losses.
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
    """A backend or program that trains the digits CNN.

    Attributes
    ----------
    name, description : str
    train : callable
        Takes `Options`, returns the `Training`.
    backend : Backend or None
        The backend of its kernels; None for a program.
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
        "the whole training as one function, compiled by Numba, on one thread",
        "numba",
        "cnnbench.digits.numba_run:train",
    ),
    "torch eager": _Program(
        "PyTorch's layers, autograd and optimizer, eager",
        "torch",
        "cnnbench.digits.torch_run:train_eager",
    ),
    "torch.compile": _Program(
        "PyTorch with network and loss compiled by torch.compile",
        "torch",
        "cnnbench.digits.torch_run:train_compiled_by_torch",
    ),
    "jax": _Program(
        "JAX with steps compiled by XLA, on the CPU", "jax", "cnnbench.digits.jax_run:train"
    ),
}

PROGRAMS = tuple(_PROGRAMS)
"""The names of the whole programs."""


def is_pytorch(name: str) -> bool:
    """Return whether a trainer is a backend or program of PyTorch."""
    return name.startswith("torch")


def names() -> tuple[str, ...]:
    """Return the names of all trainers, backends first, even if they cannot run here."""
    return (*registry.names(), *PROGRAMS)


def require_known(name: str) -> None:
    """Raise an error for an unknown trainer.

    Raises
    ------
    UnknownBackendError
        With the known names.
    """
    registry.require_known(name, PROGRAMS)


def load(name: str) -> Trainer:
    """Return the trainer of this name.

    Raises
    ------
    UnknownBackendError
        If no trainer has this name.
    Unsupported
        With the reason, if it cannot run here.
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
