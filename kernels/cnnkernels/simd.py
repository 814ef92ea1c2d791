"""Vector code: how wide this processor's vectors are, and the micro-kernel made of them.

The micro-kernel is emitted as LLVM IR with explicit vectors and ``llvm.fma``, so that neither the
vectoriser's mood nor an environment variable decides what it becomes. It is an outer product: a few
broadcast scalars times a few vectors, summed in registers over a reduction. Both operands are
addressed through tables of offsets, so that the same code multiplies packed panels and walks over
the taps of a convolution in the arrays as they are [1]_.

References
----------
.. [1] M. Dukhan, "The Indirect Convolution Algorithm", 2019, arXiv:1907.02129.
"""

from __future__ import annotations

import functools
from typing import Any

import llvmlite.binding
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnkernels import jit

_FEATURES: dict[str, bool] = dict(llvmlite.binding.get_host_cpu_features())


def vector_bytes() -> int:
    """Return how wide this processor's widest usable vector is, in bytes."""
    if _FEATURES.get("avx512f"):
        return 64
    if _FEATURES.get("avx"):
        return 32
    return 16


def has_fma() -> bool:
    """Return whether the processor multiplies and adds vectors in one instruction."""
    x86 = "sse2" in _FEATURES
    return bool(_FEATURES.get("fma") or _FEATURES.get("avx512f")) if x86 else True


VECTORS = 2
"""Vectors side by side in a tile."""

ROWS = 12 if vector_bytes() != 32 and has_fma() else 6
"""Rows of a tile, at the most: 24 sums of 32 registers, or 12 of the 16 that AVX2 has.

The others hold the two vectors and the broadcast scalar.
"""


def lanes(itemsize: int) -> int:
    """Return how many elements of a size one vector holds."""
    return vector_bytes() // itemsize


def _vector(element: Any) -> tuple[ir.Type, ir.VectorType, str]:
    bits = element.bitwidth
    scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
    count = vector_bytes() * 8 // bits
    return scalar, ir.VectorType(scalar, count), f"v{count}f{bits}"


def _data(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    return context.make_array(kind)(context, builder, array).data


_ARGUMENTS = "rows a a_row a_offsets b b_offsets count c c_row start add".split()  # noqa: SIM905


@functools.cache
def tile_address(dtype: str) -> int:
    """Return the address of the compiled micro-kernel, which `multiply_tile` calls.

    It is compiled once for each dtype, apart: a function that Numba links into another is optimised
    anew with each of them.
    """
    element = types.CPointer(getattr(types, dtype))
    table, word = types.CPointer(types.int64), types.int64
    signature = types.void(
        word, element, word, table, element, table, word, element, word, element, word
    )

    def tile(rows, a, a_row, a_offsets, b, b_offsets, count, c, c_row, start, add):  # type: ignore[no-untyped-def]
        _tile(rows, a, a_row, a_offsets, b, b_offsets, count, c, c_row, start, add)

    return jit.address(signature, tile)


@intrinsic
def _tile(typingctx, *kinds):  # type: ignore[no-untyped-def]
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        named = dict(zip(_ARGUMENTS, cgutils.unpack_tuple(builder, arguments[0]), strict=True))
        kind = signature.args[0].types[1].dtype
        done = builder.append_basic_block("tile.done")
        switch = builder.switch(named["rows"], done)
        for rows in range(1, ROWS + 1):
            block = builder.append_basic_block(f"tile.{rows}")
            switch.add_case(ir.IntType(64)(rows), block)
            builder.position_at_end(block)
            _emit_tile(builder, rows, kind, named)
            builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(types.Tuple(kinds)), emit


@intrinsic
def multiply_tile(  # type: ignore[no-untyped-def]
    typingctx, address, rows, a, a_first, a_row, a_offsets, a_from, b, b_first, b_offsets, b_from,
    count, c, c_first, c_row, start, start_first, add,
):  # fmt: skip
    """Multiply a strip of scalars by a strip of vectors: a tile of `rows` x `VECTORS` vectors.

    For each row i and each j from 0 to count - 1, with arrays taken as flat::

        c[c_first + i*c_row + lanes] (+)= a[a_first + i*a_row + a_offsets[a_from + j]]
                                          * b[b_first + b_offsets[b_from + j] + lanes]

    Sums begin with what stands in `c` if `add` is true, else with ``start[start_first + i]``.
    `count` is 1 at the least, `rows` from 1 to `ROWS`; `address` is `tile_address` of the dtype.
    """
    del typingctx
    signature = types.void(
        address, rows, a, a_first, a_row, a_offsets, a_from, b, b_first, b_offsets, b_from, count,
        c, c_first, c_row, start, start_first, add,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = list(zip(signature.args, arguments, strict=True))

        def word() -> Any:
            kind, value = queue.pop(0)
            return context.cast(builder, value, kind, types.int64)

        def place() -> Any:
            data = _data(context, builder, *queue.pop(0))
            return builder.gep(data, [word()])

        address, rows = word(), word()
        a, a_first, a_row = queue.pop(0), word(), word()
        a = builder.gep(_data(context, builder, *a), [a_first])
        a_offsets, b, b_offsets, count = place(), place(), place(), word()
        c, c_first, c_row = queue.pop(0), word(), word()
        c = builder.gep(_data(context, builder, *c), [c_first])
        start, add = place(), word()
        values = [rows, a, a_row, a_offsets, b, b_offsets, count, c, c_row, start, add]
        kind = ir.FunctionType(ir.VoidType(), [value.type for value in values])
        builder.call(builder.inttoptr(address, kind.as_pointer()), values)
        return context.get_dummy_value()

    return signature, emit


def _emit_tile(builder: Any, rows: int, element: Any, named: dict[str, Any]) -> None:
    """Emit the multiplication of a tile with a known number of rows."""
    _, vector, suffix = _vector(element)
    width, size = vector.count, element.bitwidth // 8
    word = ir.IntType(64)
    fma = cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.{suffix}"
    )
    undefined = ir.Constant(vector, ir.Undefined)
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), width), None)

    def splat(value: Any) -> Any:
        return builder.shuffle_vector(
            builder.insert_element(undefined, value, ir.IntType(32)(0)), undefined, zeros
        )

    def vector_at(pointer: Any, number: int) -> Any:
        place = builder.gep(pointer, [word(number * width)])
        return builder.bitcast(place, vector.as_pointer())

    # The sums' start: what is there, or a value a row.
    from_c = builder.append_basic_block("from_c")
    from_start = builder.append_basic_block("from_start")
    body = builder.append_basic_block("body")
    store = builder.append_basic_block("store")
    c_rows = []
    pointer = named["c"]
    for _ in range(rows):
        c_rows.append(pointer)
        pointer = builder.gep(pointer, [named["c_row"]])
    builder.cbranch(builder.icmp_signed("!=", named["add"], word(0)), from_c, from_start)
    builder.position_at_end(from_c)
    there = [
        [builder.load(vector_at(place, v), align=size) for v in range(VECTORS)] for place in c_rows
    ]
    builder.branch(body)
    builder.position_at_end(from_start)
    given = [splat(builder.load(builder.gep(named["start"], [word(i)]))) for i in range(rows)]
    builder.branch(body)

    builder.position_at_end(body)
    j = builder.phi(word)
    sums = [[builder.phi(vector) for _ in range(VECTORS)] for _ in range(rows)]
    for block in (from_c, from_start):
        j.add_incoming(word(0), block)
    for i, v in ((i, v) for i in range(rows) for v in range(VECTORS)):
        sums[i][v].add_incoming(there[i][v], from_c)
        sums[i][v].add_incoming(given[i], from_start)

    def offset(table: str) -> Any:
        return builder.load(builder.gep(named[f"{table}_offsets"], [j]))

    b = builder.gep(named["b"], [offset("b")])
    vectors = [builder.load(vector_at(b, v), align=size) for v in range(VECTORS)]
    place = builder.gep(named["a"], [offset("a")])
    # Rows are reached in threes from one pointer, by one or two strides: few registers hold all.
    row, two_rows, three_rows = (
        named["a_row"],
        builder.mul(named["a_row"], word(2)),
        builder.mul(named["a_row"], word(3)),
    )
    results = []
    for i in range(rows):
        if i and i % 3 == 0:
            place = builder.gep(place, [three_rows])
        at = place if i % 3 == 0 else builder.gep(place, [(row, two_rows)[i % 3 - 1]])
        factor = splat(builder.load(at, align=size))
        results.append(
            [builder.call(fma, [factor, vectors[v], sums[i][v]]) for v in range(VECTORS)]
        )
    following = builder.add(j, word(1))
    j.add_incoming(following, body)
    for i, v in ((i, v) for i in range(rows) for v in range(VECTORS)):
        sums[i][v].add_incoming(results[i][v], body)
    builder.cbranch(builder.icmp_signed("<", following, named["count"]), body, store)

    builder.position_at_end(store)
    for i, v in ((i, v) for i in range(rows) for v in range(VECTORS)):
        builder.store(results[i][v], vector_at(c_rows[i], v), align=size)


@intrinsic
def copy_vector(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Copy one vector between flat arrays: ``to[to_first + lanes] = of[of_first + lanes]``."""
    del typingctx
    return types.void(to, to_first, of, of_first), _vector_mover(add=False)


@intrinsic
def add_vector(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Add one vector in flat arrays: ``to[to_first + lanes] += of[of_first + lanes]``."""
    del typingctx
    return types.void(to, to_first, of, of_first), _vector_mover(add=True)


def _vector_mover(add: bool) -> Any:
    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = signature.args[0]
        _, vector, _ = _vector(kind.dtype)
        size = kind.dtype.bitwidth // 8
        places = []
        for n in (0, 2):
            data = _data(context, builder, signature.args[n], arguments[n])
            index = context.cast(builder, arguments[n + 1], signature.args[n + 1], types.int64)
            places.append(builder.bitcast(builder.gep(data, [index]), vector.as_pointer()))
        value = builder.load(places[1], align=size)
        if add:
            value = builder.fadd(builder.load(places[0], align=size), value)
        builder.store(value, places[0], align=size)
        return context.get_dummy_value()

    return emit
