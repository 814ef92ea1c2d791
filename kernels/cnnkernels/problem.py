"""A problem: the shapes of one convolution or max-pooling, without its data.

The constructor validates sizes, geometry and dtype, so that nothing else has to.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

import numpy as np

from cnnkernels import geometry
from cnnkernels.geometry import MOST, Padding, Pair, out_size, tap_range

Direction: TypeAlias = Literal["forward", "backward_data", "backward_weights", "backward"]

FORWARD: Direction = "forward"
BACKWARD_DATA: Direction = "backward_data"
BACKWARD_WEIGHTS: Direction = "backward_weights"
BACKWARD: Direction = "backward"

DTYPES = ("float32", "float64")

NATIVE = {name: np.dtype(name) for name in DTYPES}
"""The dtypes by name, in this machine's byte order."""

_NAMES = {dtype: name for name, dtype in NATIVE.items()}


class Conv2DShapes(NamedTuple):
    """Shapes of a convolution's arrays; `b` is empty without a bias."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    b: tuple[int, ...]
    y: tuple[int, int, int, int]


class MaxPool2DShapes(NamedTuple):
    """Shapes of a max-pooling's arrays."""

    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]


def dtype_name(dtype: object) -> str:
    """Return 'float32' or 'float64'.

    Raises
    ------
    TypeError
        If `dtype` is anything else; the kernels compute in these two only.
    """
    try:
        if dtype is None:  # NumPy reads None as float64
            raise TypeError
        found = np.dtype(dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):  # SyntaxError: strings parsed as structures
        raise TypeError(
            f"dtype: expected float32 or float64, got {geometry.shown(dtype)}"
        ) from None
    name = _NAMES.get(found) or str(found.name)  # dtype.name is slow
    if name not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {name}")
    return name


class SlidingWindow:
    """A window that slides over padded images: the part common to convolution and pooling.

    Attributes
    ----------
    batch, height, width : int
        N, H and W, in images and pixels; the batch may be 0.
    kernel_size, stride, dilation : (int, int)
        Along rows and columns.
    padding : ((top, bottom), (left, right))
        In pixels, without trailing padding that no window reaches. So two problems that compute
        the same thing are equal.
    dtype : str
        'float32' or 'float64'.
    """

    batch: int
    height: int
    width: int
    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    dtype: str

    def _set_geometry(
        self,
        batch: object,
        height: object,
        width: object,
        kernel_size: object,
        stride: object,
        padding: object,
        dilation: object,
        dtype: object,
    ) -> None:
        sizes = geometry.integer("height", height, 1), geometry.integer("width", width, 1)
        kernel = geometry.pair("kernel_size", kernel_size, 1)
        strides = geometry.pair("stride", stride, 1)
        dilations = geometry.pair("dilation", dilation, 1)
        pads = geometry.padding_pairs(padding, kernel, strides, dilations)
        trimmed = []
        for word, size, pad, k, s, d in zip(
            ("high", "wide"), sizes, pads, kernel, strides, dilations, strict=True
        ):
            out = out_size(size, pad, k, s, d)
            if out < 1:
                span = d * (k - 1) + 1
                raise ValueError(
                    f"kernel_size: the kernel is {span} pixels {word} (size {k}, dilation {d}) and "
                    f"does not fit the padded image, {size + sum(pad)} pixels {word}"
                )
            reached = (out - 1) * s + d * (k - 1) + 1 - size - pad[0]
            trimmed.append((pad[0], max(0, reached)))
        rows, cols = (size + sum(pad) for size, pad in zip(sizes, trimmed, strict=True))
        if rows * cols > MOST:
            raise ValueError(
                f"height, width, padding: expected at most {MOST} pixels in a padded image, "
                f"got {rows} x {cols}"
            )
        for name, value in (
            ("batch", geometry.integer("batch", batch, 0)),
            ("height", sizes[0]),
            ("width", sizes[1]),
            ("kernel_size", kernel),
            ("stride", strides),
            ("padding", tuple(trimmed)),
            ("dilation", dilations),
            ("dtype", dtype_name(dtype)),
        ):
            object.__setattr__(self, name, value)

    def __hash__(self) -> int:
        return self._hash

    @functools.cached_property
    def _hash(self) -> int:
        return hash(tuple(self.__getstate__().values()))

    def __getstate__(self) -> dict[str, Any]:
        """Return the fields without the cached hash, which differs between processes."""
        names = (field.name for field in dataclasses.fields(self))  # type: ignore[arg-type]
        return {name: getattr(self, name) for name in names}

    def _out_sizes(self, padding: Padding) -> Pair:
        sizes = (self.height, self.width)
        high, wide = (
            out_size(sizes[a], padding[a], self.kernel_size[a], self.stride[a], self.dilation[a])
            for a in (0, 1)
        )
        return high, wide

    @property
    def out_height(self) -> int:
        """P, in pixels."""
        return self._out_sizes(self.padding)[0]

    @property
    def out_width(self) -> int:
        """Q, in pixels."""
        return self._out_sizes(self.padding)[1]

    @property
    def steps(self) -> Pair:
        """The stride, limited to the size of the padded image; a larger one also gives one window.

        Unlike `stride`, it can be multiplied by any other length of the problem without overflow.
        """
        high, wide = (
            min(self.stride[axis], size + sum(self.padding[axis]))
            for axis, size in enumerate((self.height, self.width))
        )
        return high, wide

    @property
    def symmetric_padding(self) -> Pair | None:
        """Equivalent padding (rows, columns), equal on both sides; None if there is none.

        Padding is stored trimmed to what windows reach, so symmetric padding is often stored as
        asymmetric. Libraries that take only symmetric padding use this instead.
        """
        high, wide = self.padding[0][0], self.padding[1][0]
        same = self._out_sizes(((high, high), (wide, wide))) == self._out_sizes(self.padding)
        return (high, wide) if same else None

    def first_blind(self, axis: int) -> int:
        """Return the first window along axis 0 or 1 that sees no pixel, or the window count."""
        size, out = ((self.height, self.out_height), (self.width, self.out_width))[axis]
        before, kernel = self.padding[axis][0], self.kernel_size[axis]
        return geometry.first_blind(
            out, size, before, kernel, self.stride[axis], self.dilation[axis]
        )

    @property
    def taps_on_pixels(self) -> int:
        """Number of (window, tap) pairs in one channel's plane that hit a pixel, not padding."""
        product = 1
        for axis, (size, out) in enumerate(
            ((self.height, self.out_height), (self.width, self.out_width))
        ):
            # Windows and taps are interchangeable here; loop over the fewer of the two.
            (out, stride), (kernel, dilation) = sorted(
                ((out, self.stride[axis]), (self.kernel_size[axis], self.dilation[axis])),
                reverse=True,
            )
            count = 0
            for tap in range(kernel):
                offset = tap * dilation - self.padding[axis][0]
                first, last = tap_range(out, size, stride, offset)
                count += last - first
            product *= count
        return product

    def _window_descriptor(self) -> tuple[str, str]:
        """Return the descriptor's image and window parts, which enclose the channels."""
        parts = []
        for axis, letter in enumerate("hw"):
            parts.append(
                {
                    "i": (self.height, self.width)[axis],
                    "o": (self.out_height, self.out_width)[axis],
                    "k": self.kernel_size[axis],
                    "s": self.stride[axis],
                    "p": self.padding[axis][0],
                    "d": self.dilation[axis] - 1,
                    "letter": letter,
                }
            )
        high, wide = parts
        twins = all(high[key] == wide[key] for key in "iokspd")
        image = f"ih{high['i']}" + ("" if twins else f"iw{wide['i']}")
        window = f"oh{high['o']}" + ("" if twins else f"ow{wide['o']}")
        window += f"kh{high['k']}" + ("" if twins else f"kw{wide['k']}")
        for key, usual in (("s", 1), ("p", None), ("d", 0)):
            if high[key] == wide[key] == usual:
                continue
            window += f"{key}h{high[key]}" + ("" if twins else f"{key}w{wide[key]}")
        return image, window

    def _dtype_descriptor(self) -> str:
        return "" if self.dtype == "float32" else "f64"


@dataclass(frozen=True, init=False)
class Conv2D(SlidingWindow):
    """One 2-D convolution (cross-correlation, as in PyTorch), without its data.

    Parameters
    ----------
    batch : int
        N, the number of images; may be 0.
    in_channels, out_channels : int
        C and K, each a multiple of `groups`.
    height, width : int
        H and W, in pixels.
    kernel_size, stride, dilation : int or (int, int)
        Rows and columns; an integer means both.
    padding : int, (int, int), ((top, bottom), (left, right)), 'same' or 'valid'
        Zeros around the images, in pixels.
    groups : int
        Number of groups; an output channel reads only the input channels of its group.
    bias : bool
        Whether each output channel has a bias.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel does not fit, or groups do not divide channels.
    TypeError
        If a size is not an integer, or the dtype is neither of these.
    """

    batch: int
    in_channels: int
    height: int
    width: int
    out_channels: int
    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    groups: int
    bias: bool
    dtype: str

    __hash__ = SlidingWindow.__hash__  # dataclass would write one that is slow

    def __init__(
        self,
        batch: int,
        in_channels: int,
        height: int,
        width: int,
        out_channels: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] = 1,
        padding: int | Sequence[int] | Sequence[Sequence[int]] | str = 0,
        dilation: int | Sequence[int] = 1,
        groups: int = 1,
        bias: bool = True,
        dtype: object = "float32",
    ) -> None:
        self._set_geometry(batch, height, width, kernel_size, stride, padding, dilation, dtype)
        groups = geometry.integer("groups", groups, 1)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            channels = geometry.integer(name, value, 1)
            if channels % groups:
                raise ValueError(f"{name}: expected a multiple of groups={groups}, got {channels}")
            object.__setattr__(self, name, channels)
        if not isinstance(bias, bool | np.bool_):
            raise TypeError(f"bias: expected True or False, got {geometry.shown(bias)}")
        object.__setattr__(self, "groups", groups)
        object.__setattr__(self, "bias", bool(bias))
        _require_possible(self.shapes, self.dtype)

    @functools.cached_property
    def shapes(self) -> Conv2DShapes:
        """Shapes of x (N, C, H, W), w (K, C/groups, R, S), b (K,) and y (N, K, P, Q)."""
        return Conv2DShapes(
            x=(self.batch, self.in_channels, self.height, self.width),
            w=(self.out_channels, self.in_channels // self.groups, *self.kernel_size),
            b=(self.out_channels,) if self.bias else (),
            y=(self.batch, self.out_channels, self.out_height, self.out_width),
        )

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of one direction, without taps on padding."""
        pairs = self.batch * self.out_channels * (self.in_channels // self.groups)
        return pairs * self.taps_on_pixels

    def flops(self, direction: Direction) -> int:
        """Floating-point operations of a direction: two per multiply-add, none on padding.

        'backward' counts backward_data plus backward_weights. The bias is not counted.
        """
        return 2 * self.multiply_adds * (2 if direction == BACKWARD else 1)

    def bytes_moved(self, direction: Direction) -> int:
        """Minimum bytes read and written by a direction, with each array moved once."""
        x, w, b, y = (_elements(shape) for shape in self.shapes)
        moved = {
            FORWARD: x + w + b + y,
            BACKWARD_DATA: y + w + x,
            BACKWARD_WEIGHTS: y + x + w + b,
            BACKWARD: y + 2 * x + 2 * w + b,
        }[direction]
        return moved * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """Return the canonical descriptor, the inverse of `cnnkernels.descriptor.parse`."""
        image, window = self._window_descriptor()
        return (
            f"g{self.groups}mb{self.batch}ic{self.in_channels}{image}oc{self.out_channels}{window}"
            + ("" if self.bias else "bias0")
            + self._dtype_descriptor()
        )


@dataclass(frozen=True, init=False)
class MaxPool2D(SlidingWindow):
    """One 2-D max-pooling, without its data.

    Parameters
    ----------
    batch, channels, height, width : int
        N, C, H and W; the batch may be 0.
    kernel_size, stride, dilation : int or (int, int)
        Rows and columns; `stride` is `kernel_size` unless given.
    padding : int, (int, int), ((top, bottom), (left, right)) or 'valid'
        Minus infinity around the images, in pixels. It may exceed half the kernel, as in ONNX.
    ceil_mode : bool
        Whether to include a last window that begins inside the image or its leading padding but
        ends beyond the trailing padding. The problem stores the mode as extra padding.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel does not fit, or a window would see no pixel.
    TypeError
        If a size is not an integer, or the dtype is neither of these.
    """

    batch: int
    channels: int
    height: int
    width: int
    kernel_size: Pair
    stride: Pair
    padding: Padding
    dilation: Pair
    dtype: str

    __hash__ = SlidingWindow.__hash__

    def __init__(
        self,
        batch: int,
        channels: int,
        height: int,
        width: int,
        kernel_size: int | Sequence[int],
        stride: int | Sequence[int] | None = None,
        padding: int | Sequence[int] | Sequence[Sequence[int]] | str = 0,
        dilation: int | Sequence[int] = 1,
        ceil_mode: bool = False,
        dtype: object = "float32",
    ) -> None:
        stride = kernel_size if stride is None else stride
        if not isinstance(ceil_mode, bool | np.bool_):
            raise TypeError(f"ceil_mode: expected True or False, got {geometry.shown(ceil_mode)}")
        if ceil_mode:
            padding = geometry.ceil_padding(height, width, kernel_size, stride, padding, dilation)
        self._set_geometry(batch, height, width, kernel_size, stride, padding, dilation, dtype)
        object.__setattr__(self, "channels", geometry.integer("channels", channels, 1))
        for axis, word, out in ((0, "row", self.out_height), (1, "column", self.out_width)):
            blind = self.first_blind(axis)
            if blind < out:
                raise ValueError(
                    f"padding: window {word} {blind} of {out} lies wholly in the padding "
                    f"{self.padding[axis]} and would see no pixel"
                )
        _require_possible(self.shapes, self.dtype)

    @functools.cached_property
    def shapes(self) -> MaxPool2DShapes:
        """Shapes of x (N, C, H, W) and y (N, C, P, Q)."""
        return MaxPool2DShapes(
            x=(self.batch, self.channels, self.height, self.width),
            y=(self.batch, self.channels, self.out_height, self.out_width),
        )

    @property
    def comparisons(self) -> int:
        """Number of pixels that the windows compare, without padding."""
        return self.batch * self.channels * self.taps_on_pixels

    def flops(self, direction: Direction) -> int:
        """Return 0: pooling compares and copies, so its speed is measured in bytes."""
        del direction
        return 0

    def bytes_moved(self, direction: Direction) -> int:
        """Bytes of x and y, each moved once; the cache of winners is not counted."""
        del direction
        return sum(_elements(shape) for shape in self.shapes) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """Return the canonical descriptor, the inverse of `cnnkernels.descriptor.parse`."""
        image, window = self._window_descriptor()
        return f"mb{self.batch}ic{self.channels}{image}{window}{self._dtype_descriptor()}"


Problem: TypeAlias = Conv2D | MaxPool2D


def directions(problem: Problem) -> tuple[Direction, ...]:
    """Return the directions in which a problem is checked and timed."""
    if isinstance(problem, Conv2D):
        return FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, BACKWARD
    return FORWARD, BACKWARD


def _require_possible(shapes: Conv2DShapes | MaxPool2DShapes, dtype: str) -> None:
    """Reject arrays that are too large for any machine; an empty batch counts as one image."""
    for name, shape in zip(shapes._fields, shapes, strict=True):
        elements = math.prod(shape) or math.prod(shape[1:])
        if elements * NATIVE[dtype].itemsize > MOST:
            raise ValueError(
                f"{name}: expected an array of at most {MOST} bytes, got shape {shape} of {dtype}"
            )


def _elements(shape: tuple[int, ...]) -> int:
    product = 1 if shape else 0
    for size in shape:
        product *= size
    return product
