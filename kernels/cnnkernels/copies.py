"""Copies and transpositions of runs, planes and blocks of flat arrays, in whole vectors."""

from __future__ import annotations

from cnnkernels import jit, simd


@jit.inlined
def fill_run(to, at, length, value, lanes):  # type: ignore[no-untyped-def]
    """Set a run of a flat array to a value, in whole vectors; may write beyond the run's end."""
    end = at + length
    while at < end:
        simd.fill_vector(to, at, value)
        at += lanes


@jit.inlined
def copy_run(to, at, source, of, length, lanes, step):  # type: ignore[no-untyped-def]
    """Copy every step-th element of a flat array to a run, in whole vectors if possible.

    Up to a vector is written beyond the run's end; the caller must overwrite it.
    """
    end = at + length
    if step > 2 or of + (length + lanes) * step > source.size:
        while at < end:
            to[at] = source[of]
            at += 1
            of += step
    elif step == 1:
        while at < end:
            simd.copy_vector(to, at, source, of)
            at += lanes
            of += lanes
    else:
        while at < end:
            simd.copy_every_second(to, at, source, of)
            at += lanes
            of += 2 * lanes


@jit.inlined
def copy_phases(  # type: ignore[no-untyped-def]
    work, to, source, first, height, wide, row0, col0, lines, step_h, step_w, pitch, phases, around,
    lanes,
):  # fmt: skip
    """Copy lines of a plane with padding of value `around`, rows and columns sorted by phase.

    Each of `phases` is ``row * step_w + column`` of its first pixel, relative to (row0, col0). For
    each, write `lines` lines of `pitch` elements: every step-th row and column of the plane. Up to
    a vector is written beyond the last line.
    """
    for phase in phases:
        row, col = row0 + phase // step_w, col0 + phase % step_w
        left = min(pitch, max(0, -(col // step_w)))
        right = max(left, min(pitch, (wide - col + step_w - 1) // step_w))
        for n in range(lines):
            h = row + n * step_h
            if 0 <= h < height:
                # Each run overwrites what the previous one has written beyond its end.
                fill_run(work, to, left, around, lanes)
                of = first + h * wide + col + left * step_w
                copy_run(work, to + left, source, of, right - left, lanes, step_w)
                fill_run(work, to + right, pitch - right, around, lanes)
            else:
                fill_run(work, to, pitch, around, lanes)
            to += pitch


@jit.kernel
def turn(work, to, width, source, first, row, rows, count, lanes):  # type: ignore[no-untyped-def]
    """Transpose rows to columns: ``work[to + i*width + m] = source[first + m*row + i]``.

    There are `rows` rows of `count` elements. Each line of `work` is written up to a vector beyond
    the last row, and up to a vector of lines is written after the last line.
    """
    for m in range(0, rows, lanes):
        here = min(lanes, rows - m)
        for i in range(0, count, lanes):
            of = first + m * row + i
            if of + (here - 1) * row + lanes <= source.size:
                simd.transpose_square(work, to + i * width + m, width, source, of, row, here)
            else:
                for j in range(min(lanes, count - i)):
                    for k in range(here):
                        work[to + (i + j) * width + m + k] = source[of + k * row + j]


@jit.kernel
def turn_back(out, to, row, work, first, width, rows, count, lanes):  # type: ignore[no-untyped-def]
    """Transpose columns back to rows: ``out[to + m*row + i] = work[first + i*width + m]``.

    The last squares overlap the ones before, so that nothing is written beyond the end.
    """
    whole = rows >= lanes and count >= lanes
    for m in range(0, rows, lanes):
        for i in range(0, count, lanes):
            if whole:
                k, j = min(m, rows - lanes), min(i, count - lanes)
                simd.transpose_square(
                    out, to + k * row + j, row, work, first + j * width + k, width, lanes
                )
            else:
                for k in range(m, min(rows, m + lanes)):
                    for j in range(i, min(count, i + lanes)):
                        out[to + k * row + j] = work[first + j * width + k]
