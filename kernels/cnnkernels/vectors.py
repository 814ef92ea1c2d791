"""Vectors as values in compiled code, for kernels whose innermost loop is over lanes.

The code states what each register holds, instead of relying on the vectorizer's heuristics. Arrays
store vectors along their last axis, of length `lanes`; an index of vectors leaves that axis out.
Sums are tuples of `ROWS` vectors, which stay in registers and do not depend on each other. The rows
of a tuple are adjacent along the last axis of the index.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic, models, register_model

from cnnkernels import simd
from cnnkernels.simd import lanes, splat

ROWS = 8
"""Vectors of sums: enough to hide an FMA's latency, and few enough for 16 registers."""


class Vector(types.Type):  # type: ignore[misc]
    """Numba type of a vector of `count` elements."""

    def __init__(self, dtype: Any, count: int) -> None:
        self.dtype, self.count = dtype, count
        super().__init__(f"vector({count} x {dtype})")


@register_model(Vector)
class _Model(models.PrimitiveModel):  # type: ignore[misc]
    def __init__(self, manager: Any, kind: Vector) -> None:
        element = manager.lookup(kind.dtype).get_data_type()
        super().__init__(manager, kind, ir.VectorType(element, kind.count))


def _vector_of(array: Any) -> Vector:
    return Vector(array.dtype, lanes(array.dtype.bitwidth // 8))


def _rows_of(array: Any) -> Any:
    return types.UniTuple(_vector_of(array), ROWS)


@intrinsic
def load(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Return the vector at an index."""
    del typingctx
    vector = _vector_of(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, vector)
        return _load(context, builder, place, vector)

    return vector(array, index), emit


@intrinsic
def store(typingctx, array, index, vector):  # type: ignore[no-untyped-def]
    """Store a vector at an index."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, vector)
        _store(context, builder, arguments[2], place, vector)
        return context.get_dummy_value()

    return types.void(array, index, vector), emit


@intrinsic
def filled(typingctx, array, value):  # type: ignore[no-untyped-def]
    """Return rows with a value in every lane, with an array's dtype."""
    del typingctx
    rows = _rows_of(array)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        scalar = context.cast(builder, arguments[1], signature.args[1], array.dtype)
        return context.make_tuple(builder, rows, [splat(builder, scalar, rows.dtype.count)] * ROWS)

    return rows(array, value), emit


@intrinsic
def broadcast(typingctx, scalars, index):  # type: ignore[no-untyped-def]
    """Return rows that each hold one scalar in all lanes; read scalars from an index on."""
    del typingctx
    rows = _rows_of(scalars)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, None)
        splats = [
            splat(builder, builder.load(_row(builder, place, row, 1)), rows.dtype.count)
            for row in range(ROWS)
        ]
        return context.make_tuple(builder, rows, splats)

    return rows(scalars, index), emit


@intrinsic
def add_scaled(typingctx, sums, scalars, index, vector):  # type: ignore[no-untyped-def]
    """Return sums plus a vector times one scalar per row; read scalars from an index on."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[1:], arguments[1:], None)

        def factor(row: int) -> Any:
            return splat(builder, builder.load(_row(builder, place, row, 1)), vector.count)

        return _add_products(context, builder, sums, arguments[0], factor, arguments[3])

    return sums(sums, scalars, index, vector), emit


@intrinsic
def add_products(typingctx, sums, vectors, index, vector):  # type: ignore[no-untyped-def]
    """Return sums plus a vector times one vector per row; read these from an index on."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args[1:], arguments[1:], vector)

        def factor(row: int) -> Any:
            return _load(context, builder, _row(builder, place, row, vector.count), vector)

        return _add_products(context, builder, sums, arguments[0], factor, arguments[3])

    return sums(sums, vectors, index, vector), emit


@intrinsic
def store_rows(typingctx, vectors, index, rows):  # type: ignore[no-untyped-def]
    """Store rows from an index on."""
    del typingctx
    kind = rows.dtype

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, kind)
        values = cgutils.unpack_tuple(builder, arguments[2])
        for row, value in enumerate(values):
            _store(context, builder, value, _row(builder, place, row, kind.count), kind)
        return context.get_dummy_value()

    return types.void(vectors, index, rows), emit


@intrinsic
def add_totals(typingctx, scalars, index, rows):  # type: ignore[no-untyped-def]
    """Add the sum over the lanes of each row to the scalars from an index on."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, None)
        totals = _totals(builder, cgutils.unpack_tuple(builder, arguments[2]))
        at = builder.bitcast(place, totals.type.as_pointer())
        size = scalars.dtype.bitwidth // 8
        builder.store(builder.fadd(builder.load(at, align=size), totals), at, align=size)
        return context.get_dummy_value()

    return types.void(scalars, index, rows), emit


@intrinsic
def larger(typingctx, best, winner, vector, number):  # type: ignore[no-untyped-def]
    """Return the larger elements and the winners' numbers, by the rules of max-pooling.

    The first of equal elements wins; a NaN wins, the last of several. Winners are bytes: `winner`,
    a vector or one number for all lanes, or `number` in lanes where `vector` wins.
    """
    del typingctx
    bytes_ = Vector(types.uint8, vector.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        def told(value: Any, kind: Any) -> Any:
            if kind == bytes_:
                return value
            return splat(builder, context.cast(builder, value, kind, types.uint8), bytes_.count)

        before, now = (told(arguments[at], signature.args[at]) for at in (1, 3))
        won = simd.wins(builder, arguments[2], arguments[0])
        pair = builder.select(won, arguments[2], arguments[0]), builder.select(won, now, before)
        return context.make_tuple(builder, signature.return_type, pair)

    return types.Tuple([vector, bytes_])(best, winner, vector, number), emit


@intrinsic
def where(typingctx, winners, index, number, vector):  # type: ignore[no-untyped-def]
    """Return a vector's elements where the bytes at an index equal `number`, else zeros."""
    del typingctx
    bytes_ = Vector(types.uint8, vector.count)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        place = _place(context, builder, signature.args, arguments, bytes_)
        number = context.cast(builder, arguments[2], signature.args[2], types.uint8)
        there = _load(context, builder, place, bytes_)
        same = builder.icmp_unsigned("==", there, splat(builder, number, bytes_.count))
        return builder.select(same, arguments[3], ir.Constant(arguments[3].type, None))

    return vector(winners, index, number, vector), emit


# --------------------------------------------------------------------------------------------


def _place(context: Any, builder: Any, kinds: Any, arguments: Any, vector: Vector | None) -> Any:
    """Return the address of the element, or of the vector's first lane, at an index."""
    array = context.make_array(kinds[0])(context, builder, arguments[0])
    index = [
        context.cast(builder, value, kind, types.intp)
        for value, kind in zip(cgutils.unpack_tuple(builder, arguments[1]), kinds[1], strict=True)
    ]
    if vector is not None:
        index.append(context.get_constant(types.intp, 0))
    return cgutils.get_item_pointer(context, builder, kinds[0], array, index, wraparound=False)


def _load(context: Any, builder: Any, place: Any, vector: Vector) -> Any:
    pointer = builder.bitcast(place, context.get_value_type(vector).as_pointer())
    return builder.load(pointer, align=vector.dtype.bitwidth // 8)


def _store(context: Any, builder: Any, value: Any, place: Any, vector: Vector) -> None:
    pointer = builder.bitcast(place, context.get_value_type(vector).as_pointer())
    builder.store(value, pointer, align=vector.dtype.bitwidth // 8)


def _lanes(numbers: Sequence[int]) -> ir.Constant:
    kind = ir.VectorType(ir.IntType(32), len(numbers))
    return ir.Constant(kind, [ir.IntType(32)(number) for number in numbers])


def _row(builder: Any, place: Any, row: int, step: int) -> Any:
    """Return the address of a row, with rows `step` elements apart."""
    return builder.gep(place, [ir.IntType(64)(row * step)])


def _add_products(
    context: Any, builder: Any, rows: Any, sums: Any, factor: Callable[[int], Any], vector: Any
) -> Any:
    fma = simd.fma(builder, vector.type)
    added = [
        builder.call(fma, [factor(row), vector, sum_])
        for row, sum_ in enumerate(cgutils.unpack_tuple(builder, sums))
    ]
    return context.make_tuple(builder, rows, added)


def _totals(builder: Any, rows: Sequence[Any]) -> Any:
    """Return one vector with the sum over the lanes of each row.

    Adjacent lanes are added, in two vectors at once if possible, until each row is one lane.
    """

    def neighbours_added(one: Any, other: Any, width: int) -> Any:
        even, odd = (
            builder.shuffle_vector(one, other, _lanes(range(first, width, 2))) for first in (0, 1)
        )
        return builder.fadd(even, odd)

    for _ in range(int(math.log2(rows[0].type.count))):
        width = rows[0].type.count
        if len(rows) == 1:
            rows = [neighbours_added(rows[0], rows[0], width)]
        else:
            pairs = zip(rows[::2], rows[1::2], strict=True)
            rows = [neighbours_added(one, other, 2 * width) for one, other in pairs]
    while len(rows) > 1:
        everything = _lanes(range(2 * rows[0].type.count))
        pairs = zip(rows[::2], rows[1::2], strict=True)
        rows = [builder.shuffle_vector(one, other, everything) for one, other in pairs]
    return rows[0]
