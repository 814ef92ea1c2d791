"""Deliberately broken backends, which the checks must catch; each breaks one rule.

Each is the `numpy` backend with one function replaced. Most of the faults have occurred in real
kernels. Several pass every test on small random arrays with a loose tolerance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np

from cnnkernels import arrays, backends, contract
from cnnkernels.conformance import broken_winograd
from cnnkernels.contract import Backend, Cache, Conv2D, Conv2DGradients, MaxPool2D, Needs
from cnnkernels.convolution import im2col
from cnnkernels.fallback import WithFallback
from cnnkernels.geometry import Padding
from cnnkernels.pooling import windows
from cnnkernels.problem import SlidingWindow

_Forward = tuple[np.ndarray, Cache]


def _convolution(name: str, what: str, **replaced: Callable[..., Any]) -> Backend:
    return _patched(name, what, convolution=_module(im2col, replaced))


def _pooling(name: str, what: str, **replaced: Callable[..., Any]) -> Backend:
    return _patched(name, what, pooling=_module(windows, replaced))


def _winograd(name: str, kernel: broken_winograd.NumpyWinograd) -> Backend:
    fault = str(type(kernel).__doc__).splitlines()[0].rstrip(".")
    described = fault[0].lower() + fault[1:]
    return _patched(f"winograd-{name}", described, convolution=WithFallback(kernel, im2col))


def _patched(name: str, what: str, **kernels: Any) -> Backend:
    return dataclasses.replace(backends.numpy(), name=f"broken-{name}", description=what, **kernels)


def _module(module: Any, replaced: Mapping[str, Callable[..., Any]]) -> SimpleNamespace:
    functions = ("unsupported", "cache_spec", "forward", "backward")
    return SimpleNamespace(**{f: replaced.get(f, getattr(module, f)) for f in functions})


def _swapped(problem: SlidingWindow) -> Padding:
    (top, bottom), (left, right) = problem.padding
    return (bottom, top), (right, left)


# --------------------------------------------------------------------------------------------
# convolution, forward


def _flipped(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    return im2col.forward(problem, x, np.ascontiguousarray(w[:, :, ::-1, ::-1]), b)


def _last_tap_dropped(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    w = w.copy()
    w[:, :, -1, -1] = 0
    return im2col.forward(problem, x, w, b)


def _edge_padded(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    around = ((0, 0), (0, 0), *problem.padding)
    wide = dataclasses.replace(
        problem,
        height=problem.height + sum(problem.padding[0]),
        width=problem.width + sum(problem.padding[1]),
        padding=((0, 0), (0, 0)),
    )
    y, _ = im2col.forward(wide, np.pad(x, around, mode="edge"), w, b)
    return y, im2col.forward(problem, x, w, b)[1]


def _padding_swapped(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    swapped = dataclasses.replace(problem, padding=_swapped(problem))
    if swapped.shapes.y != problem.shapes.y:
        swapped = problem
    return im2col.forward(swapped, x, w, b)[0], im2col.forward(problem, x, w, b)[1]


def _dilation_ignored(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    dense = dataclasses.replace(problem, dilation=(1, 1))
    near = im2col.forward(dense, x, w, b)[0]
    y[...] = near[:, :, : y.shape[2], : y.shape[3]]
    return y, cache


def _groups_mixed(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    return im2col.forward(problem, np.roll(x, problem.in_channels // problem.groups, 1), w, b)


def _bias_forgotten(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    del b
    return im2col.forward(problem, x, w, None)


def _stride_transposed(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    if problem.stride[0] != problem.stride[1]:
        y[...] = np.resize(y.swapaxes(2, 3), y.shape)
    return y, cache


def _zeros(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    y[...] = 0
    return y, cache


def _not_zeroed(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    total = arrays.empty(problem.shapes.y, problem.dtype)
    total += y
    return total, cache


def _beyond_the_end(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    if y.base is not None and y.size:  # like a 4-wide vector store of the tail
        memory = y.base
        start = (y.__array_interface__["data"][0] - memory.__array_interface__["data"][0]) // (
            y.itemsize
        )
        memory[start + y.size : start + y.size + (-y.shape[3]) % 4] = 0
    return y, cache


def _input_overwritten(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    result = im2col.forward(problem, x, w, b)
    np.maximum(x, 0, out=x)
    return result


class _Remembered:
    """Returns a copy of the last result if called with the same arrays."""

    def __init__(self) -> None:
        self._last: tuple[Any, ...] = ()
        self._result: Any = None

    def __call__(self, problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
        if not (self._last and self._last[0] is x and self._last[1] is w):
            self._last, self._result = (x, w), im2col.forward(problem, x, w, b)
        y, cache = self._result
        return y.copy(), cache


class _OneBuffer:
    """Returns the same memory on every call of a problem."""

    def __init__(self) -> None:
        self._buffers: dict[str, np.ndarray] = {}

    def __call__(self, problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
        y, cache = im2col.forward(problem, x, w, b)
        buffer = self._buffers.setdefault(str(problem), np.empty_like(y))
        buffer[...] = y
        return buffer, cache


def _half_precision(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    """Round the inputs to 11 significant bits, like TF32; small integers don't reveal it."""
    with np.errstate(over="ignore"):
        short_x, short_w = (a.astype(np.float16).astype(problem.dtype) for a in (x, w))
    return im2col.forward(problem, short_x, short_w, b)[0], im2col.forward(problem, x, w, b)[1]


def _wider(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    return y.astype(np.float64 if problem.dtype == "float32" else np.float32), cache


def _transposed_view(problem: Conv2D, x: Any, w: Any, b: Any) -> _Forward:
    y, cache = im2col.forward(problem, x, w, b)
    return y.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2), cache


class _Racing:
    """Sums images in another order on every second call, like racing threads.

    Neither integers nor tolerances reveal it, because each sum is equally accurate.
    """

    def __init__(self) -> None:
        self._calls = 0

    def __call__(
        self, problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
    ) -> Conv2DGradients:
        self._calls += 1
        gradients = im2col.backward(problem, dy, x, w, cache, needs)
        if gradients.dw is not None and self._calls % 2:
            turned = im2col.backward(
                problem,
                np.ascontiguousarray(dy[::-1]),
                x,
                w,
                (np.ascontiguousarray(cache[0][::-1]),),
                Needs(False, True, False),
            )
            gradients = gradients._replace(dw=turned.dw)
        return gradients


# --------------------------------------------------------------------------------------------
# convolution, backward


def _gradients(alter: Callable[[Conv2D, Any, Conv2DGradients], None]) -> Callable[..., Any]:
    """Return a backward that corrupts correct gradients in place by `alter`."""

    def backward(
        problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
    ) -> Conv2DGradients:
        gradients = im2col.backward(problem, dy, x, w, cache, needs)
        alter(problem, dy, gradients)
        return gradients

    return backward


def _dx_not_added_up(
    problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
) -> Conv2DGradients:
    gradients = im2col.backward(problem, dy, x, w, cache, needs)
    if gradients.dx is not None:
        center = np.zeros_like(w)
        center[:, :, -1, -1] = w[:, :, -1, -1]
        last = im2col.backward(problem, dy, x, center, cache, Needs(True, False, False)).dx
        assert last is not None
        gradients.dx[...] = np.where(last != 0, last, gradients.dx)
    return gradients


def _dw_of_first_image(problem: Conv2D, dy: Any, gradients: Conv2DGradients) -> None:
    del dy
    if gradients.dw is not None and problem.batch:
        gradients.dw[...] /= problem.batch


def _db_averaged(problem: Conv2D, dy: Any, gradients: Conv2DGradients) -> None:
    del problem
    if gradients.db is not None:
        gradients.db[...] = dy.mean(axis=(0, 2, 3)) if dy.size else 0


def _dx_rim_missing(problem: Conv2D, dy: Any, gradients: Conv2DGradients) -> None:
    del problem, dy
    if gradients.dx is not None and gradients.dx.shape[3] % 4:
        gradients.dx[..., -1] = 0


def _all_gradients_always(
    problem: Conv2D, dy: Any, x: Any, w: Any, cache: Cache, needs: Needs = contract.ALL
) -> Conv2DGradients:
    del needs
    return im2col.backward(problem, dy, x, w, cache, contract.ALL)


# --------------------------------------------------------------------------------------------
# pooling


def _zero_padded(problem: MaxPool2D, x: Any) -> _Forward:
    y, cache = windows.forward(problem, x)
    if problem.padding != ((0, 0), (0, 0)):
        np.maximum(y, 0, out=y)
    return y, cache


def _last_maximum(problem: MaxPool2D, x: Any) -> _Forward:
    y, (winners,) = windows.forward(problem, x)
    mirrored = dataclasses.replace(problem, padding=_swapped(problem))
    flipped = np.ascontiguousarray(x[:, :, ::-1, ::-1])
    if mirrored.shapes == problem.shapes:
        _, (last,) = windows.forward(mirrored, flipped)
        taps = problem.kernel_size[0] * problem.kernel_size[1]
        size = (problem.height, problem.width)
        reached = [
            size[a] + sum(problem.padding[a])
            == (problem.shapes.y[a + 2] - 1) * problem.stride[a]
            + (problem.kernel_size[a] - 1) * problem.dilation[a]
            + 1
            for a in (0, 1)
        ]
        if all(reached):
            winners[...] = taps - 1 - last[:, :, ::-1, ::-1]
    return y, (winners,)


def _ties_shared(problem: MaxPool2D, dy: Any, cache: Cache) -> np.ndarray:
    """Give half of each gradient to the winner's right neighbor, as if they had tied."""
    dx = windows.backward(problem, dy, cache)
    dx[..., 1:] += dx[..., :-1] / 2
    return dx


def _overlaps_overwritten(problem: MaxPool2D, dy: Any, cache: Cache) -> np.ndarray:
    dx = windows.backward(problem, dy, cache)
    if any(k > s for k, s in zip(problem.kernel_size, problem.stride, strict=True)):
        np.clip(dx, dy.min(initial=0), dy.max(initial=0), out=dx)
    return dx


def _nan_ignored(problem: MaxPool2D, x: Any) -> _Forward:
    y, cache = windows.forward(problem, np.where(np.isnan(x), x.dtype.type(-np.inf), x))
    return y, cache


def _averaged(problem: MaxPool2D, x: Any) -> _Forward:
    y, cache = windows.forward(problem, x)
    least = -windows.forward(problem, -x)[0]
    y[...] = (y + least) / 2
    return y, cache


def _cache_is_input(problem: MaxPool2D, x: Any) -> _Forward:
    y, (winners,) = windows.forward(problem, x)
    return y, (winners, x)


def _cache_backward(problem: MaxPool2D, dy: Any, cache: Cache) -> np.ndarray:
    return windows.backward(problem, dy, cache[:1])


def _catalogue() -> dict[str, Backend]:
    c, p, w = _convolution, _pooling, _winograd
    backends_ = (
        c("flipped", "flips the filters: a true convolution", forward=_flipped),
        c("last-tap", "drops the last tap of each filter", forward=_last_tap_dropped),
        c("edge-padding", "repeats the rim instead of zeros", forward=_edge_padded),
        c("padding-swapped", "pads before what belongs after", forward=_padding_swapped),
        c("dilation-ignored", "ignores dilation", forward=_dilation_ignored),
        c("groups-mixed", "takes the next group's channels", forward=_groups_mixed),
        c("no-bias", "forgets the bias", forward=_bias_forgotten),
        c("stride-transposed", "swaps the strides of rows and columns", forward=_stride_transposed),
        c("zeros", "returns zeros", forward=_zeros),
        c("not-zeroed", "adds onto memory it did not clear", forward=_not_zeroed),
        c("beyond-the-end", "writes whole vectors beyond the end", forward=_beyond_the_end),
        c("input-overwritten", "applies ReLU to its input", forward=_input_overwritten),
        c("one-buffer", "returns the same memory again", forward=_OneBuffer()),
        c("remembered", "gives its last result for the same arrays", forward=_Remembered()),
        c("half-precision", "rounds its inputs to 11 bits", forward=_half_precision),
        c("wider", "returns another dtype", forward=_wider),
        c("strided", "returns a strided view", forward=_transposed_view),
        c("racing", "sums in another order now and then", backward=_Racing()),
        c("dx-not-added", "overwrites dx where windows overlap", backward=_dx_not_added_up),
        c("dw-averaged", "averages dw over images", backward=_gradients(_dw_of_first_image)),
        c("db-averaged", "averages db", backward=_gradients(_db_averaged)),
        c("dx-rim", "leaves out the last column of dx", backward=_gradients(_dx_rim_missing)),
        c("needs-ignored", "computes unrequested gradients", backward=_all_gradients_always),
        w("entry", broken_winograd.WrongEntry()),
        w("entry-back", broken_winograd.WrongEntryOfWeights()),
        w("phases", broken_winograd.ExchangedPhases()),
        w("edge", broken_winograd.LostEdge()),
        w("block-twice", broken_winograd.BlockTwice()),
        w("neighbors", broken_winograd.NeighborsMixed()),
        w("bfloat16", broken_winograd.HalfTheDigits()),
        p("zero-padding", "pads with zeros, not minus infinity", forward=_zero_padded),
        p("last-maximum", "remembers the last maximum", forward=_last_maximum),
        p("ties-shared", "shares gradients with a neighbour", backward=_ties_shared),
        p("overlaps-lost", "overwrites where windows overlap", backward=_overlaps_overwritten),
        p("nan-ignored", "skips NaNs", forward=_nan_ignored),
        p("averaged", "averages greatest and least", forward=_averaged),
        p("cache-input", "keeps its input", forward=_cache_is_input, backward=_cache_backward),
    )
    # Declared deterministic, because races of other backends are only reported.
    return {b.name: dataclasses.replace(b, deterministic=True) for b in backends_}


BROKEN: dict[str, Backend] = _catalogue()
"""The broken backends by name; each description states the fault."""
