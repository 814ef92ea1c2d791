"""Compilation by Numba: the only use of njit(...), its options, and the cache on disk.

``fastmath`` allows only what the error bound of a sum covers: contracting a multiply and an add to
an FMA, and reassociating sums so that they vectorize. It never lets the compiler assume that there
are no NaNs or infinities, because a diverging network must show them.

Compiled code is cached on disk. It is invalidated when the function's file or any source file of
this package changes. Numba itself checks only the function's file, and would run outdated callees.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
import numpy as np
import platformdirs
from numba.core import caching
from numba.core.ccallback import CFunc

_FASTMATH = {"contract", "reassoc", "nsz", "arcp"}


def _source_stamp() -> str:
    """Return a digest of every source file of this package."""
    digest = hashlib.sha256()
    root = Path(__file__).parent
    for path in sorted(root.rglob("*.py")):
        digest.update(path.relative_to(root).as_posix().encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


_STAMP = _source_stamp()

_NOT_IN_CODE = {
    "NUMBA_CACHE_DIR",
    "NUMBA_NUM_THREADS",
    "NUMBA_THREADING_LAYER",
    "NUMBA_THREADING_LAYER_PRIORITY",
}

_SETTINGS = sorted(
    (name, value)
    for name, value in os.environ.items()
    if name.startswith("NUMBA_") and name not in _NOT_IN_CODE
)
"""Numba's settings that may affect compiled code, such as NUMBA_OPT and NUMBA_BOUNDSCHECK."""


class _Locator(caching._CacheLocator):  # type: ignore[misc]
    """Locates compiled code in NUMBA_CACHE_DIR or the user's cache folder; sets its stamp."""

    def __init__(self, function: Callable[..., Any], file: str) -> None:
        self._py_file = file
        self._stamp = f"{_STAMP}-{hashlib.sha256(Path(file).read_bytes()).hexdigest()[:16]}"
        root = numba.config.CACHE_DIR or platformdirs.user_cache_dir("cnnkernels", False)
        self._path = os.path.join(root, "cnnkernels")
        self._place = f"{function.__module__}-{function.__code__.co_firstlineno}"

    def get_cache_path(self) -> str:
        return self._path

    def get_source_stamp(self) -> str:
        return self._stamp

    def get_disambiguator(self) -> str:
        return self._place

    @classmethod
    def from_function(cls, function: Callable[..., Any], file: str) -> _Locator | None:
        locator = cls(function, file)
        try:
            locator.ensure_cache_path()
        except OSError:  # not writable: each process compiles again
            return None
        return locator


class _CacheImpl(caching.CompileResultCacheImpl):  # type: ignore[misc]
    _locator_classes = (_Locator,)


class _Cache(caching.FunctionCache):  # type: ignore[misc]
    """Caches per compilation options; Numba itself distinguishes only processors."""

    _impl_class = _CacheImpl

    def __init__(self, function: Callable[..., Any], *, parallel: bool = False) -> None:
        super().__init__(function)
        self._options = (parallel, *_SETTINGS)

    def _index_key(self, signature: Any, codegen: Any) -> tuple[Any, ...]:
        return (*super()._index_key(signature, codegen), self._options)


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel on its first call with each dtype; other kernels can call it."""
    return dispatcher(function, parallel=False)


def dispatcher(function: Callable[..., Any], *, parallel: bool) -> Any:
    """Return Numba's dispatcher of a kernel, with this package's options and cache."""
    compiled = numba.njit(
        function, parallel=parallel, fastmath=_FASTMATH, error_model="numpy", nogil=True
    )
    with contextlib.suppress(RuntimeError):  # raised if no cache folder is writable
        compiled._cache = _Cache(function, parallel=parallel)
    return compiled


def address(signature: Any, function: Callable[..., Any]) -> int:
    """Compile a function for C callers; return its address, valid until Python exits."""
    options = {"error_model": "numpy", "fastmath": _FASTMATH}
    compiled: Any = CFunc(function, (signature.args, signature.return_type), {}, options)
    with contextlib.suppress(RuntimeError):
        compiled._cache = _Cache(function)
    compiled.compile()
    _COMPILED.append(compiled)
    return int(compiled.address)


_COMPILED: list[Any] = []


def constant(array: np.ndarray) -> np.ndarray:
    """Return a read-only view, for the inputs of kernels.

    Numba compiles separately for read-only arrays, so all inputs are passed as read-only.
    """
    view = array.view()
    view.flags.writeable = False
    return view


def inlined(function: Callable[..., Any]) -> Any:
    """Compile a plain Python function so that kernels can call it; LLVM inlines it."""
    return numba.njit(error_model="numpy")(function)


def spliced(function: Callable[..., Any]) -> Any:
    """Make Numba inline a plain Python function into the kernels that call it.

    A function that calls others compiles faster this way: each callee once, not once more at every
    level of calls.
    """
    return numba.njit(inline="always")(function)
