"""Runs, planes and blocks of flat arrays, copied and turned in whole vectors."""

from __future__ import annotations

from cnnkernels import jit, simd


@jit.inlined
def fill_run(to, at, length, value, lanes):  # type: ignore[no-untyped-def]
    """Set a run of a flat array to a value, in whole vectors: some beyond its end, too."""
    end = at + length
    while at < end:
        simd.fill_vector(to, at, value)
        at += lanes


@jit.inlined
def copy_run(to, at, source, of, length, lanes, step):  # type: ignore[no-untyped-def]
    """Copy a run of every step-th element of a flat array, in whole vectors where it can.

    What is written beyond the run's end, up to a vector, is for the caller to overwrite.
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
    """Copy lines of a plane with something around them, rows and columns sorted by phase.

    For each of `phases`, ``row * step_w + column`` of where one begins, `lines` lines of `pitch`:
    every step-th row and column of the plane from (row0, col0) on. Up to a vector is written beyond
    the last.
    """
    for phase in phases:
        row, col = row0 + phase // step_w, col0 + phase % step_w
        left = min(pitch, max(0, -(col // step_w)))
        right = max(left, min(pitch, (wide - col + step_w - 1) // step_w))
        for n in range(lines):
            h = row + n * step_h
            if 0 <= h < height:
                # What is written beyond the end of a run is overwritten by the next.
                fill_run(work, to, left, around, lanes)
                of = first + h * wide + col + left * step_w
                copy_run(work, to + left, source, of, right - left, lanes, step_w)
                fill_run(work, to + right, pitch - right, around, lanes)
            else:
                fill_run(work, to, pitch, around, lanes)
            to += pitch


@jit.kernel
def turn(work, to, width, source, first, row, rows, count, lanes):  # type: ignore[no-untyped-def]
    """Turn rows of a flat array to columns: ``work[to + i*width + m] = source[first + m*row + i]``.

    `rows` rows of `count` elements. In lines of `work`, up to a vector beyond the last row is
    written, and after them up to a vector of lines.
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
    """Turn columns to rows again: ``out[to + m*row + i] = work[first + i*width + m]``.

    The last squares lie over those before them, so that nothing beyond the end is written.
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
