"""The micro-kernels: tiles of sums that stay in vector registers, and what they are fed with.

They are emitted as LLVM IR with explicit vectors and ``llvm.fma``, so that neither the vectoriser's
mood nor an environment variable decides what they become. Each is an outer product: some factors a
row, some a column, summed in registers over a reduction. Both operands can be addressed through
tables of offsets, so that the same code multiplies packed panels and walks over the taps of a
convolution in the arrays as they are [1]_.

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
"""Vectors of sums that a tile has at the most: of 32 registers, or of the 16 that AVX2 has.

The others hold the vectors that are multiplied, and the broadcast scalar.
"""

MOST_ROWS = SUMS // 2
"""Rows of a tile, at the most."""

ROWS, VECTORS = (8, 3) if SUMS == 24 else (6, 2)
"""The tile that loads least for each product, where nothing else decides."""

_WIDTHS = (1, 2, 3, 4, 6, 8)
"""How many vectors side by side a tile may have."""


def _widest(rows: int) -> int:
    """Return how many vectors side by side a tile of so many rows has, at the most."""
    widest = 1
    for vectors in _WIDTHS:
        if rows * vectors <= SUMS:
            widest = vectors
    return widest


widest = jit.inlined(_widest)


@jit.inlined
def covering(columns, lanes, most):  # type: ignore[no-untyped-def]
    """Return how many vectors a tile needs for some columns: `most`, or as few as cover them."""
    for vectors in _WIDTHS:
        if vectors >= most or vectors * lanes >= columns:
            return min(vectors, most)
    return most


# What the functions behind the addresses are called with: places in arrays, and numbers.
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
    """Return the address of the compiled micro-kernel, which `multiply_tile` calls.

    It is compiled once for each dtype, apart: a function that Numba links into another is optimised
    anew with each of them.
    """

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _tile(arguments, like)

    return jit.address(_signature(dtype), tile)


@functools.cache
def packed_tile_address(dtype: str) -> int:
    """Return the address of the one that `multiply_packed_tile` calls: see `tile_address`."""

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _packed_tile(arguments, like)

    return jit.address(_signature(dtype), tile)


@functools.cache
def lanes_tile_address(dtype: str) -> int:
    """Return the address of the one that `multiply_lanes` calls: see `tile_address`."""

    def tile(arguments, like):  # type: ignore[no-untyped-def]
        _lanes_tile(arguments, like)

    return jit.address(_signature(dtype), tile)


def _signature(dtype: str) -> Any:
    """Return what micro-kernels take: a table of arguments, and a null pointer for the dtype.

    One by one so many arguments would be copied on their way, by loads that are wider than the
    stores just before, for which a processor waits.
    """
    like = types.CPointer(getattr(types, dtype))
    return types.void(types.CPointer(types.int64), like)


def _named(names: tuple[str, ...], builder: Any, arguments: Any) -> dict[str, Any]:
    """Load arguments from their table, by name; places of elements and of offsets as pointers."""
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
    """Emit the multiplication of tiles of all sizes, and the choice of one."""
    named = _named(_PACKED_ARGUMENTS if packed else _ARGUMENTS, builder, arguments)
    kind = signature.args[1].dtype
    sizes = [(m, v) for m in range(1, MOST_ROWS + 1) for v in _WIDTHS if v <= _widest(m)]
    for rows, vectors in _each_size(builder, sizes, named["rows"], named["vectors"]):
        tile_code.emit_tile(builder, rows, vectors, kind, named, ROWS if packed else 0)
    return context.get_dummy_value()


def _each_size(
    builder: Any, sizes: list[tuple[int, int]], rows: Any, columns: Any
) -> Iterator[tuple[int, int]]:
    """Yield sizes of tiles, each to be emitted where the code of that size stands."""
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

    For each row i and each j from 0 to count - 1, with arrays taken as flat::

        c[c_first + i*c_row + lanes] (+)= a[a_first + i*a_row + a_offsets[a_from + j]]
                                          * b[b_first + b_offsets[b_from + j] + lanes]

    Sums begin with ``start[start_first + i]``, and are added to what stands in `c` if `add` is
    true. `count` is 1 at the least, `rows` from 1 to `MOST_ROWS`, `vectors` one of `_WIDTHS`,
    `widest` at the most; `address` is `tile_address` of the dtype.
    """
    del typingctx
    signature = types.void(
        address, rows, vectors, a, a_first, a_row, a_offsets, a_from, b, b_first, b_offsets, b_from,
        count, c, c_first, c_row, start, start_first, add,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = _Queue(context, builder, signature, arguments)
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
    """Multiply as `multiply_tile` does, with scalars that lie row after row, `ROWS` a line.

    Those are ``a[a_first + i + j*ROWS]``; `address` is `packed_tile_address` of the dtype. With
    each j ``ahead[ahead_first + j*ahead_row]``, which may lie beyond the array, is brought to the
    second cache for later use.
    """
    del typingctx
    signature = types.void(
        address, rows, vectors, a, a_first, b, b_first, b_offsets, b_from, count, c,
        c_first, c_row, start, start_first, add, ahead, ahead_first, ahead_row,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = _Queue(context, builder, signature, arguments)
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

    For each row i, each column k and each j from 0 to count - 1, with arrays taken as flat::

        c[c_first + i*c_row + k*c_column] (+)= sum(a[a_first + i*a_row + a_offsets[j] + lanes]
                                                   * b[b_first + k*b_row + b_offsets[j] + lanes])

    Sums are added to what stands in `c` if `add` is true. `count` is 1 at the least, `rows` and
    `columns` are from 1 to `ROWS` and to `VECTORS`; `address` is `lanes_tile_address` of the dtype.
    """
    del typingctx
    signature = types.void(
        address, rows, columns, a, a_first, a_row, a_offsets, b, b_first, b_row, b_offsets, count,
        c, c_first, c_row, c_column, add,
    )  # fmt: skip

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = _Queue(context, builder, signature, arguments)
        address, rows, columns = queue.word(), queue.word(), queue.word()
        a, a_row, a_offsets = queue.place(), queue.word(), queue.array()
        b, b_row, b_offsets, count = queue.place(), queue.word(), queue.array(), queue.word()
        c, c_row, c_column, add = queue.place(), queue.word(), queue.word(), queue.word()
        values = [rows, columns, a, a_row, a_offsets, b, b_row, b_offsets, count, c, c_row]
        _call_address(builder, address, [*values, c_column, add])
        return context.get_dummy_value()

    return signature, emit


class _Queue:
    """The arguments of an intrinsic, taken one after another."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._context, self._builder = context, builder
        self._pairs = list(zip(signature.args, arguments, strict=True))

    def word(self) -> Any:
        kind, value = self._pairs.pop(0)
        return self._context.cast(self._builder, value, kind, types.int64)

    def array(self) -> Any:
        """Take an array, as the address of its first element."""
        return simd.data_of(self._context, self._builder, *self._pairs.pop(0))

    def place(self) -> Any:
        """Take an array and the index of an element, as the element's address."""
        data = self.array()
        return self._builder.gep(data, [self.word()])


def _call_tile(
    builder: Any, queue: _Queue, called: list[Any], scalars: list[Any], ahead: bool = False
) -> None:
    """Call a micro-kernel with what its intrinsics have in common: all that follows the scalars."""
    address, rows, vectors = called
    b, b_offsets, count = queue.place(), queue.place(), queue.word()
    c, c_row, start, add = queue.place(), queue.word(), queue.place(), queue.word()
    values = [rows, vectors, *scalars, b, b_offsets, count, c, c_row, start, add]
    if ahead:
        values += [queue.place(), queue.word()]
    _call_address(builder, address, values)


def _call_address(builder: Any, address: Any, values: list[Any]) -> None:
    """Call a micro-kernel with a table of values, which stands in the caller's frame."""
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
