"""Vector code for max-pooling only: comparing taps, and summing the gradients of pixels.

It is emitted as LLVM IR, like `cnnkernels.simd`. The winner of a window is the number of the tap
with its maximum; the pixel under that tap wins the window's gradient.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic, overload

from cnnkernels.simd import (
    alignment,
    cast_word,
    data_of,
    load_vector,
    splat,
    sum_up,
    vector_places,
    vector_type,
    wins,
)


@intrinsic
def select_tap(  # type: ignore[no-untyped-def]
    typingctx, best, best_first, winners, winners_first, of, of_first, offsets, offsets_first,
    count, start, start_first,
):  # fmt: skip
    """Set the maxima of a vector of windows, and their winners.

    Tap j, for j < count, is ``of[of_first + offsets[offsets_first + j] + lanes]``. The first of
    equal pixels wins; a NaN wins, the last of several. If no tap is greater than -inf, the
    winner is ``start[start_first + lanes]``, of int32.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = list(zip(signature.args, arguments, strict=True))
        best, best_first, winners, winners_first, of, of_first, offsets, *pairs = pairs
        offsets_first, count, start, first = pairs
        cast = functools.partial(cast_word, context, builder)
        vector = vector_type(of[0].dtype)
        word = ir.IntType(64)
        numbers = ir.VectorType(ir.IntType(32), vector.count)
        pixels = builder.gep(data_of(context, builder, *of), [cast(*of_first)])
        table = builder.gep(data_of(context, builder, *offsets), [cast(*offsets_first)])
        given = builder.gep(data_of(context, builder, *start), [cast(*first)])
        given = builder.load(builder.bitcast(given, numbers.as_pointer()), align=4)
        lowest = ir.Constant(vector, [float("-inf")] * vector.count)
        entry, body, done = builder.block, *(builder.append_basic_block() for _ in range(2))
        builder.branch(body)
        builder.position_at_end(body)
        j, most, winner = builder.phi(word), builder.phi(vector), builder.phi(numbers)
        place = builder.gep(pixels, [builder.load(builder.gep(table, [j]))])
        pixel = load_vector(builder, builder.bitcast(place, vector.as_pointer()))
        won = wins(builder, pixel, most)
        tap = splat(builder, builder.trunc(j, ir.IntType(32)), vector.count)
        following = builder.add(j, word(1))
        for phi, initial, value in (
            (j, word(0), following),
            (most, lowest, builder.select(won, pixel, most)),
            (winner, given, builder.select(won, tap, winner)),
        ):
            phi.add_incoming(initial, entry)
            phi.add_incoming(value, body)
        builder.cbranch(builder.icmp_signed("<", following, cast(*count)), body, done)
        builder.position_at_end(done)
        target = builder.gep(data_of(context, builder, *best), [cast(*best_first)])
        target = builder.bitcast(target, vector.as_pointer())
        builder.store(most.incomings[1][0], target, align=alignment(target))
        kind = ir.VectorType(ir.IntType(winners[0].dtype.bitwidth), vector.count)
        resize = builder.trunc if winners[0].dtype.bitwidth < 32 else builder.sext
        target = builder.gep(data_of(context, builder, *winners), [cast(*winners_first)])
        target = builder.bitcast(target, kind.as_pointer())
        builder.store(resize(winner.incomings[1][0], kind), target, align=1)
        return context.get_dummy_value()

    kinds = (
        best, best_first, winners, winners_first, of, of_first, offsets, offsets_first, count,
        start, start_first,
    )  # fmt: skip
    return types.void(*kinds), emit


@intrinsic
def sum_won(  # type: ignore[no-untyped-def]
    typingctx, to, to_first, of, winners, first, offsets, taps, taps_first, count,
):  # fmt: skip
    """Set a vector of pixels to the sums of the gradients that they win.

    Sum over the `count` taps from `taps_first` on. Tap j adds ``of[first + offsets[j] + lanes]``
    in the lanes where `winners` holds ``taps[j]`` at the same place.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, to_first, *rest, taps_first, count = zip(signature.args, arguments, strict=True)
        total = _sum_of_won(context, builder, rest, taps_first, count)
        (target,) = vector_places(context, builder, *zip(to, to_first, strict=True))
        builder.store(total, target, align=alignment(target))
        return context.get_dummy_value()

    kinds = (to, to_first, of, winners, first, offsets, taps, taps_first, count)
    return types.void(*kinds), emit


@intrinsic
def sum_won_interleaved(  # type: ignore[no-untyped-def]
    typingctx, to, to_first, of, winners, first, offsets, taps, taps_first, count, more,
):  # fmt: skip
    """Set two vectors of pixels to two sums, interleaved: see `sum_won`.

    The first sum is over `count` taps, the second over the `more` taps after them.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pairs = list(zip(signature.args, arguments, strict=True))
        to, to_first, *rest, taps_first, count, more = pairs
        words = [cast_word(context, builder, *pair) for pair in (taps_first, count)]
        second = types.int64, builder.add(*words)
        sums = [
            _sum_of_won(context, builder, rest, *which)
            for which in ((taps_first, count), (second, more))
        ]
        (target,) = vector_places(context, builder, *zip(to, to_first, strict=True))
        _store_interleaved(builder, target, sums)
        return context.get_dummy_value()

    kinds = (to, to_first, of, winners, first, offsets, taps, taps_first, count, more)
    return types.void(*kinds), emit


def _sum_of_won(context: Any, builder: Any, rest: Any, taps_first: Any, count: Any) -> Any:
    """Return the sum for `sum_won`; each parameter is a (type, value) pair."""
    of, winners, first, offsets, taps = rest
    cast = functools.partial(cast_word, context, builder)
    vector = vector_type(of[0].dtype)
    kind = ir.VectorType(ir.IntType(winners[0].dtype.bitwidth), vector.count)
    gradients = builder.gep(data_of(context, builder, *of), [cast(*first)])
    won = builder.gep(data_of(context, builder, *winners), [cast(*first)])
    places = builder.gep(data_of(context, builder, *offsets), [cast(*taps_first)])
    numbers = builder.gep(data_of(context, builder, *taps), [cast(*taps_first)])
    zero = ir.Constant(vector, None)

    def add(j: Any, total: Any) -> Any:
        at = builder.load(builder.gep(places, [j]))
        number = builder.trunc(builder.load(builder.gep(numbers, [j])), kind.element)
        place = builder.bitcast(builder.gep(won, [at]), kind.as_pointer())
        mine = builder.icmp_signed(
            "==", builder.load(place, align=1), splat(builder, number, kind.count)
        )
        place = builder.bitcast(builder.gep(gradients, [at]), vector.as_pointer())
        return builder.select(mine, builder.fadd(total, load_vector(builder, place)), total)

    # A pixel has few taps: the setup of an unrolled loop would take longer than the loop.
    return sum_up(builder, cast(*count), zero, add, unrolled=False)


@intrinsic
def spread_won(typingctx, to, to_first, of, winners, first, tap, other_tap):  # type: ignore[no-untyped-def]
    """Set two vectors of pixels to the gradients that two taps win, interleaved.

    Lane by lane, a tap wins ``of[first + lanes]`` where ``winners[first + lanes]`` is its number,
    and zero elsewhere.
    """
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        to, to_first, of, winners, first, *taps = zip(signature.args, arguments, strict=True)
        (target,) = vector_places(context, builder, *zip(to, to_first, strict=True))
        (source,) = vector_places(context, builder, *zip(of, first, strict=True))
        vector = source.type.pointee
        kind = ir.VectorType(ir.IntType(winners[0].dtype.bitwidth), vector.count)
        at = cast_word(context, builder, *first)
        place = builder.gep(data_of(context, builder, *winners), [at])
        won = builder.load(builder.bitcast(place, kind.as_pointer()), align=1)
        gradients = load_vector(builder, source)
        pair = []
        for tap in taps:
            number = builder.trunc(cast_word(context, builder, *tap), kind.element)
            mine = builder.icmp_signed("==", won, splat(builder, number, kind.count))
            pair.append(builder.select(mine, gradients, ir.Constant(vector, None)))
        _store_interleaved(builder, target, pair)
        return context.get_dummy_value()

    return types.void(to, to_first, of, winners, first, tap, other_tap), emit


def _store_interleaved(builder: Any, target: Any, pair: list[Any]) -> None:
    """Store two vectors with their elements interleaved."""
    number, count = ir.IntType(32), target.type.pointee.count
    for half in range(2):
        lanes = [half * count // 2 + lane // 2 + lane % 2 * count for lane in range(count)]
        mask = ir.Constant(ir.VectorType(number, count), lanes)
        place = builder.gep(target, [number(half)])
        builder.store(builder.shuffle_vector(*pair, mask), place, align=alignment(place))


def integer(like: Any) -> Any:
    """Return the integer dtype as wide as a pointer's elements; only for kernels."""


@overload(integer)
def _integer(like):  # type: ignore[no-untyped-def]
    dtype = np.int32 if like.dtype.bitwidth == 32 else np.int64
    return lambda like: dtype  # noqa: ARG005
