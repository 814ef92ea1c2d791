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

from cnnkernels import jit, simd

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
        _emit_tile(builder, rows, vectors, kind, named, packed)
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


def _emit_tile(
    builder: Any, rows: int, vectors: int, element: Any, named: dict[str, Any], packed: bool
) -> None:
    """Emit the multiplication of a tile with a known number of rows and vectors."""
    vector = simd.vector_type(element)
    width, size = vector.count, element.bitwidth // 8
    word = ir.IntType(64)
    multiply_add = simd.fma(builder, vector)
    tile = [(i, v) for i in range(rows) for v in range(vectors)]

    def vector_at(pointer: Any, number: int) -> Any:
        place = builder.gep(pointer, [word(number * width)])
        return builder.bitcast(place, vector.as_pointer())

    def prefetch_row(place: Any) -> None:
        for v in range(vectors):
            simd.emit_prefetch(builder, builder.gep(place, [word(v * width)]), write=True)

    # The lines of the result are fetched while the sums are made: a row with each step, so that
    # other operands need not wait for all of them. Without packed rows that would spill sums.
    body = builder.append_basic_block("body")
    store = builder.append_basic_block("store")
    given, c_rows = [], []
    pointer = named["c"]
    entry = builder.block
    for i in range(rows):
        c_rows.append(pointer)
        if not packed:
            prefetch_row(pointer)
        pointer = builder.gep(pointer, [named["c_row"]])
        start = builder.load(builder.gep(named["start"], [word(i)]))
        given.append(simd.splat(builder, start, width))
    builder.branch(body)

    builder.position_at_end(body)
    j = builder.phi(word)
    sums = {place: builder.phi(vector) for place in tile}
    j.add_incoming(word(0), entry)
    for i, v in tile:
        sums[i, v].add_incoming(given[i], entry)
    if packed:
        line, ahead, c_row = (builder.phi(named[name].type) for name in ("a", "ahead", "c"))
        line.add_incoming(named["a"], entry)
        ahead.add_incoming(named["ahead"], entry)
        c_row.add_incoming(named["c"], entry)

    def offset(table: str) -> Any:
        return builder.load(builder.gep(named[f"{table}_offsets"], [j]))

    b = builder.gep(named["b"], [offset("b")])
    if packed:
        scalars = [builder.gep(line, [word(i)]) for i in range(rows)]
        line.add_incoming(builder.gep(line, [word(ROWS)]), body)
        simd.emit_prefetch(builder, ahead, write=False, cache=2)
        ahead.add_incoming(builder.gep(ahead, [named["ahead_row"]]), body)
        prefetch_row(c_row)
        further = builder.icmp_signed("<", j, word(rows - 1))
        step = builder.select(further, named["c_row"], word(0))
        c_row.add_incoming(builder.gep(c_row, [step]), body)
    else:
        scalars = _spaced(builder, builder.gep(named["a"], [offset("a")]), named["a_row"], rows)

    @functools.cache
    def factor(i: int) -> Any:
        return simd.splat(builder, builder.load(scalars[i], align=size), width)

    @functools.cache
    def strip(v: int) -> Any:
        return builder.load(vector_at(b, v), align=size)

    results: dict[tuple[int, int], Any] = {}
    for place in sorted(tile, key=None if vectors <= rows else lambda place: place[::-1]):
        i, v = place
        results[place] = builder.call(multiply_add, [factor(i), strip(v), sums[place]])
    following = builder.add(j, word(1))
    j.add_incoming(following, body)
    for place in tile:
        sums[place].add_incoming(results[place], body)
    _repeat(builder, builder.icmp_signed("<", following, named["count"]), body, store)

    builder.position_at_end(store)
    places = [[vector_at(c_rows[i], v) for v in range(vectors)] for i in range(rows)]
    with builder.if_else(builder.icmp_signed("!=", named["add"], word(0))) as (added, alone):
        with added:
            for i, v in tile:
                total = builder.fadd(builder.load(places[i][v], align=size), results[i, v])
                builder.store(total, places[i][v], align=size)
        with alone:
            for i, v in tile:
                builder.store(results[i, v], places[i][v], align=size)


def _repeat(builder: Any, again: Any, body: Any, after: Any) -> None:
    """Close a loop that LLVM must not unroll.

    A tile fills the registers: where LLVM unrolls (it does for some processors), the scalars of two
    steps do not fit in, and a spill a sum makes the loop three times slower.
    """
    simd.forbid_unrolling(builder, builder.cbranch(again, body, after))


def _spaced(builder: Any, place: Any, row: Any, rows: int) -> list[Any]:
    """Return addresses that lie `row` elements apart.

    They are reached in threes from one pointer, by one or two strides: few registers hold all.
    """
    word = ir.IntType(64)
    two_rows, three_rows = (builder.mul(row, word(times)) for times in (2, 3))
    places = []
    for i in range(rows):
        if i and i % 3 == 0:
            place = builder.gep(place, [three_rows])
        places.append(builder.gep(place, [(word(0), row, two_rows)[i % 3]]))
    return places


@intrinsic
def _lanes_tile(typingctx, arguments, like):  # type: ignore[no-untyped-def]
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        named = _named(_LANES_ARGUMENTS, builder, arguments)
        kind = signature.args[1].dtype
        sizes = [(m, n) for m in range(1, ROWS + 1) for n in range(1, VECTORS + 1)]
        for rows, columns in _each_size(builder, sizes, named["rows"], named["columns"]):
            _emit_lanes_tile(builder, rows, columns, kind, named)
        return context.get_dummy_value()

    return types.void(arguments, like), emit


def _emit_lanes_tile(
    builder: Any, rows: int, columns: int, element: Any, named: dict[str, Any]
) -> None:
    """Emit the sums of a tile with a known number of rows and columns."""
    vector = simd.vector_type(element)
    word = ir.IntType(64)
    multiply_add = simd.fma(builder, vector)
    tile = [(i, k) for i in range(rows) for k in range(columns)]
    entry = builder.block
    body, store = builder.append_basic_block("body"), builder.append_basic_block("store")
    builder.branch(body)

    builder.position_at_end(body)
    j = builder.phi(word)
    sums = {place: builder.phi(vector) for place in tile}

    def strips(name: str, number: int) -> list[Any]:
        offset = builder.load(builder.gep(named[f"{name}_offsets"], [j]))
        place = builder.gep(named[name], [offset])
        places = _spaced(builder, place, named[f"{name}_row"], number)
        return [simd.load_vector(builder, builder.bitcast(p, vector.as_pointer())) for p in places]

    across, down = strips("b", columns), strips("a", rows)
    results = {
        (i, k): builder.call(multiply_add, [down[i], across[k], sums[i, k]]) for i, k in tile
    }
    following = builder.add(j, word(1))
    j.add_incoming(word(0), entry)
    j.add_incoming(following, body)
    for place in tile:
        sums[place].add_incoming(ir.Constant(vector, None), entry)
        sums[place].add_incoming(results[place], body)
    _repeat(builder, builder.icmp_signed("<", following, named["count"]), body, store)

    builder.position_at_end(store)
    c_row, c_column = named["c_row"], named["c_column"]
    totals = _sums_of_lanes(builder, list(results.values()))
    places = [
        builder.gep(named["c"], [builder.add(builder.mul(c_row, word(i)), at)])
        for i in range(rows)
        for at in (builder.mul(c_column, word(k)) for k in range(columns))
    ]
    with builder.if_else(builder.icmp_signed("!=", named["add"], word(0))) as (added, alone):
        with added:
            for place, total in zip(places, totals, strict=True):
                builder.store(builder.fadd(builder.load(place), total), place)
        with alone:
            for place, total in zip(places, totals, strict=True):
                builder.store(total, place)


def _sums_of_lanes(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return the sum of the lanes of each vector: two vectors are halved to one, and so on."""
    count, totals = vectors[0].type.count, []
    for first in range(0, len(vectors), count):
        strips = vectors[first : first + count]
        wanted = len(strips)
        strips += [ir.Constant(strips[0].type, None)] * (count - wanted)
        step = 1
        while step < count:
            low, high = simd.corners(count, step)
            pairs = zip(strips[::2], strips[1::2], strict=True)
            strips = [
                builder.fadd(builder.shuffle_vector(a, b, low), builder.shuffle_vector(a, b, high))
                for a, b in pairs
            ]
            step *= 2
        number = ir.IntType(32)
        totals += [builder.extract_element(strips[0], number(lane)) for lane in range(wanted)]
    return totals


@intrinsic
def copy_rows(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Copy `ROWS` elements between flat arrays."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = simd.vector_places(context, builder, signature.args, arguments)
        rows = ir.VectorType(target.type.pointee.element, ROWS).as_pointer()
        target, source = (builder.bitcast(place, rows) for place in (target, source))
        builder.store(simd.load_vector(builder, source), target, align=simd.alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first), emit


@intrinsic
def transpose_tile(  # type: ignore[no-untyped-def]
    typingctx, to, to_first, to_offsets, to_from, of, of_first, of_row, rows, count,
):  # fmt: skip
    """Transpose a strip of weights into `count` lines of `ROWS`, anywhere: see `transpose_square`.

    Line i is written at ``to_first + to_offsets[to_from + i]``, and no element beyond it.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word = ir.IntType(64)
        to, to_first, to_offsets, to_from, *source, count = zip(
            signature.args, arguments, strict=True
        )
        cast = functools.partial(simd.cast_word, context, builder)
        place = builder.gep(simd.data_of(context, builder, *to), [cast(*to_first)])
        offsets = builder.gep(simd.data_of(context, builder, *to_offsets), [cast(*to_from)])
        strips = simd.transposed(context, builder, *source)
        whole = strips[0].type
        line = ir.VectorType(whole.element, ROWS)
        lanes = [min(lane, whole.count - 1) for lane in range(ROWS)]
        first_lanes = ir.Constant(ir.VectorType(ir.IntType(32), ROWS), lanes)
        for i, strip in enumerate(strips):
            with builder.if_then(builder.icmp_signed("<", word(i), cast(*count))):
                at = builder.load(builder.gep(offsets, [word(i)]))
                target = builder.bitcast(builder.gep(place, [at]), line.as_pointer())
                value = builder.shuffle_vector(strip, strip, first_lanes)
                builder.store(value, target, align=simd.alignment(target))
        return context.get_dummy_value()

    kinds = (to, to_first, to_offsets, to_from, of, of_first, of_row, rows, count)
    return types.void(*kinds), emit
