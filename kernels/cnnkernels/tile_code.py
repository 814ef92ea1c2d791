"""The loops of the micro-kernels as LLVM IR: sums that stay in vector registers.

Each computes outer products of a column of factors and a row of factors, summed over a reduction.
Vectors and ``llvm.fma`` are explicit, so that the result does not depend on the vectorizer's
heuristics or on environment variables.
"""

from __future__ import annotations

import functools
from typing import Any

from llvmlite import ir

from cnnkernels import simd


def emit_tile(
    builder: Any, rows: int, vectors: int, element: Any, named: dict[str, Any], packed: int
) -> None:
    """Emit the multiplication of a tile with a known number of rows and vectors.

    `named` are the arguments of `multiply_tile`. Scalars are packed, `packed` per line, or are read
    through offsets if that is 0.
    """
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

    # Prefetch the result during the summation, one row per step, so that other operands need not
    # wait for all rows. Without packed scalars, this would spill sums.
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
        line.add_incoming(builder.gep(line, [word(packed)]), body)
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

    A tile fills the registers. LLVM unrolls for some processors; the scalars of two steps then do
    not fit, and the loop spills every sum and becomes three times slower.
    """
    simd.forbid_unrolling(builder, builder.cbranch(again, body, after))


def _spaced(builder: Any, place: Any, row: Any, rows: int) -> list[Any]:
    """Return addresses that are `row` elements apart.

    Three at a time are computed from one pointer, by one or two strides, to save registers.
    """
    word = ir.IntType(64)
    two_rows, three_rows = (builder.mul(row, word(times)) for times in (2, 3))
    places = []
    for i in range(rows):
        if i and i % 3 == 0:
            place = builder.gep(place, [three_rows])
        places.append(builder.gep(place, [(word(0), row, two_rows)[i % 3]]))
    return places


def emit_lanes_tile(
    builder: Any, rows: int, columns: int, element: Any, named: dict[str, Any]
) -> None:
    """Emit the sums of a tile with a known number of rows and columns; see `multiply_lanes`."""
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
    """Return the lane sum of each vector, by repeatedly halving two vectors into one."""
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
