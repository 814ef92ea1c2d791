"""Problems, gradients and protocols: what every kernel is asked and has to answer.

A *problem* is one convolution or pooling without its data: sizes, geometry and dtype, validated
once, when it is constructed. A *kernel* is a plain module of functions that take a problem and
arrays. A *backend* joins a convolution kernel, a pooling kernel and the arrays they compute on.

Axes and loop indices are named as in the literature: n image, c input channel, h w input row and
column, k output channel, r s kernel row and column, p q output row and column.
"""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import functools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, TypeAlias

import numpy as np

Array: TypeAlias = Any
"""A dense array of a backend's own kind: `numpy.ndarray`, or `torch.Tensor` on some device."""

Cache: TypeAlias = tuple[Array, ...]
"""What forward leaves for backward; opaque to everyone but the kernel that made it."""

ArraySpec: TypeAlias = tuple[tuple[int, ...], str]
"""Shape and dtype name of one array."""

Pair: TypeAlias = tuple[int, int]
Padding: TypeAlias = tuple[Pair, Pair]
Direction: TypeAlias = Literal["forward", "backward_data", "backward_weights", "backward"]

FORWARD: Direction = "forward"
BACKWARD_DATA: Direction = "backward_data"
BACKWARD_WEIGHTS: Direction = "backward_weights"
BACKWARD: Direction = "backward"

DTYPES = ("float32", "float64")

MOST = 2**48
"""The largest number of a problem: bytes of an array, pixels of a padded image, a stride.

No machine addresses more bytes. Kernels compute places in int64: a place in an array or a padded
image, times the lanes, the vectors and the bytes that they multiply it with, is far below 2**63.
"""


class Unsupported(NotImplementedError):
    """A backend cannot run here, or cannot run this problem; the message is the reason.

    A subclass of NotImplementedError, which asv already counts as a skip.
    """


class Needs(NamedTuple):
    """Which gradients the caller wants; a kernel returns None for the others."""

    dx: bool = True
    dw: bool = True
    db: bool = True


ALL = Needs()


class Conv2DGradients(NamedTuple):
    """Gradients of a convolution.

    Attributes
    ----------
    dx : array, (N, C, H, W), or None
    dw : array, (K, C/groups, R, S), or None
    db : array, (K,), or None
        None also where the problem has no bias.
    """

    dx: Array | None
    dw: Array | None
    db: Array | None


class Conv2DShapes(NamedTuple):
    """Shapes of the arrays of a convolution; `b` is empty where there is no bias."""

    x: tuple[int, int, int, int]
    w: tuple[int, int, int, int]
    b: tuple[int, ...]
    y: tuple[int, int, int, int]


class MaxPool2DShapes(NamedTuple):
    """Shapes of the arrays of a max-pooling."""

    x: tuple[int, int, int, int]
    y: tuple[int, int, int, int]


# --------------------------------------------------------------------------------------------
# geometry


def out_size(size: int, pad: Pair, kernel: int, stride: int, dilation: int) -> int:
    """Return how many windows fit along one axis of `size` pixels: the one place it is written."""
    return (size + pad[0] + pad[1] - dilation * (kernel - 1) - 1) // stride + 1


def tap_range(out: int, size: int, stride: int, offset: int) -> Pair:
    """Return the half-open range of windows whose tap at `offset` lies on a pixel.

    Window p of an axis puts this tap on pixel ``p * stride + offset``, which exists for
    ``0 <= p * stride + offset < size``. The range is empty, never reversed, where no window does.
    """
    first = max(0, -(offset // stride))
    last = min(out, (size - 1 - offset) // stride + 1)
    return first, max(first, last)


def _first_multiple(step: int, modulus: int, low: int, high: int) -> int | None:
    """Return the least p >= 0 with ``low <= p * step % modulus <= high``, or None.

    For ``0 < low <= high < modulus``. Where no multiple of the step lies between them before the
    modulus is passed, how often it has to be passed is the same question, of smaller numbers.
    """
    if step == 0:
        return None
    p = -(-low // step)
    if p * step <= high:
        return p
    passed = _first_multiple(-modulus % step, step, low % step, high % step)
    return None if passed is None else -(-(low + passed * modulus) // step)


def _first_blind(out: int, size: int, pad: int, kernel: int, stride: int, dilation: int) -> int:
    """Return the first window along an axis that sees no pixel; `out` if all windows see one.

    Window p begins at ``p * stride - pad``. Of those that begin before the image the first is the
    farthest away; what they see is the pixel of their first tap that is not before it.
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
    return min(found, -(-(size + pad) // stride), out)  # or the first that begins after it


def _shown(value: object) -> str:
    """Return how messages show a value; Python does not write integers of thousands of digits."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    try:
        return repr(value)
    except ValueError:
        return f"a {type(value).__name__} of such integers"


def _integer(name: str, value: object, least: int) -> int:
    if isinstance(value, bool | np.bool_):
        raise TypeError(f"{name}: expected an integer, got {value!r}")
    try:
        number = operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(
            f"{name}: expected an integer, got {_shown(value)} of type {type(value).__name__}"
        ) from None
    if number < least:
        raise ValueError(f"{name}: expected at least {least}, got {_shown(number)}")
    if number > MOST:
        raise ValueError(f"{name}: expected at most {MOST}, got {_shown(number)}")
    return number


def _pair(name: str, value: object, least: int) -> Pair:
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        if len(value) != 2:
            raise ValueError(
                f"{name}: expected an integer or a pair (height, width), got {_shown(value)}"
            )
        return _integer(name, value[0], least), _integer(name, value[1], least)
    number = _integer(name, value, least)
    return number, number


def _padding(value: object, kernel: Pair, stride: Pair, dilation: Pair) -> Padding:
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
                f"padding: expected ((top, bottom), (left, right)), got {_shown(value)}"
            )
        return _pair("padding", value[0], 0), _pair("padding", value[1], 0)
    high, wide = _pair("padding", value, 0)
    return (high, high), (wide, wide)


def dtype_name(dtype: object) -> str:
    """Return 'float32' or 'float64'.

    Raises
    ------
    TypeError
        If `dtype` is anything else: the kernels compute in these two only.
    """
    try:
        if dtype is None:  # which NumPy takes for float64
            raise TypeError
        found = np.dtype(dtype)  # type: ignore[call-overload]
    except (TypeError, ValueError, SyntaxError):  # of words that NumPy takes for structures
        raise TypeError(f"dtype: expected float32 or float64, got {_shown(dtype)}") from None
    name = _NAMES.get(found) or str(found.name)  # which NumPy takes its time to find
    if name not in DTYPES:
        raise TypeError(f"dtype: expected float32 or float64, got {name}")
    return name


class SlidingWindow:
    """What convolution and pooling share: a window that slides over padded images.

    Attributes
    ----------
    batch, height, width : int
        N, H and W, in images and pixels; the batch may be 0.
    kernel_size, stride, dilation : (int, int)
        Of rows and columns.
    padding : ((top, bottom), (left, right))
        In pixels, trimmed to the pixels that a window reaches: a bottom row of padding that the
        stride steps over is no part of the problem, and two problems that compute the same are
        equal.
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
        sizes = _integer("height", height, 1), _integer("width", width, 1)
        kernel = _pair("kernel_size", kernel_size, 1)
        strides = _pair("stride", stride, 1)
        dilations = _pair("dilation", dilation, 1)
        pads = _padding(padding, kernel, strides, dilations)
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
            ("batch", _integer("batch", batch, 0)),
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
        """Return what tells the problem, without its hash: other processes have another."""
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
        """The stride, no longer than the padded image: beyond it there is one window anyway.

        Other than a stride, it can be multiplied with any other length of the problem.
        """
        high, wide = (
            min(self.stride[axis], size + sum(self.padding[axis]))
            for axis, size in enumerate((self.height, self.width))
        )
        return high, wide

    @property
    def symmetric_padding(self) -> Pair | None:
        """(rows, columns) of padding, the same on both sides, that mean this problem; or None.

        The padding of a problem is trimmed to what a window reaches, so that many a problem given
        symmetrically is stored otherwise; libraries that know symmetric padding only take it here.
        """
        high, wide = self.padding[0][0], self.padding[1][0]
        same = self._out_sizes(((high, high), (wide, wide))) == self._out_sizes(self.padding)
        return (high, wide) if same else None

    def first_blind(self, axis: int) -> int:
        """Return the first window along an axis, 0 or 1, that sees no pixel: beyond all if none."""
        size, out = ((self.height, self.out_height), (self.width, self.out_width))[axis]
        before, kernel = self.padding[axis][0], self.kernel_size[axis]
        return _first_blind(out, size, before, kernel, self.stride[axis], self.dilation[axis])

    @property
    def taps_on_pixels(self) -> int:
        """How often a tap of a window lies on a pixel, not on padding, in one channel's plane."""
        product = 1
        for axis, (size, out) in enumerate(
            ((self.height, self.out_height), (self.width, self.out_width))
        ):
            # Windows and taps are alike in this; the fewer are counted one by one.
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
        """Return the parts of the descriptor around the channels: sizes and window of each axis."""
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
        N, images; 0 is fine.
    in_channels, out_channels : int
        C and K, each a multiple of `groups`.
    height, width : int
        H and W, in pixels.
    kernel_size, stride, dilation : int or (int, int)
        Rows and columns; an integer means both.
    padding : int, (int, int), ((top, bottom), (left, right)), 'same' or 'valid'
        In pixels of zeros.
    groups : int
        The channels are split into this many groups that do not meet.
    bias : bool
        Whether a bias per output channel is added.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel does not fit, or groups do not divide channels.
    TypeError
        If a size is no integer or the dtype is another.
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
        groups = _integer("groups", groups, 1)
        for name, value in (("in_channels", in_channels), ("out_channels", out_channels)):
            channels = _integer(name, value, 1)
            if channels % groups:
                raise ValueError(f"{name}: expected a multiple of groups={groups}, got {channels}")
            object.__setattr__(self, name, channels)
        if not isinstance(bias, bool | np.bool_):
            raise TypeError(f"bias: expected True or False, got {_shown(bias)}")
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
        """Multiply-adds of one direction; taps on the padding are not counted."""
        pairs = self.batch * self.out_channels * (self.in_channels // self.groups)
        return pairs * self.taps_on_pixels

    def flops(self, direction: Direction) -> int:
        """Floating-point operations of a direction: two a multiply-add, none on padding.

        `backward` is backward_data and backward_weights. The bias is not counted.
        """
        return 2 * self.multiply_adds * (2 if direction == BACKWARD else 1)

    def bytes_moved(self, direction: Direction) -> int:
        """Bytes that a direction has to read or write at the least, each array once."""
        x, w, b, y = (_elements(shape) for shape in self.shapes)
        moved = {
            FORWARD: x + w + b + y,
            BACKWARD_DATA: y + w + x,
            BACKWARD_WEIGHTS: y + x + w + b,
            BACKWARD: y + 2 * x + 2 * w + b,
        }[direction]
        return moved * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """Return the canonical descriptor, which `cnnkernels.descriptor.parse` reads back."""
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
        In pixels of minus infinity. More than half the kernel is allowed, as in ONNX.
    ceil_mode : bool
        Whether a last window that begins on a pixel or on the padding before it, but reaches
        beyond the padding after it, counts too. The problem stores it as padding.
    dtype : dtype
        float32 or float64.

    Raises
    ------
    ValueError
        If a size is out of range, the kernel does not fit, or a window would see no pixel.
    TypeError
        If a size is no integer or the dtype is another.
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
            raise TypeError(f"ceil_mode: expected True or False, got {_shown(ceil_mode)}")
        if ceil_mode:
            padding = _ceil_padding(height, width, kernel_size, stride, padding, dilation)
        self._set_geometry(batch, height, width, kernel_size, stride, padding, dilation, dtype)
        object.__setattr__(self, "channels", _integer("channels", channels, 1))
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
        """How many pixels the windows look at; padding is not counted."""
        return self.batch * self.channels * self.taps_on_pixels

    def flops(self, direction: Direction) -> int:
        """Return 0: pooling compares and copies, and is measured in bytes."""
        del direction
        return 0

    def bytes_moved(self, direction: Direction) -> int:
        """Bytes of x and y, each moved once; what a kernel remembers of its winners is its own."""
        del direction
        return sum(_elements(shape) for shape in self.shapes) * np.dtype(self.dtype).itemsize

    def __str__(self) -> str:
        """Return the canonical descriptor, which `cnnkernels.descriptor.parse` reads back."""
        image, window = self._window_descriptor()
        return f"mb{self.batch}ic{self.channels}{image}{window}{self._dtype_descriptor()}"


Problem: TypeAlias = Conv2D | MaxPool2D


def directions(problem: Problem) -> tuple[Direction, ...]:
    """Return the directions that a problem is checked and timed in."""
    if isinstance(problem, Conv2D):
        return FORWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, BACKWARD
    return FORWARD, BACKWARD


def _require_possible(shapes: Conv2DShapes | MaxPool2DShapes, dtype: str) -> None:
    """Refuse arrays that no machine has, of one image where the batch is of none."""
    for name, shape in zip(shapes._fields, shapes, strict=True):
        elements = math.prod(shape) or math.prod(shape[1:])
        if elements * _NATIVE[dtype].itemsize > MOST:
            raise ValueError(
                f"{name}: expected an array of at most {MOST} bytes, got shape {shape} of {dtype}"
            )


def _elements(shape: tuple[int, ...]) -> int:
    product = 1 if shape else 0
    for size in shape:
        product *= size
    return product


def _ceil_padding(
    height: int,
    width: int,
    kernel_size: object,
    stride: object,
    padding: object,
    dilation: object,
) -> Padding:
    """Return the padding that makes floor division find the windows of ceil mode."""
    kernel = _pair("kernel_size", kernel_size, 1)
    strides = _pair("stride", stride, 1)
    dilations = _pair("dilation", dilation, 1)
    pads = _padding(padding, kernel, strides, dilations)
    ceiled = []
    for size, (before, after), k, s, d in zip(
        (_integer("height", height, 1), _integer("width", width, 1)),
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


# --------------------------------------------------------------------------------------------
# arrays

LINE = 64
"""Bytes of a cache line. Vectors that lie across two of them take up to twice as long to store."""


def address_of(array: np.ndarray) -> int:
    """Return where an array's elements begin, several times faster than NumPy's own attributes.

    The pointer is what follows an object's header in ``PyArrayObject``; NumPy's C interface is
    inlined into whatever is compiled against it, so that its place is a part of NumPy's ABI.
    """
    return POINTER_AT(id(array) + HEADER).value or 0


POINTER_AT, HEADER = ctypes.c_void_p.from_address, object.__basicsize__
"""What `address_of` is made of."""


def _empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    kind = _NATIVE[dtype] if dtype in _NATIVE else np.dtype(dtype)
    count, size = math.prod(shape), kind.itemsize
    memory = np.empty(count + LINE // size, kind)
    first = -address_of(memory) % LINE // size  # whole elements: memory is aligned to these
    return memory[first : first + count].reshape(shape)


_NATIVE = {name: np.dtype(name) for name in DTYPES}
_NAMES = {dtype: name for name, dtype in _NATIVE.items()}


_allocate: ContextVar[Callable[..., np.ndarray]] = ContextVar("allocate", default=_empty)


def empty(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Return a new C-contiguous NumPy array of arbitrary contents, which begins with a cache line.

    The kernels of this package allocate what they return here and nowhere else, so that
    conformance can hand out poisoned memory between fences and see who misuses it.
    """
    return _allocate.get()(shape, dtype)


@contextlib.contextmanager
def allocating(allocate: Callable[..., np.ndarray]) -> Iterator[None]:
    """Let `empty` call `allocate(shape, dtype)` inside the with block."""
    token = _allocate.set(allocate)
    try:
        yield
    finally:
        _allocate.reset(token)


def require(name: str, array: object, shape: tuple[int, ...], dtype: str) -> None:
    """Refuse an array that does not fit its problem, before compiled code sees a pointer.

    Raises
    ------
    TypeError
        If it is no NumPy array, or of another dtype.
    ValueError
        If it has another shape, or is not C-contiguous, aligned and in native byte order.
    """
    if not isinstance(array, np.ndarray):
        raise TypeError(f"{name}: expected a NumPy array, got {type(array).__name__}")
    kind, flags = array.dtype, array.flags
    native = kind is _NATIVE.get(dtype) or kind == dtype
    if not native and kind.name != dtype:
        raise TypeError(f"{name}: expected dtype {dtype}, got {kind.name}")
    if array.shape != shape:
        raise ValueError(f"{name}: expected shape {shape}, got {array.shape}")
    if not (native and flags.c_contiguous and flags.aligned):
        raise ValueError(
            f"{name}: expected a C-contiguous, aligned array in native byte order; "
            "numpy.ascontiguousarray(array) makes one"
        )


# --------------------------------------------------------------------------------------------
# protocols


class Conv2DKernel(Protocol):
    """The functions of a convolution module (PEP 544: a module fits)."""

    def unsupported(self, problem: Conv2D) -> str | None:
        """Return why this kernel cannot do the problem, or None if it can: an allow-list."""
        ...

    def cache_spec(self, problem: Conv2D) -> tuple[ArraySpec, ...]:
        """Return shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: Conv2D, x: Array, w: Array, b: Array | None) -> tuple[Array, Cache]:
        """Cross-correlate images with filters, and add the bias.

        ``y[n,k,p,q] = b[k] + sum over c,r,s of w[k,c,r,s] * x[n, c, p*stride + r*dilation - top,
        q*stride + s*dilation - left]``, where pixels outside the image are zero.

        Parameters
        ----------
        problem : Conv2D
            Shapes and geometry; must not be refused by `unsupported`.
        x : array, (N, C, H, W)
            Images. Not written to.
        w : array, (K, C/groups, R, S)
            Filters. Not written to.
        b : array, (K,), or None
            One bias per filter; None exactly where `problem.bias` is False.

        Returns
        -------
        y : array, (N, K, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            What `backward` needs beside its arguments, as `cache_spec` says; never the inputs.
        """
        ...

    def backward(
        self,
        problem: Conv2D,
        dy: Array,
        x: Array,
        w: Array,
        cache: Cache,
        needs: Needs = ALL,
    ) -> Conv2DGradients:
        """Return the gradients of ``sum(y * dy)`` with respect to x, w and b.

        Parameters
        ----------
        problem : Conv2D
            As given to `forward`.
        dy : array, (N, K, P, Q)
            Gradient of y. Not written to.
        x, w : array
            As given to `forward`.
        cache : tuple of arrays
            As returned by `forward`.
        needs : Needs
            The gradients wanted; the others are None, and so is db without a bias.

        Returns
        -------
        Conv2DGradients
            Freshly allocated, of `problem.dtype`.
        """
        ...


class MaxPool2DKernel(Protocol):
    """The functions of a pooling module (PEP 544: a module fits)."""

    def unsupported(self, problem: MaxPool2D) -> str | None:
        """Return why this kernel cannot do the problem, or None if it can: an allow-list."""
        ...

    def cache_spec(self, problem: MaxPool2D) -> tuple[ArraySpec, ...]:
        """Return shape and dtype of each array in the cache."""
        ...

    def forward(self, problem: MaxPool2D, x: Array) -> tuple[Array, Cache]:
        """Take the maximum of each window, and remember where it was.

        The first maximum in row-major order of the window wins; a NaN wins over any number, and
        the last NaN over other NaNs. Pixels outside the image never win.

        Parameters
        ----------
        problem : MaxPool2D
            Shapes and geometry; must not be refused by `unsupported`.
        x : array, (N, C, H, W)
            Images. Not written to.

        Returns
        -------
        y : array, (N, C, P, Q)
            Freshly allocated, of `problem.dtype`, in the backend's layout.
        cache : tuple of arrays
            The winners, in a form of the kernel's own.
        """
        ...

    def backward(self, problem: MaxPool2D, dy: Array, cache: Cache) -> Array:
        """Give each window's gradient to its winner; windows that overlap add up.

        Parameters
        ----------
        problem : MaxPool2D
            As given to `forward`.
        dy : array, (N, C, P, Q)
            Gradient of y. Not written to.
        cache : tuple of arrays
            As returned by `forward`.

        Returns
        -------
        dx : array, (N, C, H, W)
            Freshly allocated, of `problem.dtype`.
        """
        ...


class Arrays(Protocol):
    """How data reaches the place and the layout a backend computes on, and comes back."""

    layout: str
    """'NCHW', or another order of the axes in memory; 4-D arrays are indexed NCHW all the same."""

    device: str
    """'cpu', or what else it computes on."""

    def put(self, array: np.ndarray) -> Array:
        """Return the backend's own array of the same contents; it may share memory."""
        ...

    def get(self, array: Array) -> np.ndarray:
        """Return a C-contiguous NumPy array of the same contents; it may share memory."""
        ...

    def synchronize(self) -> None:
        """Wait until everything asked of the device is done."""
        ...


@dataclass(frozen=True)
class Backend:
    """A convolution kernel, a pooling kernel, and the arrays both compute on.

    Attributes
    ----------
    name : str
        As registered.
    description : str
        One line for tables.
    convolution, pooling : module
        The kernels.
    arrays : Arrays
        What the kernels take and give.
    deterministic : bool
        Whether it promises the same bits on every run, at any number of threads. Conformance
        holds it to that; of other backends it is only reported.
    """

    name: str
    description: str
    convolution: Conv2DKernel
    pooling: MaxPool2DKernel
    arrays: Arrays
    deterministic: bool = False

    def unsupported(self, problem: Problem) -> str | None:
        """Return why this backend cannot do the problem, or None if it can."""
        if isinstance(problem, Conv2D):
            return self.convolution.unsupported(problem)
        return self.pooling.unsupported(problem)
