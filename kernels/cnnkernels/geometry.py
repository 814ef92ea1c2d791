"""Window arithmetic along one axis, and validation of sizes and padding.

Everything is in closed form, without loops over windows or taps: sizes may reach `MOST`.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]

MOST = 2**48
"""Upper limit of every number in a problem, of an array's bytes and of a padded image's pixels.

No machine addresses more bytes. Kernels compute indices in int64: an index into an array or a
padded image, times lanes, vectors and bytes per element, stays far below 2**63.
"""


def out_size(size: int, pad: Pair, kernel: int, stride: int, dilation: int) -> int:
    """Return the number of windows along one axis of `size` pixels."""
    return (size + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1


def tap_range(out: int, size: int, stride: int, offset: int) -> Pair:
    """Return the half-open range of windows whose tap at `offset` lies on a pixel.

    Window p puts this tap on pixel ``p * stride + offset``, which exists if
    ``0 <= p * stride + offset < size``. If no window hits a pixel, the range is empty, never
    reversed.
    """
    first = max(0, -(offset // stride))
    last = min(out, (size - 1 - offset) // stride + 1)
    return first, max(first, last)


def _first_multiple(step: int, modulus: int, low: int, high: int) -> int | None:
    """Return the least p >= 0 with ``low <= p * step % modulus <= high``, or None.

    Requires ``0 < low <= high < modulus``. If no multiple of the step falls in the range before
    wrapping around, the number of wraps solves the same problem with smaller numbers, as in
    Euclid's algorithm.
    """
    if step == 0:
        return None
    p = -(-low // step)
    if p * step <= high:
        return p
    passed = _first_multiple(-modulus % step, step, low % step, high % step)
    return None if passed is None else -(-(low + passed * modulus) // step)


def first_blind(out: int, size: int, pad: int, kernel: int, stride: int, dilation: int) -> int:
    """Return the first window along an axis that sees no pixel, or `out` if every window sees one.

    Window p begins at ``p * stride - pad``. A window that begins before the image sees a pixel if
    its first tap at or after the image's start lies inside the image.
    """
    if -(-pad // dilation) >= kernel:
        return 0
    found = out
    if dilation > size:  # the first tap may step over the image
        first = -pad % dilation
        if first >= size:
            return 0
        stepped = _first_multiple(stride % dilation, dilation, size - first, dilation - 1 - first)
        if stepped is not None and stepped * stride < pad:
            found = stepped
    return min(found, -(-(size + pad) // stride), out)  # or the first window beyond the image


def shown(value: object) -> str:
    """Return a value's text for messages; Python cannot print integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} of such integers"


def integer(name: str, value: object, least: int) -> int:
    """Return an argument as an integer from `least` to `MOST`; errors state its name."""
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer, got {shown(value)} of type {type(value).__name__}"
        ) from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {shown(number)}")
    if number > MOST:
        raise ValueError(f"{name}: expected at most {MOST}, got {shown(number)}")
    return number


def pair(name: str, value: object, least: int) -> Pair:
    """Return an argument as two integers, for rows and columns; see `integer`."""
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) != 2:
            raise ValueError(
                f"{name}: expected an integer or a pair (height, width), got {shown(value)}"
            )
        return integer(name, value[0], least), integer(name, value[1], least)
    number = integer(name, value, least)
    return number, number


def padding_pairs(value: object, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
    """Return padding in any accepted form as ((top, bottom), (left, right)), in pixels."""
    if isinstance(value, str):
        if value == "valid":
            return (0, 0), (0, 0)
        if value != "same":
            raise ValueError(f"padding: expected 'same' or 'valid', got {value!r}")
        if stride != (1, 1):
            raise ValueError(f"padding='same' needs stride 1, got stride {stride}")
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        top, left = totals[0] // 2, totals[1] // 2
        return (top, totals[0] - top), (left, totals[1] - left)
    if isinstance(value, Sequence) and len(value) == 2 and isinstance(value[0], Sequence):
        if not isinstance(value[1], Sequence):
            raise ValueError(
                f"padding: expected ((top, bottom), (left, right)), got {shown(value)}"
            )
        return pair("padding", value[0], 0), pair("padding", value[1], 0)
    high, wide = pair("padding", value, 0)
    return (high, high), (wide, wide)


def ceil_padding(
    height: int,
    width: int,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
) -> Padding:
    """Return the padding with which floor mode has the same windows as ceil mode."""
    kernel = pair("kernel_size", kernel_size, 1)
    strides = pair("stride", stride, 1)
    dilations = pair("dilation", dilation, 1)
    pads = padding_pairs(padding, kernel, strides, dilations)
    ceiled = []
    for size, (before, after), k, s, d in zip(
        (integer("height", height, 1), integer("width", width, 1)),
        pads,
        kernel,
        strides,
        dilations,
        strict=True,
    ):
        out = -(-(size + before + after - d * (k - 1) - 1) // s) + 1
        if (out - 1) * s >= size + before:  # PyTorch drops a window that begins beyond the image
            out -= 1
        reached = (out - 1) * s + d * (k - 1) + 1 - size - before
        ceiled.append((before, max(0, reached) if out > 0 else after))
    return ceiled[0], ceiled[1]
