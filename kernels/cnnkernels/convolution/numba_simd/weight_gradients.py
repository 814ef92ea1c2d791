"""Backward-weights on vector registers, as a sum over pixels.

dw[m, c, r, s] is the sum over images and output pixels of dy[m] times the source pixel under tap
(c, r, s). As a matrix product, it is a matrix with a row per tap, read pixel by pixel in place,
times a panel of dy with a row per pixel and a column per filter. Filters lie in the lanes, so that
only dy is transposed, once for all taps, and no tap is copied. The rows of a tile are channels
under one window pixel or, with few channels, a line of the window. If either operand could be
transposed and dy is much larger, images are transposed instead.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import NamedTuple

import numpy as np

from cnnkernels import arrays, copies, jit, microkernel, parallel, records, simd
from cnnkernels.contract import Conv2D
from cnnkernels.convolution.numba_simd.correlation import SECOND_CACHE, WeightsDriver, even

_VECTORS = 2
"""Vectors of filters per tile."""

_BLOCK = 800
"""Maximum pixels of a block."""

_TAPS = 2304
"""Approximate taps of a share: their sums stay in L2."""

_COPY = 3 * SECOND_CACHE // 8
"""Approximate elements of a copy of the pixels under a block's taps."""

_TOGETHER = 8
"""Maximum panels of filters that share a pass over the images; half as many over a copy."""

_SUMS = SECOND_CACHE // 2
"""Maximum elements of sums."""

_CACHED = 4 * 1024 * 1024
"""Maximum elements of images that stay in some cache between passes."""

_SHARES = 8
"""Minimum number of shares, if the problem allows it."""

_WORTH = 500_000
"""Minimum multiply-adds in a part of the batch, to pay for adding up the parts."""


class _Blocking(NamedTuple):
    """The blocking of backward-weights; channels and filters are those of one group."""

    turned: int
    """Whether images are transposed instead of dy; then dy replaces images in all other fields."""
    batch: int
    """Images."""
    groups: int
    """Groups of channels."""
    channels: int
    """Channels of the images."""
    height: int
    """Rows of the images."""
    width: int
    """Columns of the images."""
    filters: int
    """Channels of dy."""
    p_size: int
    """Rows of dy."""
    q_size: int
    """Columns of dy."""
    rows: int
    """Rows of the window."""
    cols: int
    """Columns of the window."""
    step_h: int
    """Stride of rows."""
    step_w: int
    """Stride of columns."""
    dilation_w: int
    """Dilation of columns."""
    top: int
    """Padding above an image."""
    left: int
    """Padding before its lines."""
    reach: np.ndarray
    """(2, windows), int64: row and column of each pixel of the window, relative to its origin."""
    images: int
    """Images of a block."""
    parts: int
    """Blocks of an image, if `images` is 1."""
    block: int
    """Maximum pixels of a block."""
    lines: int
    """Maximum lines of an image that a block reads."""
    span_h: int
    """Lines that the window spans."""
    pitch: int
    """Elements from one line of a copy to the next."""
    region: int
    """Elements of the copy of one channel of a block."""
    copied: int
    """Whether images are copied with zeros around them."""
    along: int
    """Whether the rows of a tile are channels, instead of pixels of a window line."""
    panel_width: int
    """Filters of a panel, in whole vectors."""
    panels: int
    """Groups of panels that share a pass over the images."""
    together: int
    """Panels that share a pass."""
    ranges: int
    """Ranges of channels."""
    in_range: int
    """Channels of a range."""
    splits: int
    """Parts of the batch, with gradients added up at the end."""
    copy_room: int
    """Elements of scratch memory for copies of images."""
    room: int
    """Elements of all scratch memory of a thread."""


def _blocking(problem: Conv2D) -> _Blocking:
    """Return the blocking of a problem."""
    images_turned = _images_turned(problem)
    problem = images_turned or problem
    channels = problem.in_channels // problem.groups
    filters = problem.out_channels // problem.groups
    rows, cols = problem.kernel_size
    windows = rows * cols
    itemsize = np.dtype(problem.dtype).itemsize
    width = _VECTORS * simd.lanes(itemsize)
    _, _, p_size, q_size = problem.shapes.y
    pixels = p_size * q_size
    (top, _), (left, _) = problem.padding
    (step_h, step_w), (dilation_h, dilation_w) = problem.steps, problem.dilation
    span_h, span_w = (rows - 1) * dilation_h + 1, (cols - 1) * dilation_w + 1
    along = channels >= min(cols, microkernel.MOST_ROWS)  # rows of a tile are channels
    # Blocks: some whole images, or a part of one.
    images = max(1, min(problem.batch, _BLOCK // pixels))
    parts = -(-pixels // _BLOCK)
    block = images * -(-pixels // parts)
    lines = p_size if parts == 1 else min(p_size, -(-pixels // parts) // q_size + 2)
    lines = (lines - 1) * step_h + span_h
    pitch = (q_size - 1) * step_w + span_w
    plane = problem.height * problem.width
    # Rows a multiple of 4 KiB apart evict each other from L1, so they are copied too.
    places = {row * plane * itemsize // arrays.LINE % 64 for row in range(microkernel.MOST_ROWS)}
    if along:
        copied = len(places) < microkernel.MOST_ROWS // 4
    else:
        copied = (
            max(top, left) > 0
            or (p_size - 1) * step_h + span_h > problem.height
            or pitch > problem.width
        )
    most = max(1, _TAPS // windows)
    if copied:
        region = images * lines * pitch
        region += (16 - region) % 32  # an odd number of lines of the cache, which do not
        most = min(most, max(1, _COPY // region))
    else:
        region = 0
    if along:
        most = max(most, min(channels, microkernel.MOST_ROWS))
    panels = -(-filters // width)
    ranges = -(-channels // min(channels, most))
    while (
        problem.batch * problem.groups * panels * ranges < 4
        and channels // ranges > microkernel.MOST_ROWS
    ):
        ranges *= 2
    in_range = -(-channels // ranges)
    ranges = -(-channels // in_range)
    # Panels that share a pass over the images. A pass from memory takes longer than adding up
    # the parts of a batch; a pass from a cache does not.
    together = max(1, min(_TOGETHER // (2 if copied else 1), _SUMS // (in_range * windows * width)))
    streamed = max(math.prod(problem.shapes.x), math.prod(problem.shapes.y)) > _CACHED
    if not streamed:
        together = min(together, problem.groups * panels * ranges // _SHARES)
    together = even(panels, max(1, together))
    panels = -(-panels // together)
    units = problem.groups * panels * ranges
    worth = problem.multiply_adds // _WORTH
    enough = -(-(_SHARES if streamed else _SHARES // 2) // units)
    splits = max(1, min(problem.batch // images, enough, worth))
    copy = in_range * region + width if copied else 0
    panel = (block + width + in_range * windows) * width
    work = -(-(copy + together * panel) // 32) * 32
    r, s = (axis.ravel() for axis in np.indices((rows, cols)))
    return _Blocking(
        turned=images_turned is not None,
        batch=problem.batch,
        groups=problem.groups,
        channels=channels,
        height=problem.height,
        width=problem.width,
        filters=filters,
        p_size=p_size,
        q_size=q_size,
        rows=rows,
        cols=cols,
        step_h=step_h,
        step_w=step_w,
        dilation_w=dilation_w,
        top=top,
        left=left,
        reach=np.stack((r * dilation_h - top, s * dilation_w - left)),
        images=images,
        parts=parts,
        block=block,
        lines=lines,
        span_h=span_h,
        pitch=pitch,
        region=region,
        copied=copied,
        along=along,
        panel_width=width,
        panels=panels,
        together=together,
        ranges=ranges,
        in_range=in_range,
        splits=splits,
        copy_room=-(-copy // 32) * 32,
        room=work + 64,
    )


def needed(problem: Conv2D) -> int:
    """Return the approximate bytes of tables and scratch memory."""
    here, itemsize = _blocking(problem), np.dtype(problem.dtype).itemsize
    parts = here.splits * math.prod(problem.shapes.w) if here.splits > 1 else 0
    return 80 * math.prod(problem.kernel_size) + itemsize * (here.room + parts)


def prepare(problem: Conv2D) -> WeightsDriver:
    """Return the function that computes backward-weights.

    Its shares depend only on the problem, not on the number of threads.
    """
    return functools.partial(_run, problem.dtype, records.record(_blocking(problem)))


class _Call(NamedTuple):
    """The arguments of `_correlate`."""

    tile: int
    """Address of the micro-kernel."""
    x: np.ndarray
    """Images, or dy if images are transposed."""
    dy: np.ndarray
    """Gradient of the outputs, or images if these are transposed."""
    out: np.ndarray
    """The gradient of the weights for each part of the batch."""
    zeros: np.ndarray
    """`microkernel.MOST_ROWS` zeros."""
    blocking: int
    """Address of a `_Blocking`."""


def _run(
    dtype: str, blocking: records.Record[_Blocking], dy: np.ndarray, x: np.ndarray, dw: np.ndarray
) -> None:
    cut = blocking.fields
    if cut.turned:
        dy, x = x, dy
    out = dw if cut.splits == 1 else np.empty((cut.splits, dw.size), dtype)
    call = _Call(microkernel.tile_address(dtype), x, dy, out, _zeros(dtype), blocking.address)
    _correlate(cut.splits * cut.groups * cut.panels * cut.ranges, dtype, call)
    if cut.splits > 1:
        np.add.reduce(out, axis=0, out=dw.reshape(-1))


def _images_turned(problem: Conv2D) -> Conv2D | None:
    """Return the problem with channels and filters swapped, if images should be transposed.

    If each pixel of dy is multiplied by exactly one image pixel, either operand can be transposed;
    choose the smaller one if they come from memory.
    """
    alone = problem.kernel_size == problem.stride == (1, 1) and problem.padding == ((0, 0), (0, 0))
    smaller = problem.in_channels < problem.out_channels
    if not (alone and smaller and math.prod(problem.shapes.y) > _CACHED):
        return None
    return dataclasses.replace(
        problem, in_channels=problem.out_channels, out_channels=problem.in_channels, bias=False
    )


@functools.cache
def _zeros(dtype: str) -> np.ndarray:
    return np.zeros(microkernel.MOST_ROWS, dtype)


@parallel.ParallelKernel
def _correlate(number, words, like):  # type: ignore[no-untyped-def]
    """Set the gradients of one panel of filters and a range of channels, over a split's images."""
    call = records.read(_Call, words)
    blocking = records.read(_Blocking, call.blocking)
    batch, groups, channels = blocking.batch, blocking.groups, blocking.channels
    height, wide, filters = blocking.height, blocking.width, blocking.filters
    q_size, rows, cols, step_h = blocking.q_size, blocking.rows, blocking.cols, blocking.step_h
    step_w, top, images, parts = blocking.step_w, blocking.top, blocking.images, blocking.parts
    pitch, along, panels = blocking.pitch, blocking.along, blocking.panels
    ranges, splits, together = blocking.ranges, blocking.splits, blocking.together
    width, in_block = blocking.panel_width, blocking.block
    windows = rows * cols
    plane, pixels = height * wide, blocking.p_size * q_size
    x = records.array_at(call.x, like, (batch * groups * channels * plane,))
    dy = records.array_at(call.dy, like, (batch * groups * filters * pixels,))
    out = records.array_at(call.out, like, (splits * groups * filters * channels * windows,))
    work = simd.scratch(blocking.room, out)
    zeros = records.array_at(call.zeros, like, (microkernel.MOST_ROWS,))
    reach = records.array_at(blocking.reach, words, (2, windows))
    lanes = width // _VECTORS
    split, unit = number // (groups * panels * ranges), number % (groups * panels * ranges)
    group, panel, share = unit // (panels * ranges), unit // ranges % panels, unit % ranges
    first_filter = panel * together * width
    together = min(together, (filters - first_filter + width - 1) // width)
    c0, c1 = share * blocking.in_range, min(channels, (share + 1) * blocking.in_range)
    blocks = (batch + images - 1) // images
    looks, of_dy = np.empty(in_block, np.int64), np.empty(in_block, np.int64)
    one_phase = np.zeros(1, np.int64)
    size = (in_block + width) * width
    copy_room = blocking.copy_room
    sums = copy_room + together * size
    sums_size = (c1 - c0) * windows * width
    copies.fill_run(work, sums, together * sums_size, 0, lanes)
    for block in range(split * blocks // splits, (split + 1) * blocks // splits):
        i0, i1 = block * images, min(batch, (block + 1) * images)
        for part in range(parts):
            t0, t1 = part * pixels // parts, (part + 1) * pixels // parts
            # The origins of the block's pixels, and the pixels they see.
            first_line = t0 // q_size * step_h - top
            if blocking.copied:
                seen = ((t1 - 1) // q_size - t0 // q_size) * step_h + blocking.span_h
                for c in range(c0, c1):
                    for i in range(i1 - i0):
                        copies.copy_phases(
                            work, (c - c0) * blocking.region + i * blocking.lines * pitch,
                            x, (((i0 + i) * groups + group) * channels + c) * plane, height, wide,
                            first_line, -blocking.left, seen, 1, 1, pitch, one_phase, 0, lanes,
                        )  # fmt: skip
                image, line, image_size, row = work, pitch, blocking.lines * pitch, blocking.region
                base = top * pitch + blocking.left
            else:
                image, line, image_size, row = x, wide, groups * channels * plane, plane
                base = ((i0 * groups + group) * channels + c0) * plane + (first_line + top) * wide
            for i in range(i1 - i0):
                for number in range(together):
                    m0 = first_filter + number * width
                    copies.turn(
                        work, copy_room + number * size + i * (t1 - t0) * width, width, dy,
                        (((i0 + i) * groups + group) * filters + m0) * pixels + t0,
                        pixels, min(width, filters - m0), t1 - t0, lanes,
                    )  # fmt: skip
            if not along:  # all pixels are valid in a copy with zeros around the images
                count = _look(
                    looks, of_dy, 0, 0, t0, t1, i1 - i0, q_size,
                    step_h * blocking.p_size, step_w * q_size, step_h, step_w,
                    line, image_size, width,
                )  # fmt: skip
            # Rows of a tile: channels under one pixel of the window, or pixels of a window line.
            for outer in range(windows if along else (c1 - c0) * rows):
                inner = c1 - c0 if along else cols
                if along:
                    count = _look(
                        looks, of_dy, reach[0, outer], reach[1, outer], t0, t1, i1 - i0, q_size,
                        height, wide, step_h, step_w, line, image_size, width,
                    )  # fmt: skip
                if not count:
                    continue
                tiles = (inner + microkernel.MOST_ROWS - 1) // microkernel.MOST_ROWS
                for tile in range(tiles):
                    k0, k1 = tile * inner // tiles, (tile + 1) * inner // tiles
                    if along:
                        window, c, a_row, c_row = outer, k0, row, windows * width
                    else:
                        window, c = outer % rows * cols + k0, outer // rows
                        a_row, c_row = blocking.dilation_w, width
                    first = base + c * row + reach[0, window] * line + reach[1, window]
                    for number in range(together):
                        here = min(width, filters - first_filter - number * width)
                        microkernel.multiply_tile(
                            call.tile, rows=k1 - k0, vectors=(here + lanes - 1) // lanes,
                            count=count, add=1,
                            a=image, a_first=first, a_row=a_row, a_offsets=looks, a_from=0,
                            b=work, b_first=copy_room + number * size, b_offsets=of_dy, b_from=0,
                            c=work,
                            c_first=sums + number * sums_size + (c * windows + window) * width,
                            c_row=c_row, start=zeros, start_first=0,
                        )  # fmt: skip
    taps = channels * windows
    for number in range(together):
        m0, of = first_filter + number * width, sums + number * sums_size
        filled = min(width, filters - m0)
        if blocking.turned:  # images are transposed: sums have the order of weights
            for c in range(c0, c1):
                to = ((split * groups + group) * channels + c) * filters + m0
                for m in range(filled):
                    out[to + m] = work[of + m]
                of += width
        else:
            copies.turn_back(
                out, ((split * groups + group) * filters + m0) * taps + c0 * windows, taps,
                work, of, width, filled, (c1 - c0) * windows, lanes,
            )  # fmt: skip


@jit.kernel
def _look(  # type: ignore[no-untyped-def]
    looks, of_dy, down, across, t0, t1, images, q_size, height, wide, step_h, step_w, line,
    image_size, width,
):  # fmt: skip
    """List the source pixels under one window pixel of some images, with their pixels of dy.

    The window pixel is in row `down` and column `across` from the window's origin.
    """
    count = 0
    for i in range(images):
        for p in range(t0 // q_size, (t1 - 1) // q_size + 1):
            if 0 <= p * step_h + down < height:
                first = max(t0 - p * q_size, 0, -(across // step_w))
                end = min(t1 - p * q_size, q_size, (wide - across + step_w - 1) // step_w)
                of = i * image_size + (p - t0 // q_size) * step_h * line
                to = (i * (t1 - t0) + p * q_size - t0) * width
                for q in range(first, end):
                    looks[count] = of + q * step_w
                    of_dy[count] = to + q * width
                    count += 1
    return count


class _SumCall(NamedTuple):
    """The arguments of `_sum_filters`."""

    dy: np.ndarray
    """(batch, filters, pixels)."""
    db: np.ndarray
    """(filters,)."""
    batch: int
    """Images."""
    filters: int
    """Filters of all groups."""
    pixels: int
    """Pixels of an image."""
    shares: int
    """Shares of the filters."""
    lanes: int
    """Elements of a vector."""


def sum_filters(problem: Conv2D, dy: np.ndarray) -> np.ndarray:
    """Return the gradient of the biases, (K,): the sums of dy over images and pixels."""
    db = arrays.empty(problem.shapes.b, problem.dtype)
    batch, filters, height, width = dy.shape
    shares = min(filters, 4 * parallel.threads())
    call = _SumCall(dy, db, batch, filters, height * width, shares, simd.lanes(dy.itemsize))
    _sum_filters(shares, problem.dtype, call)
    return db


@parallel.ParallelKernel
def _sum_filters(number, words, like):  # type: ignore[no-untyped-def]
    """Set the bias gradients of some filters."""
    call = records.read(_SumCall, words)
    batch, filters, pixels, lanes = call.batch, call.filters, call.pixels, call.lanes
    dy = records.array_at(call.dy, like, (batch * filters * pixels,))
    db = records.array_at(call.db, like, (filters,))
    sums = np.empty(lanes, db.dtype)
    whole = pixels // lanes * lanes
    for k in range(number * filters // call.shares, (number + 1) * filters // call.shares):
        simd.fill_vector(sums, 0, 0)
        for pixel in range(0, whole, lanes):
            simd.add_rows(sums, 0, dy, k * pixels + pixel, filters * pixels, batch)
        total = sums.sum()
        for n in range(batch):
            for pixel in range(whole, pixels):
                total += dy[(n * filters + k) * pixels + pixel]
        db[k] = total
