"""Vector code: this processor's vector width, and copies and sums of whole vectors.

Vector operations are emitted as LLVM IR, so that the result does not depend on the vectorizer's
heuristics or on environment variables. The micro-kernels are in `microkernel`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import llvmlite.binding
import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from cnnkernels import arrays, jit

_FEATURES: dict[str, bool] = dict(llvmlite.binding.get_host_cpu_features())


def vector_bytes() -> int:
    """Return the width in bytes of this processor's widest usable vector."""
    if _FEATURES.get("avx512f"):
        return 64
    if _FEATURES.get("avx"):
        return 32
    return 16


def has_fma() -> bool:
    """Return whether the processor multiplies and adds vectors in one instruction."""
    x86 = "sse2" in _FEATURES
    return bool(_FEATURES.get("fma") or _FEATURES.get("avx512f")) if x86 else True


def lanes(itemsize: int) -> int:
    """Return the number of elements of `itemsize` bytes in a vector."""
    return vector_bytes() // itemsize


def vector_type(element: Any) -> ir.VectorType:
    """Return the LLVM type of a whole vector of a Numba type."""
    bits = element.bitwidth
    scalar = ir.FloatType() if bits == 32 else ir.DoubleType()
    return ir.VectorType(scalar, vector_bytes() * 8 // bits)


def data_of(context: Any, builder: Any, kind: Any, array: Any) -> Any:
    """Return a pointer to the first element of an array."""
    return context.make_array(kind)(context, builder, array).data


def corners(count: int, step: int) -> tuple[Any, Any]:
    """Return the shuffle masks for two vectors that swap the corners of squares of a size."""
    number = ir.VectorType(ir.IntType(32), count)
    low, high = (
        [count + lane - step + take if lane & step else lane + take for lane in range(count)]
        for take in (0, step)
    )
    return ir.Constant(number, low), ir.Constant(number, high)


def emit_prefetch(builder: Any, place: Any, write: bool, cache: int = 1) -> None:
    """Prefetch the cache line of an address, which may be invalid, into L1 or L2."""
    byte, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    prefetch = cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(ir.VoidType(), [byte, number, number, number]),
        "llvm.prefetch.p0",
    )
    stay, data = number(4 - cache), number(1)
    builder.call(prefetch, [builder.bitcast(place, byte), number(int(write)), stay, data])


@intrinsic
def prefetch(typingctx, array, index):  # type: ignore[no-untyped-def]
    """Prefetch the cache line of an element, which may lie beyond the array."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (place,) = vector_places(context, builder, signature.args, arguments)
        emit_prefetch(builder, place, write=False)
        return context.get_dummy_value()

    return types.void(array, index), emit


@intrinsic
def copy_vector(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Copy one vector between flat arrays: ``to[to_first + lanes] = of[of_first + lanes]``."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = vector_places(context, builder, signature.args, arguments)
        builder.store(load_vector(builder, source), target, align=alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first), emit


@intrinsic
def copy_every_second(typingctx, to, to_first, of, of_first):  # type: ignore[no-untyped-def]
    """Copy every second element: ``to[to_first + lanes] = of[of_first + 2 * lanes]``.

    Two whole vectors are read.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = vector_places(context, builder, signature.args, arguments)
        value = _every_second(builder, source)
        builder.store(value, target, align=alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first), emit


def _every_second(builder: Any, place: Any) -> Any:
    """Load every second element of two vectors."""
    count = place.type.pointee.count
    following = builder.gep(place, [ir.IntType(32)(1)])
    even = ir.Constant(ir.VectorType(ir.IntType(32), count), [2 * lane for lane in range(count)])
    return builder.shuffle_vector(
        load_vector(builder, place), load_vector(builder, following), even
    )


def _emit_blend(load: Any, context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
    kinds = signature.args
    target, source = vector_places(context, builder, kinds[:4], arguments[:4])
    begin, end, keep = (
        cast_word(context, builder, kind, value)
        for kind, value in zip(kinds[4:], arguments[4:], strict=True)
    )
    vector = target.type.pointee
    number = ir.IntType(32)
    lane = ir.Constant(ir.VectorType(number, vector.count), list(range(vector.count)))
    begin, end = (
        splat(builder, builder.trunc(word, number), vector.count) for word in (begin, end)
    )
    taken = builder.and_(
        builder.icmp_signed(">=", lane, begin), builder.icmp_signed("<", lane, end)
    )
    kept = splat(builder, builder.icmp_signed("!=", keep, keep.type(0)), vector.count)
    other = builder.select(kept, load_vector(builder, target), ir.Constant(vector, None))
    value = builder.select(taken, load(builder, source), other)
    builder.store(value, target, align=alignment(target))
    return context.get_dummy_value()


@intrinsic
def blend_vector(typingctx, to, to_first, of, of_first, begin, end, keep):  # type: ignore[no-untyped-def]
    """Set some lanes of one vector: ``to[to_first + lane] = of[of_first + lane]``.

    The lanes are ``begin <= lane < end``; the others are kept, or become 0. A whole vector is read.
    """
    del typingctx
    emit = functools.partial(_emit_blend, load_vector)
    return types.void(to, to_first, of, of_first, begin, end, keep), emit


@intrinsic
def blend_every_second(typingctx, to, to_first, of, of_first, begin, end, keep):  # type: ignore[no-untyped-def]
    """Like `blend_vector`, from ``of[of_first + 2 * lane]``; two whole vectors are read."""
    del typingctx
    emit = functools.partial(_emit_blend, _every_second)
    return types.void(to, to_first, of, of_first, begin, end, keep), emit


@intrinsic
def fill_vector(typingctx, to, to_first, value):  # type: ignore[no-untyped-def]
    """Set one vector of a flat array to a value: ``to[to_first + lanes] = value``."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        (target,) = vector_places(context, builder, signature.args[:2], arguments[:2])
        scalar = context.cast(builder, arguments[2], signature.args[2], signature.args[0].dtype)
        vector = splat(builder, scalar, target.type.pointee.count)
        builder.store(vector, target, align=alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, value), emit


@intrinsic
def transpose_square(typingctx, to, to_first, to_row, of, of_first, of_row, rows):  # type: ignore[no-untyped-def]
    """Transpose a square as wide as a vector: ``to[to_first + i*to_row + lanes]``, for each i.

    It becomes ``of[of_first + lanes*of_row + i]``. Only the first `rows` rows are read; the last of
    them replaces the missing ones.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, to_first, to_row, *source = zip(signature.args, arguments, strict=True)
        cast = functools.partial(cast_word, context, builder)
        place = builder.gep(data_of(context, builder, *to), [cast(*to_first)])
        for strip in transposed(context, builder, *source):
            target = builder.bitcast(place, strip.type.as_pointer())
            builder.store(strip, target, align=alignment(target))
            place = builder.gep(place, [cast(*to_row)])
        return context.get_dummy_value()

    return types.void(to, to_first, to_row, of, of_first, of_row, rows), emit


@intrinsic
def sum_products(  # type: ignore[no-untyped-def]
    typingctx, to, to_first, a, a_offsets, b, b_offsets, first, count,
):  # fmt: skip
    """Add products of vectors, lane by lane: ``to[to_first + lanes] += a[...] * b[...]``.

    Product j, from `first` on, is ``a[a_offsets[j] + lanes] * b[b_offsets[j] + lanes]``.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = list(zip(signature.args, arguments, strict=True))
        to, to_first, a, a_offsets, b, b_offsets, first, count = pairs
        cast = functools.partial(cast_word, context, builder)
        vector = vector_type(to[0].dtype)
        tables = [
            (
                data_of(context, builder, *array),
                builder.gep(data_of(context, builder, *offsets), [cast(*first)]),
            )
            for array, offsets in ((a, a_offsets), (b, b_offsets))
        ]
        target = builder.gep(data_of(context, builder, *to), [cast(*to_first)])
        target = builder.bitcast(target, vector.as_pointer())
        start = load_vector(builder, target)

        def add(j: Any, total: Any) -> Any:
            factors = []
            for array, offsets in tables:
                place = builder.gep(array, [builder.load(builder.gep(offsets, [j]))])
                factors.append(load_vector(builder, builder.bitcast(place, vector.as_pointer())))
            return builder.call(fma(builder, vector), [*factors, total])

        total = sum_up(builder, cast(*count), start, add)
        builder.store(total, target, align=alignment(target))
        return context.get_dummy_value()

    kinds = (to, to_first, a, a_offsets, b, b_offsets, first, count)
    return types.void(*kinds), emit


@intrinsic
def add_rows(typingctx, to, to_first, of, of_first, row, rows):  # type: ignore[no-untyped-def]
    """Add columns up: ``to[to_first + lanes] += of[of_first + i*row + lanes]``, for each row i."""
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kinds = signature.args
        target, source = vector_places(context, builder, kinds[:4], arguments[:4])
        row, rows = (
            cast_word(context, builder, *pair)
            for pair in zip(kinds[4:], arguments[4:], strict=True)
        )
        first = builder.bitcast(source, source.type.pointee.element.as_pointer())

        def add(i: Any, total: Any) -> Any:
            place = builder.gep(first, [builder.mul(i, row)])
            vector = load_vector(builder, builder.bitcast(place, source.type))
            return builder.fadd(total, vector)

        total = sum_up(builder, rows, load_vector(builder, target), add)
        builder.store(total, target, align=alignment(target))
        return context.get_dummy_value()

    return types.void(to, to_first, of, of_first, row, rows), emit


def transposed(
    context: Any, builder: Any, of: Any, of_first: Any, of_row: Any, rows: Any
) -> list[Any]:
    """Load a square, as many vectors as lanes, and return its columns as vectors."""
    word = ir.IntType(64)
    cast = functools.partial(cast_word, context, builder)
    vector = vector_type(of[0].dtype)
    last = builder.sub(cast(*rows), word(1))
    source = builder.gep(data_of(context, builder, *of), [cast(*of_first)])
    strips = []
    for i in range(vector.count):
        inside = builder.icmp_signed("<", word(i), last)
        row = builder.mul(builder.select(inside, word(i), last), cast(*of_row))
        place = builder.bitcast(builder.gep(source, [row]), vector.as_pointer())
        strips.append(load_vector(builder, place))
    # Swapping the corners of squares of size 1, 2, 4 ... transposes the whole.
    step = 1
    while step < vector.count:
        low, high = corners(vector.count, step)
        for i in range(vector.count):
            if not i & step:
                a, b = strips[i], strips[i + step]
                strips[i] = builder.shuffle_vector(a, b, low)
                strips[i + step] = builder.shuffle_vector(a, b, high)
        step *= 2
    return strips


def sum_up(
    builder: Any,
    count: Any,
    start: Any,
    add: Callable[[Any, Any], Any],
    unrolled: bool = True,
) -> Any:
    """Emit a loop and return its sum: ``sum = add(j, sum)`` for each j < count, from `start`.

    The count may be 0. Unless `unrolled`, LLVM must not unroll the loop.
    """
    word = ir.IntType(64)
    entry, head, body, done = builder.block, *(builder.append_basic_block() for _ in range(3))
    builder.branch(head)
    builder.position_at_end(head)
    j, total = builder.phi(word), builder.phi(start.type)
    builder.cbranch(builder.icmp_signed("<", j, count), body, done)
    builder.position_at_end(body)
    for phi, initial, value in (
        (j, word(0), builder.add(j, word(1))),
        (total, start, add(j, total)),
    ):
        phi.add_incoming(initial, entry)
        phi.add_incoming(value, body)
    back = builder.branch(head)
    if not unrolled:
        forbid_unrolling(builder, back)
    builder.position_at_end(done)
    return total


def forbid_unrolling(builder: Any, back: Any) -> None:
    """Tell LLVM not to unroll a loop, given the branch at the end of its body."""
    module = builder.module
    disable = module.add_metadata(["llvm.loop.unroll.disable"])
    loop = module.add_metadata([disable])
    loop.operands = (loop, disable)  # LLVM requires a loop's metadata to name itself first
    back.set_metadata("llvm.loop", loop)


def cast_word(context: Any, builder: Any, kind: Any, value: Any) -> Any:
    """Return an integer of any type as a 64-bit integer."""
    return context.cast(builder, value, kind, types.int64)


class Arguments:
    """The arguments of an intrinsic, consumed in order."""

    def __init__(self, context: Any, builder: Any, signature: Any, arguments: Any) -> None:
        self._context, self._builder = context, builder
        self._pairs = list(zip(signature.args, arguments, strict=True))

    def value(self) -> Any:
        """Consume an argument; return its value as it is."""
        return self._pairs.pop(0)[1]

    def word(self) -> Any:
        """Consume an integer; return it with 64 bits."""
        return cast_word(self._context, self._builder, *self._pairs.pop(0))

    def array(self) -> Any:
        """Consume an array; return the address of its first element."""
        return data_of(self._context, self._builder, *self._pairs.pop(0))

    def place(self) -> Any:
        """Consume an array and an index; return the element's address."""
        data = self.array()
        return self._builder.gep(data, [self.word()])


def fma(builder: Any, vector: Any) -> Any:
    """Return LLVM's fused multiply-add function for a vector type."""
    bits = 32 if isinstance(vector.element, ir.FloatType) else 64
    return cgutils.get_or_insert_function(
        builder.module,
        ir.FunctionType(vector, [vector] * 3),
        f"llvm.fma.v{vector.count}f{bits}",
    )


def wins(builder: Any, pixel: Any, most: Any) -> Any:
    """Return the lanes in which a later pixel wins, because it is greater or a NaN."""
    greater = builder.fcmp_ordered(">", pixel, most)
    return builder.or_(greater, builder.fcmp_unordered("uno", pixel, pixel))


def splat(builder: Any, scalar: Any, count: int) -> Any:
    """Return a vector with a scalar in all lanes."""
    undefined = ir.Constant(ir.VectorType(scalar.type, count), ir.Undefined)
    first = builder.insert_element(undefined, scalar, ir.IntType(32)(0))
    zeros = ir.Constant(ir.VectorType(ir.IntType(32), count), None)
    return builder.shuffle_vector(first, undefined, zeros)


def vector_places(context: Any, builder: Any, kinds: Any, arguments: Any) -> list[Any]:
    """Return a pointer to a vector for each pair of a flat array and an index."""
    pairs = list(zip(kinds, arguments, strict=True))
    places = []
    for array, first in zip(pairs[::2], pairs[1::2], strict=True):
        vector = vector_type(array[0].dtype)
        place = builder.gep(
            data_of(context, builder, *array), [cast_word(context, builder, *first)]
        )
        places.append(builder.bitcast(place, vector.as_pointer()))
    return places


def alignment(place: Any) -> int:
    """Return the alignment of vectors, which is that of their elements."""
    return 4 if isinstance(place.type.pointee.element, ir.FloatType) else 8


def load_vector(builder: Any, place: Any) -> Any:
    """Load a vector from an address that is aligned only to elements."""
    return builder.load(place, align=alignment(place))


@jit.inlined
def scratch(count, array):  # type: ignore[no-untyped-def]
    """Return uninitialized memory of an array's dtype, aligned to a cache line."""
    line = arrays.LINE
    memory = np.empty(count + line // array.itemsize, array.dtype)
    first = (line - memory.ctypes.data % line) % line // array.itemsize
    return memory[first : first + count]
