"""The machine's measured ceilings: FMA peak and memory bandwidth.

They are measured in their own process (`cnnbench.workers.child`), which starts Numba's threads.
Numba settings that limit compiled code are ignored: they slow Numba's kernels, not other libraries.

The peak is that of vector FMAs on registers, with enough independent sums to hide their latency.
The vector code is emitted as LLVM IR, so no optimizer changes it. Bandwidth is that of the STREAM
triad [1]_, by working set.

References
----------
.. [1] J. D. McCalpin, "Memory Bandwidth and Machine Balance in Current High Performance Computers",
   IEEE TCCA Newsletter, 1995.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnbench.workers.child import Channel
from cnnkernels import backends
from cnnkernels.contract import Unsupported
from cnnkernels.simd import vector_bytes

_SUMS = 24
"""Independent sums: at least latency times issue rate (4 x 2 to 5 x 2), below 32 registers."""

_BITS = {"float32": 32, "float64": 64}
_LOOPS = 200_000
_WORKING_SETS = tuple(2**exponent for exponent in range(14, 29))
_REPEATS = 7
_FMA_SECONDS = 0.2  # runs are short, and threads may first share a core
_KEPT_SETTINGS = ("NUMBA_NUM_THREADS", "NUMBA_THREADING_LAYER")
"""Prefixes of the Numba variables that apply here, too."""


def _fma_kernel(dtype: str) -> Any:
    """Return a compiled function that runs `loops` rounds of FMAs on registers."""
    lanes = vector_bytes() * 8 // _BITS[dtype]
    scalar = ir.FloatType() if dtype == "float32" else ir.DoubleType()
    vector = ir.VectorType(scalar, lanes)
    sums = _SUMS if vector_bytes() == 64 else 12

    @intrinsic  # type: ignore[untyped-decorator]
    def rounds(typingctx: Any, loops: Any, factor: Any, summand: Any) -> Any:
        del typingctx, loops, factor, summand
        element = getattr(types, dtype)

        def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            del context, signature
            count, *scalars = arguments
            module = builder.module
            fma = cgutils.get_or_insert_function(
                module,
                ir.FunctionType(vector, [vector] * 3),
                f"llvm.fma.v{lanes}f{_BITS[dtype]}",
            )
            whole = ir.Constant(ir.VectorType(ir.IntType(32), lanes), None)
            factor_, summand_ = (
                builder.shuffle_vector(
                    builder.insert_element(
                        ir.Constant(vector, ir.Undefined), value, ir.IntType(32)(0)
                    ),
                    ir.Constant(vector, ir.Undefined),
                    whole,
                )
                for value in scalars
            )
            entry = builder.block
            body = builder.append_basic_block("fma.body")
            done = builder.append_basic_block("fma.done")
            builder.branch(body)
            builder.position_at_end(body)
            index = builder.phi(count.type)
            index.add_incoming(count.type(0), entry)
            totals = []
            for number in range(sums):
                total = builder.phi(vector)
                total.add_incoming(ir.Constant(vector, [scalar(number + 1.0)] * lanes), entry)
                totals.append(total)
            results = [builder.call(fma, [total, factor_, summand_]) for total in totals]
            following = builder.add(index, count.type(1))
            index.add_incoming(following, body)
            for total, result in zip(totals, results, strict=True):
                total.add_incoming(result, body)
            builder.cbranch(builder.icmp_signed("<", following, count), body, done)
            builder.position_at_end(done)
            everything = results[0]
            for result in results[1:]:
                everything = builder.fadd(everything, result)
            return builder.extract_element(everything, ir.IntType(32)(0))

        return element(types.intp, element, element), emit

    @numba.njit(parallel=True)
    def run(loops, factor, summand, out):  # type: ignore[no-untyped-def]
        for thread in numba.prange(out.size):
            out[thread] = rounds(loops, factor, summand)

    return run, 2 * lanes * sums


def fma_peak(dtype: str, threads: int) -> float:
    """Return the floating-point operations a second of FMAs on registers, over all threads."""
    run, flops_a_loop = _fma_kernel(dtype)
    out = np.zeros(threads, dtype)
    scalar = np.dtype(dtype).type
    arguments = (scalar(0.999), scalar(0.001), out)
    run(1000, *arguments)
    best = _best_seconds(lambda: run(_LOOPS, *arguments), _FMA_SECONDS)
    return float(flops_a_loop * _LOOPS * threads / best)


def bandwidth(threads: int) -> dict[int, float]:
    """Return the bytes a second of the triad a = b + s*c, by working set in bytes."""

    @numba.njit(parallel=True, fastmath={"contract"})
    def triad(a, b, c, times, threads):  # type: ignore[no-untyped-def]
        chunk = (a.size + threads - 1) // threads
        for thread in numba.prange(threads):
            share = slice(thread * chunk, (thread + 1) * chunk)
            mine, left, right = a[share], b[share], c[share]
            for repeat in range(times):
                factor = np.float32(repeat)
                for i in range(mine.size):
                    mine[i] = left[i] + factor * right[i]

    found = {}
    for working_set in _WORKING_SETS:
        size = working_set // 12
        a, b, c = (np.ones(size, np.float32) for _ in range(3))
        times = max(1, 2**26 // working_set)
        triad(a, b, c, 1, threads)
        best = _best_seconds(lambda: triad(a, b, c, times, threads))  # noqa: B023  # called at once
        found[working_set] = 12.0 * size * times / best
    return found


def _best_seconds(function: Callable[[], object], least: float = 0.0) -> float:
    """Return the shortest of several times that last at least `least` seconds in all.

    A ceiling is the best the machine can do.
    """
    best = float("inf")
    began = time.perf_counter()
    repeats = 0
    while repeats < _REPEATS or time.perf_counter() - began < least:
        start = time.perf_counter()
        function()
        best = min(best, time.perf_counter() - start)
        repeats += 1
    return best


def measure(threads: int) -> dict[str, Any]:
    """Return all ceilings for a thread count, and how they were measured."""
    numba.set_num_threads(threads)
    return {
        "threads": threads,
        "flops": {dtype: fma_peak(dtype, threads) for dtype in _BITS},
        "bandwidth": {str(size): rate for size, rate in bandwidth(threads).items()},
        "vector_bytes": vector_bytes(),
        "cpu_target": llvmlite.binding.get_host_cpu_name(),
        "threading_layer": numba.threading_layer(),
    }


def main(channel: Channel) -> None:
    """Receive a thread count, and send its ceilings, or {'reason': ...} if Numba cannot run."""
    kept = {name: text for name, text in os.environ.items() if name.startswith(_KEPT_SETTINGS)}
    numba.core.config._env_reloader.process_environ(kept)
    threads = channel.receive()
    try:
        backends.require_numba()
    except Unsupported as reason:
        channel.send({"reason": str(reason)})
    else:
        channel.send(measure(threads))
