"""Kernels in threads: loops that Numba splits, and shares of work that kernels are called for.

Loops run in Numba's pool of threads, where this process has one that it may use. Some pools take
one caller at a time, and GNU OpenMP's is dead in a forked process. Loops that cannot have the pool
run in the calling thread, with the same result to the bit.
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
    """A kernel with a loop in threads, which looks at each call whether it may have the pool.

    Where the pool is shared it need not look, and is given Numba's own class: looking, in Python,
    takes longer than some loops.
    """

    in_turn: Any
    """The same function, compiled without threads."""

    def __call__(self, *arguments: Any) -> Any:
        """Run in threads if the pool can be had now, in the calling thread if not.

        Waiting for the pool would be slower than doing without, and could wait forever.
        """
        pool, lock = _pool or _launch(), _single
        in_threads = CPUDispatcher.__call__  # `super` fails where launching has changed the class
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
    """Compile a kernel whose ``prange`` loops run in threads, where the pool can be had.

    It is compiled on its first call with each dtype, and can be called from Python alone.
    """
    loop = jit.dispatcher(function, parallel=True)
    if not numba.config.DISABLE_JIT:  # else it is the function itself
        loop.in_turn = jit.dispatcher(function, parallel=False)
        _LOOPS.append(loop)
        _use_pool(_pool)
    return loop


_pool = ""
"""How this process may use Numba's pool of threads.

''        not known before the pool is launched
'shared'  by any number of callers at a time
'single'  by one caller at a time
'dead'    not at all: this process is forked, and the threads are not in it
"""

_single = threading.Lock()
"""Held by the caller that has a pool of the kind 'single'."""


def _use_pool(how: str) -> None:
    """Let loops use the pool in one of these ways from now on."""
    global _pool
    _pool = how
    for loop in _LOOPS:
        loop.__class__ = CPUDispatcher if how == "shared" else _Loop


def _launch() -> str:
    """Launch Numba's pool, find out how it may be used, and return that."""
    numba.get_num_threads()  # launches it: before, compiled code does not find its functions
    layer = numba.threading_layer()
    if layer == "omp" and _forked_from_openmp:
        _use_pool("dead")
    else:
        _use_pool("single" if layer == "workqueue" else "shared")
    return _pool


def _has_openmp(process: int | str) -> bool:
    """Return whether a process has GNU OpenMP loaded; only Linux tells."""
    with contextlib.suppress(OSError):
        return b"/libgomp" in Path(f"/proc/{process}/maps").read_bytes()
    return False


def _is_fork() -> bool:
    """Return whether this process began as a copy of another and still runs the same program."""
    with contextlib.suppress(OSError):
        flags = int(Path("/proc/self/stat").read_bytes().rpartition(b")")[2].split()[6])
        return bool(flags & 0x40)  # PF_FORKNOEXEC
    return False


_forked_from_openmp = _is_fork() and _has_openmp(os.getppid())
"""Whether the process that this one was forked from had GNU OpenMP, and perhaps its threads.

They do not outlive a fork. OpenMP does not notice, and waits for them forever; Numba, where it
notices, ends the forked process. PyTorch uses the same threads, so that Numba need not have
launched them.
"""


def _after_fork() -> None:
    """Forget the pool in a forked process: the threading layer decides whether it has another."""
    global _single, _forked_from_openmp
    omppool = sys.modules.get("numba.np.ufunc.omppool")  # is there if Numba has launched it
    launched = getattr(omppool, "openmp_vendor", None) == "GNU"
    _single, _forked_from_openmp = threading.Lock(), launched or _has_openmp("self")
    _use_pool("")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


class ParallelKernel:
    """A kernel that does one share of the work, called for many of them in threads.

    Numba compiles a loop in threads twice, and whatever it calls with it. Here there is one such
    loop for all kernels; a kernel is compiled once for each dtype, and called by its address.

    The kernel is a function of ``(number, words, like)``: the number of the share, the call as a
    table for `records.read`, and a null pointer to elements of the dtype, for `records.array_at`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self._function = function
        self._addresses: dict[str, int] = {}

    def __call__(self, shares: int, dtype: str, call: tuple[Any, ...]) -> None:
        """Do all shares.

        Parameters
        ----------
        shares : int
        dtype : str
            'float32' or 'float64'.
        call : NamedTuple
            What every share is given: integers, and C-contiguous arrays.
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
    """Return how many threads a loop would get; the symbol is that of Numba's own loops."""
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
    """Return how many threads a loop would get: `numba.get_num_threads`, and ten times as fast."""
    return 1 if (_pool or _launch()) == "dead" else _count_threads()


def most_threads() -> int:
    """Return how many threads a loop can get at the most."""
    return 1 if (_pool or _launch()) == "dead" else int(numba.config.NUMBA_NUM_THREADS)


@kernel
def _in_threads(address, shares, table):  # type: ignore[no-untyped-def]
    if shares > 1 and _threads() > 1:
        for number in numba.prange(shares):
            _call(address, number, table)
    else:  # waking threads takes longer than the smallest shares
        for number in range(shares):
            _call(address, number, table)
