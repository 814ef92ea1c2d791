"""The registry of backends by name: the built-in ones, and those of installed packages.

A package adds a backend by an entry point in the group ``cnnkernels.backends``: a callable without
arguments that returns a `Backend`. The built-in backends use the same mechanism. A backend's
modules are imported only when it is loaded.
"""

from __future__ import annotations

import difflib
import functools
import warnings
from collections.abc import Sequence
from importlib.metadata import EntryPoint, entry_points

from cnnkernels.contract import Backend

GROUP = "cnnkernels.backends"

AUTO = "auto"
"""The name of the backend that follows the active plan; see `cnnkernels.plan`."""

_BUILT_IN = {
    name: EntryPoint(name, f"cnnkernels.backends:{recipe}", GROUP)
    for name, recipe in (
        ("naive", "naive"),
        ("numpy", "numpy"),
        ("numba", "numba"),
        ("numba-simd", "numba_simd"),
        ("numba-winograd-f4", "numba_winograd_f4"),
        ("numba-winograd-f2", "numba_winograd_f2"),
        ("torch-cpu", "torch_cpu"),
        ("torch-cpu-nhwc", "torch_cpu_nhwc"),
        ("torch-cuda", "torch_cuda"),
    )
} | {AUTO: EntryPoint(AUTO, "cnnkernels.auto:backend", GROUP)}


class UnknownBackendError(ValueError):
    """No backend has this name; the message lists the known names."""


class BrokenBackendError(RuntimeError):
    """An installed backend failed to load, or is not a `Backend`; the message says why."""


@functools.cache
def _entries() -> dict[str, EntryPoint]:
    entries = dict(_BUILT_IN)
    for entry in entry_points(group=GROUP):
        if entry.name in entries:
            warnings.warn(
                f"backend {entry.name!r} of {entry.value} is ignored: "
                f"{entries[entry.name].value} has the name already",
                stacklevel=2,
            )
        else:
            entries[entry.name] = entry
    return entries


def names() -> tuple[str, ...]:
    """Return the names of all backends, built-in ones first, whether or not they can run here.

    `AUTO` is left out, because it has no kernels of its own.
    """
    return tuple(name for name in _entries() if name != AUTO)


def require_known(name: str, more: Sequence[str] = ()) -> None:
    """Reject a name that no backend has.

    Parameters
    ----------
    name : str
    more : sequence of str
        Further names to accept, such as those of whole training programs.

    Raises
    ------
    UnknownBackendError
        With the known names, and a suggestion for a misspelled one.
    """
    known = (*_entries(), *more)
    if name not in known:
        close = difflib.get_close_matches(name, known, n=1)
        hint = f" (did you mean {close[0]!r}?)" if close else ""
        raise UnknownBackendError(f"unknown backend {name!r}{hint}; known here: {', '.join(known)}")


@functools.cache
def load(name: str) -> Backend:
    """Return the backend of this name, created on the first call.

    Raises
    ------
    UnknownBackendError
        If no backend has this name.
    Unsupported
        If the backend cannot run here, with the reason.
    BrokenBackendError
        If an installed package's backend fails to load, or is not a `Backend` of that name.
    """
    require_known(name)
    entry = _entries()[name]
    try:
        backend = entry.load()()
    except NotImplementedError:
        raise
    except Exception as error:
        if name in _BUILT_IN:
            raise
        raise BrokenBackendError(
            f"backend {name!r} of {entry.value} failed to load: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(backend, Backend) or backend.name != name:
        what = (
            f"a Backend named {backend.name!r}" if isinstance(backend, Backend) else repr(backend)
        )
        raise BrokenBackendError(
            f"backend {name!r}: expected {entry.value} to return a Backend of that name, got {what}"
        )
    return backend
