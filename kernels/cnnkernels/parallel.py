"""Kernels in threads: parallel loops, and kernels called once per share of the work.

Loops run in Numba's thread pool if it is usable. Some pools serve one caller at a time, and GNU
OpenMP's does not survive a fork. If the pool is unavailable, loops run in the calling thread, with
bit-identical results.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import CPUDispatcher
from numba.extending import intrinsic

from cnnkernels import jit, records


class _Loop(CPUDispatcher):  # type: ignore[misc]
    """A kernel with a parallel loop, which checks at each call whether the pool is available.

    If the pool is shared, no check is needed, and the kernel gets Numba's own class: a check in
    Python takes longer than some loops.
    """

    in_turn: Any
    """The same function, compiled without threads."""

    def __call__(self, *arguments: Any) -> Any:
        """Run in threads if the pool is available now, else in the calling thread.

        Waiting for the pool would be slower than one thread, and might never end.
        """
        pool, lock = _pool or _launch(), _single
        in_threads = CPUDispatcher.__call__  # `super` fails if launching has changed the class
        if pool == "shared":
            return in_threads(self, *arguments)
        if pool == "single" and lock.acquire(blocking=False):
            try:
                return in_threads(self, *arguments)
            finally:
                lock.release()
        return self.in_turn(*arguments)


_LOOPS: list[Any] = []


def kernel(function: Callable[..., Any]) -> Any:
    """Compile a kernel whose ``prange`` loops run in threads if the pool is available.

    It is compiled on its first call with each dtype, and can be called only from Python.
    """
    loop = jit.dispatcher(function, parallel=True)
    if not numba.config.DISABLE_JIT:  # else `loop` is the plain function
        loop.in_turn = jit.dispatcher(function, parallel=False)
        _LOOPS.append(loop)
        _use_pool(_pool)
    return loop


_pool = ""
"""How this process may use Numba's thread pool.

''        unknown, until the pool is launched
'shared'  any number of callers at a time
'single'  one caller at a time
'dead'    not at all: the threads did not survive a fork
"""

_single = threading.Lock()
"""Held by the current caller of a 'single' pool."""


def _use_pool(how: str) -> None:
    """Set how loops use the pool from now on; see `_pool`."""
    global _pool
    _pool = how
    for loop in _LOOPS:
        loop.__class__ = CPUDispatcher if how == "shared" else _Loop


def _launch() -> str:
    """Launch Numba's pool; return how it may be used, see `_pool`."""
    numba.get_num_threads()  # launches the pool; compiled code needs its functions
    layer = numba.threading_layer()
    if layer == "omp" and _forked_from_openmp:
        _use_pool("dead")
    else:
        _use_pool("single" if layer == "workqueue" else "shared")
    return _pool


def _has_openmp(process: int | str) -> bool:
    """Return whether a process has loaded GNU OpenMP; False except on Linux."""
    with contextlib.suppress(OSError):
        return b"/libgomp" in Path(f"/proc/{process}/maps").read_bytes()
    return False


def _is_fork() -> bool:
    """Return whether this process was forked and still runs its parent's program."""
    with contextlib.suppress(OSError):
        flags = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[6])
        return bool(flags & 0x40)  # PF_FORKNOEXEC
    return False


_forked_from_openmp = _is_fork() and _has_openmp(os.getppid())
"""Whether this process was forked from one with GNU OpenMP loaded, and perhaps its threads running.

These threads do not survive a fork. OpenMP then waits for them forever, or Numba notices and ends
the process. PyTorch uses the same threads, so they may run even if Numba has not launched them.
"""


def _after_fork() -> None:
    """Reset the state of the pool in a forked process; the next launch determines it again."""
    global _single, _forked_from_openmp
    omppool = sys.modules.get("numba.np.ufunc.omppool")  # loaded if Numba has launched it
    launched = getattr(omppool, "openmp_vendor", None) == "GNU"
    _single, _forked_from_openmp = threading.Lock(), launched or _has_openmp("self")
    _use_pool("")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ParallelKernel:
    """A kernel that computes one share of the work, called for all shares in threads.

    Numba compiles a parallel loop, and all that it calls, twice. To avoid this, all kernels share
    one such loop. A kernel is compiled once for each dtype, and called by its address.

    The kernel is a function of ``(number, words, like)``: the number of the share, the arguments as
    a table for `records.read`, and a null pointer to the dtype, for `records.array_at`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._addresses: dict[str, int] = {}

    def __call__(self, shares: int, dtype: str, call: tuple[Any, ...]) -> None:
        """Compute all shares.

        Parameters
        ----------
        shares : int
            Number of shares.
        dtype : str
            'float32' or 'float64'.
        call : NamedTuple
            The arguments of every share: integers and C-contiguous arrays.
        """
        if dtype not in self._addresses:
            self._addresses[dtype] = jit.address(
                types.void(
                    types.int64,
                    types.CPointer(types.int64),
                    types.CPointer(getattr(types, dtype)),
                ),
                self._function,
            )
        _in_threads(self._addresses[dtype], shares, records.words(call))


@intrinsic  # type: ignore[untyped-decorator]
def _call(typingctx: Any, address: Any, number: Any, table: Any) -> Any:
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        pointer, number = (
            context.cast(builder, value, kind, types.int64)
            for value, kind in zip(arguments[:2], signature.args[:2], strict=True)
        )
        data = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        null = ir.Constant(ir.IntType(8).as_pointer(), None)
        kind = ir.FunctionType(ir.VoidType(), [word, data.type, null.type])
        builder.call(builder.inttoptr(pointer, kind.as_pointer()), [number, data, null])
        return context.get_dummy_value()

    return types.void(address, number, table), emit


@intrinsic  # type: ignore[untyped-decorator]
def _threads(typingctx: Any) -> Any:
    """Return a loop's number of threads, by the function that Numba's own loops call."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del context, signature, arguments
        kind = ir.FunctionType(ir.IntType(types.intp.bitwidth), [])
        return builder.call(
            cgutils.get_or_insert_function(builder.module, kind, "get_num_threads"), []
        )

    return types.intp(), emit


@jit.kernel
def _count_threads():  # type: ignore[no-untyped-def]
    return _threads()


def threads() -> int:
    """Return a loop's number of threads, ten times as fast as `numba.get_num_threads`."""
    return 1 if (_pool or _launch()) == "dead" else _count_threads()


def most_threads() -> int:
    """Return the maximum number of threads of a loop."""
    return 1 if (_pool or _launch()) == "dead" else int(numba.config.NUMBA_NUM_THREADS)


@kernel
def _in_threads(address, shares, table):  # type: ignore[no-untyped-def]
    if shares > 1 and _threads() > 1:
        for number in numba.prange(shares):
            _call(address, number, table)
    else:  # waking threads takes longer than a small share
        for number in range(shares):
            _call(address, number, table)
