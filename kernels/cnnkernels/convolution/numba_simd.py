"""Direct convolution on vector registers: an implicit matrix product by one micro-kernel.

Forward is a product of the weights, a row a filter, with a matrix that has a column an output pixel
and a row a tap. That matrix is never made. Output pixels are taken a panel at a time, two vectors
of them; where a panel's pixels lie side by side in the (padded) image, the micro-kernel reads them
there, one offset a tap; elsewhere a part of the panel is packed, used for every filter, and
forgotten. Backward-data is the same with channels for filters and the taps turned round, once for
each phase of the stride. Backward-weights is a product of dy, a row a filter, with packed panels
that have a row a pixel and a column a tap.

Threads take fixed shares of the output, each written by one alone and summed in a fixed order, so
that the result is the same at any number of threads, to the bit.

References
----------
.. [1] K. Goto, R. van de Geijn, "Anatomy of High-Performance Matrix Multiplication", ACM TOMS
   34(3), 2008, on panels, blocks and the register tile.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numba
import numpy as np
from numba.np.unsafe.ndarray import to_fixed_tuple

from cnnkernels import contract, jit, simd
from cnnkernels.contract import ALL, ArraySpec, Cache, Conv2D, Conv2DGradients, Needs

_BLOCK_BYTES = 12 * 1024
"""A packed panel's share of the reduction takes this much of the first cache, at the most."""

_IMAGE_BYTES = 384 * 1024
"""A share of the output needs about this much of a padded image: it stays in the second cache."""

_SHARES = 16
"""Shares of the output, at the least where it is large enough: threads take them in turns."""

_PANELS = 4
"""Panels of taps that backward-weights packs at a time: dy is read once for all of them."""

_SIZES, _WEIGHTS_SIZES = 29, 21
"""How many numbers a plan has: `_plan` and `_weights_plan` list them."""


def unsupported(problem: Conv2D) -> str | None:
    """Return None, or why not: every problem can be done where the processor has vector FMAs."""
    del problem
    return None if simd.has_fma() else "this processor has no vector FMA instructions"


def cache_spec(problem: Conv2D) -> tuple[ArraySpec, ...]:
    """Return (): backward needs its arguments only."""
    del problem
    return ()


def forward(
    problem: Conv2D, x: np.ndarray, w: np.ndarray, b: np.ndarray | None
) -> tuple[np.ndarray, Cache]:
    """Multiply weights by the taps of each output pixel, a panel of pixels at a time.

    See `contract.Conv2DKernel.forward` for parameters.
    """
    shapes = problem.shapes
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    # Zeros after the biases are what a sum starts from where there is none, or it has begun.
    start = np.zeros(problem.out_channels + simd.ROWS, problem.dtype)
    if b is not None:
        contract.require("b", b, shapes.b, problem.dtype)
        start[: problem.out_channels] = b
    y = contract.empty(shapes.y, problem.dtype)
    _run(_forward_plan(problem), x, w, start, y)
    return y, ()


def backward(
    problem: Conv2D,
    dy: np.ndarray,
    x: np.ndarray,
    w: np.ndarray,
    cache: Cache,
    needs: Needs = ALL,
) -> Conv2DGradients:
    """Correlate dy with the turned weights for dx, and x with dy for dw.

    See `contract.Conv2DKernel.backward` for parameters.
    """
    del cache
    shapes = problem.shapes
    contract.require("dy", dy, shapes.y, problem.dtype)
    contract.require("x", x, shapes.x, problem.dtype)
    contract.require("w", w, shapes.w, problem.dtype)
    dx = dw = db = None
    if needs.dx:
        dx = contract.empty(shapes.x, problem.dtype)
        start = np.zeros(problem.in_channels + simd.ROWS, problem.dtype)
        for plan in _backward_data_plans(problem):
            _run(plan, dy, w, start, dx)
    if needs.dw:
        dw = _run_weights(problem, dy, x)
    if needs.db and problem.bias:
        db = contract.empty(shapes.b, problem.dtype)
        _, filters, *image = dy.shape
        pixels = image[0] * image[1]
        _sum_filter(filters, problem.dtype, dy, db, problem.batch, filters, pixels)
    return Conv2DGradients(dx, dw, db)


# --------------------------------------------------------------------------------------------
# plans: what a problem comes to, worked out once


@dataclass(frozen=True)
class _Plan:
    """A correlation: each output pixel is a sum over taps of weights times source pixels.

    Attributes
    ----------
    weights : np.ndarray
        int64; for each tap the offset of its weight.
    tables : np.ndarray
        int64, a row each: where a tap's packed weights begin, its source channel, and the row and
        column of the source pixel under it relative to the output pixel's.
    ramp : np.ndarray
        int64; where the lines of a packed panel begin.
    sizes : np.ndarray
        int64; see `_correlate`.
    workspace : int
        Elements of scratch memory a thread.
    dtype : str
    tiles, shares : int
        How many there are, of all groups.
    """

    weights: np.ndarray
    tables: np.ndarray
    ramp: np.ndarray
    sizes: np.ndarray
    workspace: int
    dtype: str
    tiles: int
    shares: int

    @functools.cached_property
    def addresses(self) -> tuple[int, ...]:
        """Where the arrays are that kernels read: asking anew at each call takes its time."""
        return tuple(a.ctypes.data for a in (self.tables, self.ramp, self.sizes))

    @functools.cached_property
    def weights_address(self) -> int:
        return int(self.weights.ctypes.data)


@functools.lru_cache(1024)
def _forward_plan(problem: Conv2D) -> _Plan:
    channels = problem.in_channels // problem.groups
    rows, cols = problem.kernel_size
    c, r, s = (axis.ravel() for axis in np.indices((channels, rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    return _plan(
        tables=(
            np.arange(c.size),
            c,
            r * problem.dilation[0] - top,
            s * problem.dilation[1] - left,
        ),
        problem=problem,
        source=(problem.in_channels, problem.height, problem.width),
        result=(problem.out_channels, out_height, out_width),
        weights=(problem.out_channels // problem.groups * c.size, c.size),
        grid=(out_height, out_width),
        step=problem.stride,
        spread=(1, 1),
        corner=(0, 0),
    )


@functools.lru_cache(1024)
def _backward_data_plans(problem: Conv2D) -> tuple[_Plan, ...]:
    """Return a plan for each phase: input pixels of one phase of the stride have the same taps."""
    filters = problem.out_channels // problem.groups
    channels = problem.in_channels // problem.groups
    rows, cols = problem.kernel_size
    k, r, s = (axis.ravel() for axis in np.indices((filters, rows, cols)))
    (top, _), (left, _) = problem.padding
    _, _, out_height, out_width = problem.shapes.y
    down = top - r * problem.dilation[0]
    across = left - s * problem.dilation[1]
    plans = []
    for phase_h in range(min(problem.stride[0], problem.height)):
        for phase_w in range(min(problem.stride[1], problem.width)):
            mine = ((down + phase_h) % problem.stride[0] == 0) & (
                (across + phase_w) % problem.stride[1] == 0
            )
            plans.append(
                _plan(
                    tables=(
                        ((k * channels * rows + r) * cols + s)[mine],
                        k[mine],
                        (down[mine] + phase_h) // problem.stride[0],
                        (across[mine] + phase_w) // problem.stride[1],
                    ),
                    problem=problem,
                    source=(problem.out_channels, out_height, out_width),
                    result=(problem.in_channels, problem.height, problem.width),
                    weights=(filters * channels * rows * cols, rows * cols),
                    grid=(
                        -(-(problem.height - phase_h) // problem.stride[0]),
                        -(-(problem.width - phase_w) // problem.stride[1]),
                    ),
                    step=(1, 1),
                    spread=problem.stride,
                    corner=(phase_h, phase_w),
                )
            )
    return tuple(plans)


def _plan(
    tables: tuple[np.ndarray, ...],
    problem: Conv2D,
    source: tuple[int, int, int],
    result: tuple[int, int, int],
    weights: tuple[int, int],
    grid: tuple[int, int],
    step: tuple[int, int],
    spread: tuple[int, int],
    corner: tuple[int, int],
) -> _Plan:
    itemsize = np.dtype(problem.dtype).itemsize
    width = simd.VECTORS * simd.lanes(itemsize)
    weight, channel, down, across = (np.ascontiguousarray(t, np.int64) for t in tables)
    channels, height, wide = source[0] // problem.groups, *source[1:]
    filters = result[0] // problem.groups
    (p_size, q_size), (step_h, step_w) = grid, step
    first_row, first_col, span_h, span_w, padded, pitch = _reach(
        down, across, grid, step, height, wide
    )
    # Reading in place computes the columns between the lines as well; packing moves every pixel.
    in_place = (
        step == (1, 1)
        and q_size >= 2 * width
        and filters <= 64
        and (pitch - q_size) * filters <= 5 * q_size
    )
    block = max(8, _BLOCK_BYTES // (width * itemsize))
    if weight.size:  # blocks of one size, rather than a short last one
        block = -(-weight.size // -(-weight.size // block))
    if in_place:
        a_line = max(1, channels * pitch * itemsize)
        lines = max(4, _IMAGE_BYTES // a_line - span_h + 1)
        wanted = -(-_SHARES // max(1, problem.batch * problem.groups))
        share = max(1, min(p_size, lines, -(-p_size // wanted)))
        shares = problem.batch * -(-p_size // share)
        image = channels * ((share - 1) * step_h + span_h) * pitch
    else:
        pixels = problem.batch * p_size * q_size
        panels = -(-pixels // width)
        share = max(1, min(64, panels * problem.groups // _SHARES)) * width
        shares = -(-pixels // share)
        images = min(problem.batch, (share - 2) // max(1, p_size * q_size) + 2)
        image = images * channels * ((p_size - 1) * step_h + span_h) * pitch
    sizes = (
        shares, share, in_place, padded, block, width, problem.batch, problem.groups,
        channels, height, wide, filters, *result[1:], *weights, p_size, q_size,
        step_h, step_w, *spread, *corner, first_row, first_col, span_h, span_w, pitch,
    )  # fmt: skip
    workspace = (image if padded else 0) + block * width + (simd.ROWS + 1) * width
    ramp = np.arange(block) * width
    stacked = np.stack((np.arange(weight.size) * simd.ROWS, channel, down, across))
    return _Plan(
        weight, stacked, ramp, np.array(sizes, np.int64), workspace,
        problem.dtype, problem.groups * -(-filters // simd.ROWS), problem.groups * shares,
    )  # fmt: skip


def _reach(
    down: np.ndarray,
    across: np.ndarray,
    grid: tuple[int, int],
    step: tuple[int, int],
    height: int,
    wide: int,
) -> tuple[int, int, int, int, bool, int]:
    """Return the first row and column that taps reach from a pixel at 0, and how many of each.

    Besides, whether any pixel's taps leave the image, so that a padded copy is read, and the length
    of a line of what is read.
    """
    first_row, first_col = (int(t.min()) if t.size else 0 for t in (down, across))
    span_h, span_w = (int(np.ptp(t)) + 1 if t.size else 1 for t in (down, across))
    lines, columns = ((n - 1) * s for n, s in zip(grid, step, strict=True))
    padded = (
        min(first_row, first_col) < 0
        or lines + first_row + span_h > height
        or columns + first_col + span_w > wide
    )
    return first_row, first_col, span_h, span_w, padded, columns + span_w if padded else wide


def _run(
    plan: _Plan, source: np.ndarray, w: np.ndarray, start: np.ndarray, out: np.ndarray
) -> None:
    if out.size == 0:
        return
    dtype, taps = plan.dtype, plan.tables.shape[1]
    threads = numba.get_num_threads()
    weights = np.empty((plan.tiles, taps, simd.ROWS), out.dtype)
    _pack_tile(plan.tiles, dtype, w, plan.weights_address, taps, weights, plan.addresses[-1])
    work = np.empty((threads, plan.workspace), out.dtype)
    offsets = np.empty((threads, taps), np.int64)
    _correlate(
        plan.shares, dtype, simd.tile_address(dtype), source, source.size, weights,
        weights.size, start, start.size, out, out.size, work, plan.workspace, offsets, taps,
        *plan.addresses,
    )  # fmt: skip


@dataclass(frozen=True)
class _WeightsPlan:
    """Backward-weights: for each tap its channel, row and column, and the sizes of `_correlate`."""

    tables: np.ndarray
    pixels: np.ndarray
    ramp: np.ndarray
    sizes: np.ndarray
    workspace: int
    splits: int

    @functools.cached_property
    def addresses(self) -> tuple[int, ...]:
        """Where the arrays are that kernels read."""
        return tuple(a.ctypes.data for a in (self.tables, self.pixels, self.ramp, self.sizes))


@functools.lru_cache(1024)
def _weights_plan(problem: Conv2D) -> _WeightsPlan:
    forward_plan = _forward_plan(problem)
    _, channel, down, across = forward_plan.tables
    itemsize = np.dtype(problem.dtype).itemsize
    width = simd.VECTORS * simd.lanes(itemsize)
    filters, channels = (
        size // problem.groups for size in (problem.out_channels, problem.in_channels)
    )
    _, _, out_height, out_width = problem.shapes.y
    pixels = out_height * out_width
    taps = channel.size
    panels = -(-taps // width)
    together = max(1, min(_PANELS, panels * problem.groups // _SHARES))
    units = problem.groups * -(-panels // together)
    splits = 1 if units >= _SHARES // 2 else max(1, min(problem.batch, _SHARES // units))
    block = max(8, _BLOCK_BYTES // (width * itemsize))
    block = -(-pixels // -(-pixels // block))
    step_h, step_w = problem.stride
    first_row, first_col, span_h, _, padded, pitch = _reach(
        down, across, (out_height, out_width), problem.stride, problem.height, problem.width
    )
    a_channel = problem.kernel_size[0] * problem.kernel_size[1]
    at_once = min(channels, together * width // a_channel + 2)
    image = at_once * ((out_height - 1) * step_h + span_h) * pitch if padded else 0
    sizes = (
        units // problem.groups, together, splits, padded, block, width, problem.batch,
        problem.groups, channels, problem.height, problem.width, filters, out_height, out_width,
        step_h, step_w, first_row, first_col, span_h, pitch, image,
    )  # fmt: skip
    workspace = image + together * block * width + simd.ROWS * width
    return _WeightsPlan(
        np.stack((channel, down, across)),
        np.arange(pixels),
        np.arange(block) * width,
        np.array(sizes, np.int64),
        workspace,
        splits,
    )


def _run_weights(problem: Conv2D, dy: np.ndarray, x: np.ndarray) -> np.ndarray:
    dw = contract.empty(problem.shapes.w, problem.dtype)
    if dy.size == 0:
        dw[...] = 0
        return dw
    plan = _weights_plan(problem)
    threads = numba.get_num_threads()
    parts = dw if plan.splits == 1 else np.empty((plan.splits, dw.size), dw.dtype)
    dtype, taps = problem.dtype, plan.tables.shape[1]
    zeros = np.zeros(problem.out_channels // problem.groups + simd.ROWS, dw.dtype)
    work = np.empty((threads, plan.workspace), dw.dtype)
    offsets = np.empty((threads, taps), np.int64)
    _correlate_weights(
        plan.splits * problem.groups * int(plan.sizes[0]), dtype, simd.tile_address(dtype), x,
        x.size, dy, dy.size, zeros, zeros.size, parts, parts.size, work, plan.workspace, offsets,
        taps, *plan.addresses,
    )  # fmt: skip
    if plan.splits > 1:
        np.sum(parts, axis=0, out=dw.reshape(-1))
    return dw


# --------------------------------------------------------------------------------------------
# what all three directions are made of


@jit.kernel()
def _multiply_panel(  # type: ignore[no-untyped-def]
    micro, rows, a, a_first, a_tile_size, a_row, a_offsets, a_from, b, b_first, b_offsets,
    b_from, count, out, out_first, out_row, places, start, start_first, zero, add, tile,
    tile_first,
):  # fmt: skip
    """Multiply all rows by one panel, and set or add the sums where its columns' places say."""
    width = places.size
    lanes = width // simd.VECTORS
    in_line = places[0] >= 0 and places[width - 1] - places[0] == width - 1
    tiles = (rows + simd.ROWS - 1) // simd.ROWS
    for t in range(tiles):
        m0 = t * rows // tiles
        m1 = (t + 1) * rows // tiles
        a_tile = a_first + (t * a_tile_size if a_tile_size else m0 * a_row)
        out_tile = out_first + m0 * out_row
        if in_line:
            simd.multiply_tile(
                micro, m1 - m0, a, a_tile, a_row, a_offsets, a_from,
                b, b_first, b_offsets, b_from, count,
                out, out_tile + places[0], out_row, start, start_first + m0, add,
            )  # fmt: skip
            continue
        simd.multiply_tile(
            micro, m1 - m0, a, a_tile, a_row, a_offsets, a_from,
            b, b_first, b_offsets, b_from, count,
            tile, tile_first, width, start, zero if add else start_first + m0, False,
        )  # fmt: skip
        for v in range(simd.VECTORS):
            left = v * lanes
            place = places[left]
            together = place >= 0 and places[left + lanes - 1] - place == lanes - 1
            for m in range(m1 - m0):
                row = out_tile + m * out_row
                of = tile_first + m * width + left
                if together and add:
                    simd.add_vector(out, row + place, tile, of)
                elif together:
                    simd.copy_vector(out, row + place, tile, of)
                else:
                    for lane in range(lanes):
                        at = places[left + lane]
                        if at >= 0 and add:
                            out[row + at] += tile[of + lane]
                        elif at >= 0:
                            out[row + at] = tile[of + lane]


@jit.kernel()
def _pad(  # type: ignore[no-untyped-def]
    work, source, first, image_size, images, channels, height, wide, row0, rows, col0, pitch,
):  # fmt: skip
    """Copy some lines of some images' channels, with zeros for what is beyond the edges."""
    left = min(pitch, max(0, -col0))
    right = max(left, min(pitch, wide - col0))
    to = 0
    for i in range(images):
        for c in range(channels):
            plane = first + i * image_size + c * height * wide
            for h in range(row0, row0 + rows):
                of = plane + h * wide + col0
                inside = 0 <= h < height
                for v in range(left if inside else pitch):
                    work[to + v] = 0
                if inside:
                    for v in range(left, right):
                        work[to + v] = source[of + v]
                    for v in range(right, pitch):
                        work[to + v] = 0
                to += pitch


@jit.kernel()
def _pack(  # type: ignore[no-untyped-def]
    panel, panel_first, source, base, offsets, first, count, pixels,
):  # fmt: skip
    """Gather a panel: for each tap a line of the source pixels under the panel's columns."""
    width = pixels.size
    lanes = width // simd.VECTORS
    for v in range(simd.VECTORS):
        left = v * lanes
        pixel = base + pixels[left]
        to = panel_first + left
        if pixels[left + lanes - 1] - pixels[left] == lanes - 1:
            for j in range(first, first + count):
                simd.copy_vector(panel, to, source, pixel + offsets[j])
                to += width
        else:
            for j in range(first, first + count):
                of = base + offsets[j]
                for lane in range(lanes):
                    panel[to + lane] = source[of + pixels[left + lane]]
                to += width


# --------------------------------------------------------------------------------------------
# forward and backward-data


@jit.Shares
def _pack_tile(number, thread, arguments, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Lay the weights of a tile's rows side by side, tap after tap: they are read in a stream."""
    sizes = jit.array_at(arguments[4], arguments, (_SIZES,))
    groups, filters, group_weights, row = sizes[7], sizes[11], sizes[14], sizes[15]
    taps = arguments[2]
    w = jit.array_at(arguments[0], like, (groups * group_weights,))
    offsets = jit.array_at(arguments[1], arguments, (taps,))
    packed = jit.array_at(
        arguments[3] + number * taps * simd.ROWS * w.itemsize, like, (taps, simd.ROWS)
    )
    tiles = (filters + simd.ROWS - 1) // simd.ROWS
    group, t = number // tiles, number % tiles
    m0, m1 = t * filters // tiles, (t + 1) * filters // tiles
    for m in range(m0, m1):
        first = group * group_weights + m * row
        for j in range(taps):
            packed[j, m - m0] = w[first + offsets[j]]


@jit.Shares
def _correlate(number, thread, arguments, like):  # type: ignore[no-untyped-def]
    """Set one share of a group's outputs: lines of one image in place, or pixels in panels."""
    micro = arguments[0]
    source = jit.array_at(arguments[1], like, (arguments[2],))
    weights = jit.array_at(arguments[3], like, (arguments[4],))
    start = jit.array_at(arguments[5], like, (arguments[6],))
    out = jit.array_at(arguments[7], like, (arguments[8],))
    room, taps = arguments[10], arguments[12]
    work = jit.array_at(arguments[9] + thread * room * out.itemsize, like, (room,))
    offsets = jit.array_at(arguments[11] + thread * taps * 8, arguments, (taps,))
    tables = jit.array_at(arguments[13], arguments, (4, taps))
    sizes = jit.array_at(arguments[15], arguments, (_SIZES,))
    (
        shares, share, in_place, padded, block, width, batch, groups, channels, height, wide,
        filters, out_height, out_width, _, _, p_size, q_size, step_h, step_w,
        spread_h, spread_w, corner_h, corner_w, first_row, first_col, span_h, _, pitch,
    ) = to_fixed_tuple(sizes, _SIZES)  # fmt: skip
    ramp = jit.array_at(arguments[14], arguments, (block,))
    rows_ramp, channel, down, across = tables[0], tables[1], tables[2], tables[3]
    group, share_number = number // shares, number % shares
    tile_size = taps * simd.ROWS
    group_tile_size = (filters + simd.ROWS - 1) // simd.ROWS * tile_size
    image_pixels = p_size * q_size
    # Which images and lines this share covers.
    if in_place:
        shares_an_image = shares // batch
        begin, end = 0, 0
        image0 = share_number // shares_an_image
        image1 = image0 + 1
        p0 = share_number % shares_an_image * share
        p1 = min(p_size, p0 + share)
    else:
        begin = share_number * share
        end = min(batch * image_pixels, begin + share)
        image0 = begin // image_pixels
        image1 = (end - 1) // image_pixels + 1
        p0, p1 = 0, p_size
        if image1 == image0 + 1:
            p0 = begin % image_pixels // q_size
            p1 = (end - 1) % image_pixels // q_size + 1
    # The image that the micro-kernel sees: the source, or a padded copy of what the share needs.
    source_size = groups * channels * height * wide
    first = image0 * source_size + group * channels * height * wide
    panel = 0
    if padded:
        lines = (p1 - p0 - 1) * step_h + span_h
        _pad(work, source, first, source_size, image1 - image0, channels, height, wide,
             p0 * step_h + first_row, lines, first_col, pitch)  # fmt: skip
        panel = (image1 - image0) * channels * lines * pitch
        image = work
        base, plane, image_size = 0, lines * pitch, channels * lines * pitch
    else:
        image = source
        base = first + (p0 * step_h + first_row) * wide + first_col
        plane, image_size = height * wide, source_size
    for j in range(taps):
        offsets[j] = channel[j] * plane + (down[j] - first_row) * pitch + across[j] - first_col
    tile = panel + block * width
    places = np.empty(width, np.int64)
    pixels = np.empty(width, np.int64)
    out_row = out_height * out_width
    out_size = groups * filters * out_row
    out_first = group * filters * out_row
    corner = corner_h * out_width + corner_w
    zero = groups * filters
    if taps == 0:
        _fill(out, start, image0, image1, p0, p1, begin, end, in_place, group, filters, out_size,
              out_row, corner, q_size, p_size, spread_h * out_width, spread_w)  # fmt: skip
    for j0 in range(0, taps, block):
        count = min(block, taps - j0)
        if in_place:
            positions = (p1 - p0 - 1) * pitch + q_size
            for position in range(0, positions, width):
                p, q = p0 + position // pitch, position % pitch
                for lane in range(width):
                    inside = q < q_size and position + lane < positions
                    places[lane] = (
                        image0 * out_size + corner + p * spread_h * out_width + q * spread_w
                        if inside
                        else -1
                    )
                    q += 1
                    if q == pitch:
                        p, q = p + 1, 0
                if padded or position + width <= positions:
                    _multiply_panel(
                        micro, filters, weights, group * group_tile_size, tile_size, 1,
                        rows_ramp, j0,
                        image, base + position, offsets, j0, count,
                        out, out_first, out_row, places, start, group * filters, zero, j0 > 0,
                        work, tile,
                    )  # fmt: skip
                    continue
                # Reading on would leave the source: the columns beyond its end repeat the first.
                for lane in range(width):
                    pixels[lane] = position + (lane if position + lane < positions else 0)
                _pack(work, panel, image, base, offsets, j0, count, pixels)
                _multiply_panel(
                    micro, filters, weights, group * group_tile_size, tile_size, 1,
                        rows_ramp, j0,
                    work, panel, ramp, 0, count,
                    out, out_first, out_row, places, start, group * filters, zero, j0 > 0,
                    work, tile,
                )  # fmt: skip
        else:
            for position in range(begin, end, width):
                i = position // image_pixels
                p = position % image_pixels // q_size
                q = position % q_size
                for lane in range(width):
                    if position + lane < end:
                        places[lane] = (
                            i * out_size + corner + p * spread_h * out_width + q * spread_w
                        )
                        pixels[lane] = (
                            (i - image0) * image_size + (p - p0) * step_h * pitch + q * step_w
                        )
                    else:
                        places[lane], pixels[lane] = -1, pixels[0]
                    q += 1
                    if q == q_size:
                        p, q = p + 1, 0
                        if p == p_size:
                            i, p = i + 1, 0
                _pack(work, panel, image, base, offsets, j0, count, pixels)
                _multiply_panel(
                    micro, filters, weights, group * group_tile_size, tile_size, 1,
                        rows_ramp, j0,
                    work, panel, ramp, 0, count,
                    out, out_first, out_row, places, start, group * filters, zero, j0 > 0,
                    work, tile,
                )  # fmt: skip


@jit.kernel()
def _fill(  # type: ignore[no-untyped-def]
    out, start, image0, image1, p0, p1, begin, end, in_place, group, filters, out_size,
    out_row, corner, q_size, p_size, line, spread_w,
):  # fmt: skip
    """Set a share's outputs that no tap reaches to what sums start from."""
    for i in range(image0, image1):
        for m in range(group * filters, (group + 1) * filters):
            for p in range(p0, p1):
                for q in range(q_size):
                    position = (i * p_size + p) * q_size + q
                    if in_place or begin <= position < end:
                        out[i * out_size + m * out_row + corner + p * line + q * spread_w] = start[
                            m
                        ]


# --------------------------------------------------------------------------------------------
# backward-weights


@jit.Shares
def _correlate_weights(number, thread, arguments, like):  # type: ignore[no-untyped-def]
    """Set the gradients of some taps of a group's filters, over the images of a split."""
    micro = arguments[0]
    source = jit.array_at(arguments[1], like, (arguments[2],))
    dy = jit.array_at(arguments[3], like, (arguments[4],))
    zeros = jit.array_at(arguments[5], like, (arguments[6],))
    out = jit.array_at(arguments[7], like, (arguments[8],))
    room, taps = arguments[10], arguments[12]
    work = jit.array_at(arguments[9] + thread * room * out.itemsize, like, (room,))
    offsets = jit.array_at(arguments[11] + thread * taps * 8, arguments, (taps,))
    tables = jit.array_at(arguments[13], arguments, (3, taps))
    sizes = jit.array_at(arguments[16], arguments, (_WEIGHTS_SIZES,))
    (
        units, together, splits, padded, block, width, batch, groups, channels, height, wide,
        filters,
        p_size, q_size, step_h, step_w, first_row, first_col, span_h, pitch, image_room,
    ) = to_fixed_tuple(sizes, _WEIGHTS_SIZES)  # fmt: skip
    channel, down, across = tables[0], tables[1], tables[2]
    pixels = p_size * q_size
    identity = jit.array_at(arguments[14], arguments, (pixels,))
    ramp = jit.array_at(arguments[15], arguments, (block,))
    split, group, unit = number // units // groups, number // units % groups, number % units
    first_tap = unit * together * width
    last_tap = min(taps, first_tap + together * width)
    first_channel, last_channel = channel[first_tap], channel[last_tap - 1] + 1
    lines = (p_size - 1) * step_h + span_h
    source_size = groups * channels * height * wide
    plane = lines * pitch if padded else height * wide
    for j in range(first_tap, last_tap):
        offsets[j] = (
            (channel[j] - first_channel) * plane
            + (down[j] - first_row) * pitch
            + across[j]
            - first_col
        )
    places = np.empty(width, np.int64)
    panel_size = block * width
    tile = image_room + together * panel_size
    out_first = (split * groups + group) * filters * taps
    first_image = split * batch // splits
    for i in range(first_image, (split + 1) * batch // splits):
        first = i * source_size + (group * channels + first_channel) * height * wide
        if padded:
            _pad(work, source, first, 0, 1, last_channel - first_channel, height, wide,
                 first_row, lines, first_col, pitch)  # fmt: skip
            image, base = work, 0
        else:
            image, base = source, first + first_row * wide + first_col
        for t0 in range(0, pixels, block):
            count = min(block, pixels - t0)
            add = i > first_image or t0 > 0
            for j0 in range(first_tap, last_tap, width):
                panel = image_room + (j0 - first_tap) * block
                for lane in range(width):
                    if j0 + lane < last_tap:
                        _pack_tap(
                            work, panel + lane, width, image, base + offsets[j0 + lane],
                            t0, count, q_size, step_h * pitch, step_w,
                        )  # fmt: skip
                        places[lane] = j0 + lane
                    else:
                        places[lane] = -1
                _multiply_panel(
                    micro, filters, dy, (i * groups + group) * filters * pixels, 0, pixels,
                    identity, t0,
                    work, panel, ramp, 0, count,
                    out, out_first, taps, places, zeros, 0, 0, add, work, tile,
                )  # fmt: skip


@jit.kernel()
def _pack_tap(  # type: ignore[no-untyped-def]
    panel, to, width, source, base, first, count, q_size, line, step_w,
):  # fmt: skip
    """Copy the source pixels under one tap into a column of a panel, a row an output pixel."""
    p, q = first // q_size, first % q_size
    left = count
    while left > 0:
        run = min(left, q_size - q)
        of = base + p * line + q * step_w
        for _ in range(run):
            panel[to] = source[of]
            to += width
            of += step_w
        left -= run
        p, q = p + 1, 0


@jit.Shares
def _sum_filter(number, thread, arguments, like):  # type: ignore[no-untyped-def]  # noqa: ARG001
    """Set a filter's bias gradient: the sum of dy over images and pixels."""
    batch, filters, pixels = arguments[2], arguments[3], arguments[4]
    dy = jit.array_at(arguments[0], like, (batch, filters, pixels))
    db = jit.array_at(arguments[1], like, (filters,))
    total = db.dtype.type(0)
    for n in range(batch):
        for pixel in range(pixels):
            total += dy[n, number, pixel]
    db[number] = total
