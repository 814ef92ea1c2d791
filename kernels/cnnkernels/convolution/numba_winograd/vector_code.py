"""Vectors of tiles: the transforms, and pixels sorted into tiles and back, as LLVM IR.

A lane is a tile, a filter or a channel. Vectors are explicit, so that neither the vectorizer nor an
environment variable decides what they become. Arrays are flat, and an index names the first lane.
`outputs` is the m of F(m, 3), one of `transforms.POINTS`; it is known when a kernel runs, and the
code of each is emitted beside the other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnkernels import simd
from cnnkernels.winograd.transforms import (
    POINTS,
    TAPS,
    Matrix,
    Transforms,
    transforms,
)

_WORD = ir.IntType(64)

_AS_WRITTEN = ("nsz",)
"""Flags of sums and products. Those without any flag get Numba's: LLVM may then reorder them, and
fuse them to FMAs. It did so differently in a process that compiled and in one that used the cache,
which gave other bits, and it left products unrounded that had to be integers. This flag only allows
-0 for 0."""


def _transform(choose: Callable[[Transforms], Matrix], divided: str = "") -> Any:
    """Return the intrinsic of a transform of both axes: rows, then columns.

    `divided` says which vectors are divided by the denominators of both axes: "read" or "written".
    It takes the outputs of a tile, and of the vectors that it reads, and of those that it writes,
    an array, the place of the first, and the distances of rows and columns.
    """

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        m = queue.word()
        source, of_row, of_column = queue.place(), queue.word(), queue.word()
        target, to_row, to_column = queue.place(), queue.word(), queue.word()

        for outputs in _each_tile(builder, m):
            given = transforms(outputs)
            matrix = choose(given)
            factors = [[1 / (a * b) for b in given.denominators] for a in given.denominators]
            size, made = len(matrix[0]), len(matrix)
            rows = []
            for i in range(size):
                row = []
                for j in range(size):
                    vector = _load(builder, _at(builder, source, of_row, i, of_column, j))
                    if divided == "read":
                        vector = _scaled(builder, vector, factors[i][j])
                    row.append(vector)
                rows.append(_multiply(builder, matrix, row))
            for q in range(made):
                column = _multiply(builder, matrix, [rows[i][q] for i in range(size)])
                for p, vector in enumerate(column):
                    if divided == "written":
                        vector = _scaled(builder, vector, factors[p][q])
                    _store(builder, vector, _at(builder, target, to_row, p, to_column, q))
        return context.get_dummy_value()

    @intrinsic
    def transform(  # type: ignore[no-untyped-def]
        typingctx, outputs, of, of_first, of_row, of_column, to, to_first, to_row, to_column
    ):
        del typingctx
        kinds = (outputs, of, of_first, of_row, of_column, to, to_first, to_row, to_column)
        return types.void(*kinds), emit

    return transform


transform_images = _transform(lambda given: given.image)
"""Set V = B^T d B: of t x t vectors t x t."""

transform_weights = _transform(lambda given: given.weights, divided="written")
"""Set U = G g G^T, divided by the denominators: of 3 x 3 vectors t x t."""

transform_back = _transform(lambda given: given.output)
"""Set y = A^T M A: of t x t vectors m x m."""

transform_gradients = _transform(lambda given: given.gradient)
"""Transform m x m gradients of outputs to t x t vectors, for the gradient of the weights."""

transform_weights_back = _transform(lambda given: given.weights_back, divided="read")
"""Transform t x t sums, after dividing them, to the gradients of 3 x 3 weights."""


@intrinsic
def load_phases(  # type: ignore[no-untyped-def]
    typingctx, outputs, of, of_first, begin, end, to, to_first, to_phase
):
    """Sort a run of pixels into the columns of tiles that overlap.

    Column q of the tile in a lane is pixel ``lane * m + q`` of the run, for q < t; the last lane
    lacks columns m and m + 1. Pixels outside ``begin <= pixel < end`` are zero and not read.
    """
    del typingctx
    kinds = (outputs, of, of_first, begin, end, to, to_first, to_phase)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        m, source = queue.word(), queue.place()
        begin, end, target, phase = queue.word(), queue.word(), queue.place(), queue.word()
        for outputs in _each_tile(builder, m):
            vectors = [_load_masked(builder, source, v, begin, end) for v in range(outputs)]
            phases = _parted(builder, vectors)
            phases += [_moved(builder, vector) for vector in phases[: TAPS - 1]]
            for q, vector in enumerate(phases):
                place = builder.gep(target, [builder.mul(phase, _WORD(q))])
                _store(builder, vector, place)
        return context.get_dummy_value()

    return types.void(*kinds), emit


@intrinsic
def store_pixels(  # type: ignore[no-untyped-def]
    typingctx, outputs, of, of_first, of_phase, bias, to, to_first
):
    """Sort columns of tiles into a run of pixels, and add a bias to each: lanes * m pixels."""
    del typingctx
    kinds = (outputs, of, of_first, of_phase, bias, to, to_first)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        m, source, phase, bias = queue.word(), queue.place(), queue.word(), queue.value()
        target = queue.place()
        count = _vector_of(source).count
        for outputs in _each_tile(builder, m):
            phases = [
                _load(builder, builder.gep(source, [builder.mul(phase, _WORD(q))]))
                for q in range(outputs)
            ]
            addend = simd.splat(builder, bias, count)
            for v, vector in enumerate(_joined(builder, phases)):
                place = builder.gep(target, [_WORD(v * count)])
                _store(builder, _add(builder, vector, addend), place)
        return context.get_dummy_value()

    return types.void(*kinds), emit


@intrinsic
def copy_masked(typingctx, to, to_first, of, of_first, count):  # type: ignore[no-untyped-def]
    """Copy the first `count` lanes of a vector; what lies beyond is neither read nor written."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        queue = simd.Arguments(context, builder, signature, arguments)
        target, source, count = queue.place(), queue.place(), queue.word()
        vector = _load_masked(builder, source, 0, _WORD(0), count)
        mask = _mask(builder, vector.type.count, 0, _WORD(0), count)
        place = builder.bitcast(target, vector.type.as_pointer())
        _masked(builder, "store", vector.type)(vector, place, mask)
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first, count), emit


# --------------------------------------------------------------------------------------------


def _at(builder: Any, place: Any, row: Any, i: int, column: Any, j: int) -> Any:
    """Return the address some rows and columns away."""
    index = builder.add(builder.mul(row, _WORD(i)), builder.mul(column, _WORD(j)))
    return builder.gep(place, [index])


def _multiply(builder: Any, matrix: Matrix, vectors: list[Any]) -> list[Any]:
    """Emit the product of a matrix and vectors.

    Two rows that differ in signs alone, as those of opposite points do, share their sums: of what
    has the same sign in both, and of what has not.
    """
    products: list[Any] = []
    while len(products) < len(matrix):
        one = matrix[len(products)]
        other = matrix[len(products) + 1] if len(products) + 1 < len(matrix) else None
        if other is None or tuple(map(abs, one)) != tuple(map(abs, other)) or one == other:
            products.append(_sum(builder, one, vectors))
            continue
        same = _sum(builder, _half(one, other, 1), vectors)
        opposite = _sum(builder, _half(one, other, -1), vectors)
        products += [_add(builder, same, opposite), _subtract(builder, same, opposite)]
    return products


def _half(one: Sequence[Fraction], other: Sequence[Fraction], sign: int) -> list[Fraction]:
    return [(a + sign * b) / 2 for a, b in zip(one, other, strict=True)]


def _sum(builder: Any, factors: Sequence[Fraction], vectors: list[Any]) -> Any:
    """Emit a sum of vectors times factors; terms without a multiplication come first."""
    terms = [(factor, vector) for factor, vector in zip(factors, vectors, strict=True) if factor]
    sizes = {abs(factor) for factor, _ in terms}
    common = sizes.pop() if len(sizes) == 1 else Fraction(1)
    total = None
    for factor, vector in sorted(terms, key=lambda term: (abs(term[0]) != 1, term[0] < 0)):
        factor /= common
        if total is None:
            total = _scaled(builder, vector, factor)
        elif factor == 1:
            total = _add(builder, total, vector)
        elif factor == -1:
            total = _subtract(builder, total, vector)
        else:
            scale = _constant(vector.type, factor)
            total = builder.call(simd.fma(builder, vector.type), [scale, vector, total])
    return _scaled(builder, total, common)


def _scaled(builder: Any, vector: Any, factor: Fraction) -> Any:
    if factor == 1:
        return vector
    return builder.fmul(vector, _constant(vector.type, factor), flags=_AS_WRITTEN)


def _add(builder: Any, one: Any, other: Any) -> Any:
    return builder.fadd(one, other, flags=_AS_WRITTEN)


def _subtract(builder: Any, one: Any, other: Any) -> Any:
    return builder.fsub(one, other, flags=_AS_WRITTEN)


def _constant(vector: Any, value: Fraction) -> ir.Constant:
    return ir.Constant(vector, [float(value)] * vector.count)


def _parted(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return every n-th lane of n vectors in a row, from each of the first n lanes on."""
    if len(vectors) == 1:
        return vectors
    pairs = list(zip(vectors[::2], vectors[1::2], strict=True))
    even, odd = (
        _parted(builder, [_shuffled(builder, a, b, range(first, 2 * a.type.count, 2))
                          for a, b in pairs])
        for first in (0, 1)
    )  # fmt: skip
    return [vector for pair in zip(even, odd, strict=True) for vector in pair]


def _joined(builder: Any, phases: list[Any]) -> list[Any]:
    """Return n vectors in a row, of which every n-th lane is that of a phase: `_parted` undone."""
    if len(phases) == 1:
        return phases
    even, odd = _joined(builder, phases[::2]), _joined(builder, phases[1::2])
    joined = []
    for a, b in zip(even, odd, strict=True):
        count = a.type.count
        lanes = [lane + count * which for lane in range(count) for which in (0, 1)]
        joined += [_shuffled(builder, a, b, half) for half in (lanes[:count], lanes[count:])]
    return joined


def _moved(builder: Any, vector: Any) -> Any:
    """Return a vector with each lane's successor in it, and zero in the last."""
    zeros = ir.Constant(vector.type, None)
    return _shuffled(builder, vector, zeros, range(1, vector.type.count + 1))


def _shuffled(builder: Any, one: Any, other: Any, lanes: Sequence[int]) -> Any:
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    return builder.shuffle_vector(one, other, ir.Constant(kind, list(lanes)))


def _mask(builder: Any, count: int, number: int, begin: Any, end: Any) -> Any:
    """Return which lanes of a run's vector lie between two pixels, which 32 bits hold."""
    half = ir.IntType(32)
    pixel = ir.Constant(
        ir.VectorType(half, count), [number * count + lane for lane in range(count)]
    )
    begin, end = (simd.splat(builder, builder.trunc(at, half), count) for at in (begin, end))
    return builder.and_(
        builder.icmp_signed(">=", pixel, begin), builder.icmp_signed("<", pixel, end)
    )


def _load_masked(builder: Any, place: Any, number: int, begin: Any, end: Any) -> Any:
    """Load a vector of a run of pixels, with zeros for what is not between two pixels."""
    vector = _vector_of(place)
    mask = _mask(builder, vector.count, number, begin, end)
    place = builder.gep(place, [_WORD(number * vector.count)])
    place = builder.bitcast(place, vector.as_pointer())
    return _masked(builder, "load", vector)(place, mask)


def _masked(builder: Any, access: str, vector: Any) -> Callable[..., Any]:
    """Return the emitter of a masked load of (place, mask), or store of (vector, place, mask)."""
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    mask, aligned = ir.VectorType(ir.IntType(1), vector.count), ir.IntType(32)
    name = f"llvm.masked.{access}.v{vector.count}f{bits}.p0"
    if access == "load":
        kind = ir.FunctionType(vector, [vector.as_pointer(), aligned, mask, vector])
    else:
        kind = ir.FunctionType(ir.VoidType(), [vector, vector.as_pointer(), aligned, mask])
    function = cgutils.get_or_insert_function(builder.module, kind, name)
    size = aligned(bits // 8)
    if access == "load":
        zeros = ir.Constant(vector, None)
        return lambda place, mask: builder.call(function, [place, size, mask, zeros])
    return lambda value, place, mask: builder.call(function, [value, place, size, mask])


def _vector_of(place: Any) -> Any:
    element = place.type.pointee
    size = 4 if isinstance(element, ir.FloatType) else 8
    return ir.VectorType(element, simd.lanes(size))


def _load(builder: Any, place: Any) -> Any:
    return simd.load_vector(builder, builder.bitcast(place, _vector_of(place).as_pointer()))


def _store(builder: Any, vector: Any, place: Any) -> None:
    place = builder.bitcast(place, vector.type.as_pointer())
    builder.store(vector, place, align=simd.alignment(place))


def _each_tile(builder: Any, outputs: Any) -> Iterator[int]:
    """Yield sizes of tiles, each to be emitted where the code of that size stands."""
    done = builder.append_basic_block("tile.done")
    switch = builder.switch(outputs, done)
    for size in POINTS:
        block = builder.append_basic_block(f"tile.{size}")
        switch.add_case(_WORD(size), block)
        builder.position_at_end(block)
        yield size
        builder.branch(done)
    builder.position_at_end(done)
