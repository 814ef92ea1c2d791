"""The micro-kernels: tiles of sums that stay in vector registers, and functions that call them.

They are emitted as LLVM IR with explicit vectors and ``llvm.fma``, so that the result does not
depend on the vectorizer's heuristics or on environment variables. Each computes outer products of a
column of factors and a row of factors, summed in registers over a reduction. Both operands can be
addressed through tables of offsets. So the same code multiplies packed panels, and reads the taps
of a convolution directly from unmodified arrays [1]_.

References
----------
.. [1] M. Dukhan, "The Indirect Convolution Algorithm", 2019, arXiv:1907.02129.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnkernels import jit, simd, tile_code

SUMS = 24 if simd.vector_bytes() != 32 and simd.has_fma() else 12
"""Maximum vectors of sums in a tile: 24 of 32 registers, or 12 of AVX2's 16.

The other registers hold the vectors to multiply, and the broadcast scalar.
"""

MOST_ROWS = SUMS // 2
"""Maximum rows of a tile."""

ROWS, VECTORS = (8, 3) if SUMS == 24 else (6, 2)
"""The default tile, which needs the fewest loads per product."""

_WIDTHS = (1, 2, 3, 4, 6, 8)
"""Supported widths of a tile, in vectors."""


def _widest(rows: int) -> int:
    """Return the maximum width, in vectors, of a tile with so many rows."""
    widest = 1
    for vectors in _WIDTHS:
        if rows * vectors <= SUMS:
            widest = vectors
    return widest


widest = jit.inlined(_widest)


@jit.inlined
def covering(columns, lanes, most):  # type: ignore[no-untyped-def]
    """Return the width of a tile in vectors: enough to cover the columns, at most `most`."""
    for vectors in _WIDTHS:
        if vectors >= most or vectors * lanes >= columns:
            return min(vectors, most)
    return most


# The arguments of the micro-kernels: addresses of array elements, and numbers.
_PLACES = ("a", "b", "c", "start", "ahead")
_RESULT = ("count", "c", "c_row", "start", "add")
_ARGUMENTS = ("rows", "vectors", "a", "a_row", "a_offsets", "b", "b_offsets", *_RESULT)
_PACKED_ARGUMENTS = ("rows", "vectors", "a", "b", "b_offsets", *_RESULT, "ahead", "ahead_row")
_LANES_ARGUMENTS = (
    "rows", "columns", "a", "a_row", "a_offsets", "b", "b_row", "b_offsets",
    "count", "c", "c_row", "c_column", "add",
)  # fmt: skip


@functools.cache
def tile_address(dtype: str) -> int:
    """Return the address of the compiled micro-kernel that `multiply_tile` calls.

    It is compiled once per dtype, separately from its callers: Numba would optimize a linked
    function again with each of them.
    """

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _tile(arguments, like)

    return jit.address(_signature(dtype), tile)


@functools.cache
def packed_tile_address(dtype: str) -> int:
    """Return the micro-kernel's address for `multiply_packed_tile`; see `tile_address`."""

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _packed_tile(arguments, like)

    return jit.address(_signature(dtype), tile)


@functools.cache
def lanes_tile_address(dtype: str) -> int:
    """Return the micro-kernel's address for `multiply_lanes`; see `tile_address`."""

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _lanes_tile(arguments, like)

    return jit.address(_signature(dtype), tile)


def _signature(dtype: str) -> Any:
    """Return the signature of micro-kernels: a table of arguments, and a null pointer to the dtype.

    So many separate arguments would be copied by loads wider than the preceding stores, and the
    processor would stall on store forwarding.
    """
    like = types.CPointer(getattr(types, dtype))
    return types.void(types.CPointer(types.int64), like)


def _named(names: tuple[str, ...], builder: Any, arguments: Any) -> dict[str, Any]:
    """Load arguments from their table by name; addresses become typed pointers."""
    table, like = arguments
    named = {}
    for number, name in enumerate(names):
        value = builder.load(builder.gep(table, [ir.IntType(64)(number)]))
        if name.endswith("_offsets"):
            value = builder.inttoptr(value, table.type)
        elif name in _PLACES:
            value = builder.inttoptr(value, like.type)
        named[name] = value
    return named


def _emit_tiles(packed: bool, context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    """Emit the multiplication for all tile sizes, and the dispatch among them."""
    named = _named(_PACKED_ARGUMENTS if packed else _ARGUMENTS, builder, arguments)
    kind = signature.args[1].dtype
    sizes = [(m, v) for m in range(1, MOST_ROWS + 1) for v in _WIDTHS if v <= _widest(m)]
    for rows, vectors in _each_size(builder, sizes, named["rows"], named["vectors"]):
        tile_code.emit_tile(builder, rows, vectors, kind, named, ROWS if packed else 0)
    return context.get_dummy_value()


def _each_size(
    builder: Any, sizes: list[tuple[int, int]], rows: Any, columns: Any
) -> Iterator[tuple[int, int]]:
    """Yield tile sizes, with the builder positioned at the branch for each size."""
    done = builder.append_basic_block("tile.done")
    word = ir.IntType(64)
    which = builder.add(builder.mul(columns, word(MOST_ROWS + 1)), rows)
    switch = builder.switch(which, done)
    for size in sizes:
        block = builder.append_basic_block(f"tile.{size[0]}.{size[1]}")
        switch.add_case(word(size[1] * (MOST_ROWS + 1) + size[0]), block)
        builder.position_at_end(block)
        yield size
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def _tile(typingctx, arguments, like):  # type: ignore[no-untyped-def]
    del typingctx
    return types.void(arguments, like), functools.partial(_emit_tiles, False)


@intrinsic
def _packed_tile(typingctx, arguments, like):  # type: ignore[no-untyped-def]
    del typingctx
    return types.void(arguments, like), functools.partial(_emit_tiles, True)


@intrinsic
def multiply_tile(  # type: ignore[no-untyped-def]
    typingctx, address, rows, vectors, a, a_first, a_row, a_offsets, a_from, b, b_first, b_offsets,
    b_from, count, c, c_first, c_row, start, start_first, add,
):  # fmt: skip
    """Multiply a strip of scalars by a strip of vectors: a tile of `rows` x `vectors` vectors.

    For each row i and each j from 0 to count - 1, on flattened arrays::

        c[c_first + i*c_row + lanes] (+)= a[a_first + i*a_row + a_offsets[a_from + j]]
                                          * b[b_first + b_offsets[b_from + j] + lanes]

    Sums begin with ``start[start_first + i]``, and are added to `c` if `add` is true. `count` is at
    least 1, `rows` from 1 to `MOST_ROWS`, and `vectors` one of `_WIDTHS`, at most `widest`;
    `address` is the dtype's `tile_address`.
    """
    del typingctx
    signature = types.void(
        address, rows, vectors, a, a_first, a_row, a_offsets, a_from, b, b_first, b_offsets, b_from,
        count, c, c_first, c_row, start, start_first, add,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        called = [queue.word(), queue.word(), queue.word()]
        a, a_row, a_offsets = queue.place(), queue.word(), queue.place()
        _call_tile(builder, queue, called, [a, a_row, a_offsets])
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def multiply_packed_tile(  # type: ignore[no-untyped-def]
    typingctx, address, rows, vectors, a, a_first, b, b_first, b_offsets, b_from, count,
    c, c_first, c_row, start, start_first, add, ahead, ahead_first, ahead_row,
):  # fmt: skip
    """Like `multiply_tile`, with packed scalars ``a[a_first + i + j*ROWS]``.

    `address` is the dtype's `packed_tile_address`. Each step j prefetches
    ``ahead[ahead_first + j*ahead_row]``, which may lie beyond the array, into L2.
    """
    del typingctx
    signature = types.void(
        address, rows, vectors, a, a_first, b, b_first, b_offsets, b_from, count, c,
        c_first, c_row, start, start_first, add, ahead, ahead_first, ahead_row,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        called = [queue.word(), queue.word(), queue.word()]
        _call_tile(builder, queue, called, [queue.place()], ahead=True)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def multiply_lanes(  # type: ignore[no-untyped-def]
    typingctx, address, rows, columns, a, a_first, a_row, a_offsets, b, b_first, b_row, b_offsets,
    count, c, c_first, c_row, c_column, add,
):  # fmt: skip
    """Multiply strips of vectors lane by lane: a tile of `rows` x `columns` sums over all lanes.

    For each row i, each column k and each j from 0 to count - 1, on flattened arrays::

        c[c_first + i*c_row + k*c_column] (+)= sum(a[a_first + i*a_row + a_offsets[j] + lanes]
                                                   * b[b_first + k*b_row + b_offsets[j] + lanes])

    Sums are added to `c` if `add` is true. `count` is at least 1, `rows` from 1 to `ROWS` and
    `columns` from 1 to `VECTORS`; `address` is the dtype's `lanes_tile_address`.
    """
    del typingctx
    signature = types.void(
        address, rows, columns, a, a_first, a_row, a_offsets, b, b_first, b_row, b_offsets, count,
        c, c_first, c_row, c_column, add,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        address, rows, columns = queue.word(), queue.word(), queue.word()
        a, a_row, a_offsets = queue.place(), queue.word(), queue.array()
        b, b_row, b_offsets, count = queue.place(), queue.word(), queue.array(), queue.word()
        c, c_row, c_column, add = queue.place(), queue.word(), queue.word(), queue.word()
        values = [rows, columns, a, a_row, a_offsets, b, b_row, b_offsets, count, c, c_row]
        _call_address(builder, address, [*values, c_column, add])
        return context.get_dummy_value()

    return signature, emit


def _call_tile(
    builder: Any, queue: simd.Arguments, called: list[Any], scalars: list[Any], ahead: bool = False
) -> None:
    """Call a micro-kernel; read the arguments after the scalars, common to its intrinsics."""
    address, rows, vectors = called
    b, b_offsets, count = queue.place(), queue.place(), queue.word()
    c, c_row, start, add = queue.place(), queue.word(), queue.place(), queue.word()
    values = [rows, vectors, *scalars, b, b_offsets, count, c, c_row, start, add]
    if ahead:
        values += [queue.place(), queue.word()]
    _call_address(builder, address, values)


def _call_address(builder: Any, address: Any, values: list[Any]) -> None:
    """Call a micro-kernel with a table of values, allocated in the caller's stack frame."""
    word = ir.IntType(64)
    table = cgutils.alloca_once(builder, word, len(values))
    for number, value in enumerate(values):
        if isinstance(value.type, ir.PointerType):
            value = builder.ptrtoint(value, word)
        builder.store(value, builder.gep(table, [word(number)]))
    null = ir.Constant(ir.IntType(8).as_pointer(), None)
    kind = ir.FunctionType(ir.VoidType(), [table.type, null.type])
    builder.call(builder.inttoptr(address, kind.as_pointer()), [table, null])


@intrinsic
def _lanes_tile(typingctx, arguments, like):  # type: ignore[no-untyped-def]
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        named = _named(_LANES_ARGUMENTS, builder, arguments)
        kind = signature.args[1].dtype
        sizes = [(m, n) for m in range(1, ROWS + 1) for n in range(1, VECTORS + 1)]
        for rows, columns in _each_size(builder, sizes, named["rows"], named["columns"]):
            tile_code.emit_lanes_tile(builder, rows, columns, kind, named)
        return context.get_dummy_value()

    return types.void(arguments, like), emit
