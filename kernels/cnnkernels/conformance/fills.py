"""Input values for checks with their expected results, cached in a folder.

*Integers* are so small that every partial sum is exact in float32. In any order of summation, with
or without FMA, in any number of threads, a direct kernel must return the reference's exact bits.
*Real* numbers are normally distributed and measure a kernel's accuracy. *Non-finite* fills contain
NaNs and infinities.

Algorithms that declare an `Accuracy` get weights, or dy, in multiples of a number that makes every
number in between an integer, and zeros where these would be too large for the type.
"""

from __future__ import annotations

import functools
import hashlib
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np

from cnnkernels.accuracy import Accuracy, rounding
from cnnkernels.conformance import reference
from cnnkernels.contract import Conv2D, MaxPool2D, Problem
from cnnkernels.geometry import tap_range

_SEED = 20

TRUSTED_SHARE = 0.3
"""Minimum share of non-zeros among results that depend on inputs; fewer prove too little."""

EXACT_INTEGERS = 2**24
"""Float32 represents every integer up to this one exactly."""

_EXACT = {"float32": EXACT_INTEGERS, "float64": 2**53}
"""The largest integer up to which a type represents every one exactly."""


STORED = "fill-*.npz"
"""The files of `filled` in a cache folder."""


class TooLargeError(ValueError):
    """A sum has too many products to be exact in float32."""


@dataclass(frozen=True)
class Filled:
    """Inputs of a problem, their expected results, and bounds of the rounding error.

    Arrays that the problem lacks are `ABSENT`, and so are results that a fill does not check.
    Bounds have the shapes of the results; they are `ABSENT` if results must match exactly.
    """

    x: np.ndarray
    w: np.ndarray
    b: np.ndarray
    dy: np.ndarray
    y: np.ndarray
    dx: np.ndarray
    dw: np.ndarray
    db: np.ndarray
    y_bound: np.ndarray
    dx_bound: np.ndarray
    dw_bound: np.ndarray
    db_bound: np.ndarray


ABSENT = np.empty(0)
"""Placeholder for an absent array; 1-D, so never mistaken for images."""


def filled(
    problem: Problem, fill: str, folder: Path | None = None, accuracy: Accuracy | None = None
) -> Filled:
    """Return the problem filled with 'integers', 'ties', 'nonfinite' or 'real'.

    Parameters
    ----------
    problem : Conv2D or MaxPool2D
        'ties' is for max-pools: few values, so that most windows have several maxima.
    fill : str
        As above; 'integers dw' is for the gradients of weights of a declared accuracy.
    folder : path, optional
        Cache folder: a fill stored there is read, a new one is stored.
    accuracy : Accuracy, optional
        That of an algorithm which does not add up direct products: bounds are its own.

    Raises
    ------
    TooLargeError
        If the problem's sums are too long to be exact.
    """
    if folder is None:
        return _fill(problem, fill, accuracy, None)
    path = folder / key("fill", problem, fill, accuracy)
    if path.exists():
        with np.load(path) as stored:
            return Filled(**{field.name: stored[field.name] for field in fields(Filled)})
    made = _fill(problem, fill, accuracy, folder)
    store(path, {field.name: getattr(made, field.name) for field in fields(Filled)})
    return made


def real_inputs(problem: Problem) -> Filled:
    """Return the inputs of 'real' alone: expected results take longer than most calls."""
    random = np.random.default_rng(_SEED)
    if isinstance(problem, MaxPool2D):
        x, dy = (
            random.standard_normal(s).astype(problem.dtype)
            for s in (problem.shapes.x, problem.shapes.y)
        )
        return _filled(x, ABSENT, ABSENT, dy)
    x, w, b, dy = (random.standard_normal(shape).astype(problem.dtype) for shape in problem.shapes)
    return _filled(x, w, b if problem.bias else ABSENT, dy)


def store(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Write arrays to a file that other processes may be waiting for."""
    partial = path.with_suffix(f".{os.getpid()}.npz")
    np.savez(partial, allow_pickle=False, **arrays)
    partial.replace(path)


def key(kind: str, problem: Problem, fill: str, accuracy: Accuracy | None) -> str:
    """Return a file name in a cache folder: the kind, and a digest of the rest."""
    algorithm = "" if accuracy is None else accuracy.name
    digest = hashlib.sha256(f"{problem} {fill} {algorithm}".encode()).hexdigest()[:16]
    return f"{kind}-{digest}.npz"


def fills_of(problem: Problem, accuracy: Accuracy | None = None) -> tuple[str, ...]:
    """Return the fills whose results must match exactly.

    An algorithm that is exact on no inputs is only checked to follow the contract's other rules.
    """
    if isinstance(problem, MaxPool2D):
        return "integers", "ties", "nonfinite"
    if accuracy is None:
        return "integers", "nonfinite"
    return ("integers",) if accuracy.integral is None else ("integers", "integers dw", "nonfinite")


def absent(array: np.ndarray) -> bool:
    """Return whether an array is `ABSENT`, also after it was stored."""
    return array.shape == ABSENT.shape


def products_summed(problem: Conv2D) -> tuple[int, int, int]:
    """Return the maximum number of terms in an element of y, dx and dw, bias included."""
    taps = problem.kernel_size[0] * problem.kernel_size[1]
    return (
        problem.in_channels // problem.groups * taps + problem.bias,
        problem.out_channels // problem.groups * taps,
        max(1, problem.batch * problem.out_height * problem.out_width),
    )


def reached_elements(problem: Problem) -> dict[str, int]:
    """Return, for each result, the number of elements that depend on any input.

    The others are correctly zero: a stride may skip pixels, which then get no gradient, and a tap
    may never leave the padding. In a max-pool at least one pixel wins; which ones depends on the
    data.
    """
    if not problem.batch:
        return {}
    if isinstance(problem, MaxPool2D):
        return {"y": math.prod(problem.shapes.y), "dx": 1}
    pixels, taps, windows_on_pixels = 1, 1, 1
    for axis, (size, out) in enumerate(
        ((problem.height, problem.out_height), (problem.width, problem.out_width))
    ):
        stride, dilation = problem.stride[axis], problem.dilation[axis]
        seen: set[int] = set()
        seeing: set[int] = set()
        meeting = 0
        for tap in range(problem.kernel_size[axis]):
            offset = tap * dilation - problem.padding[axis][0]
            windows = range(*tap_range(out, size, stride, offset))
            seen.update(window * stride + offset for window in windows)
            seeing.update(windows)
            meeting += bool(windows)
        pixels *= len(seen)
        taps *= meeting
        windows_on_pixels *= len(seeing)
    dw = math.prod(problem.shapes.w[:2]) * taps
    dx = problem.batch * problem.in_channels * pixels
    if problem.bias:
        return {"y": math.prod(problem.shapes.y), "dx": dx, "dw": dw, "db": problem.out_channels}
    return {"y": problem.batch * problem.out_channels * windows_on_pixels, "dx": dx, "dw": dw}


def errors_over_bounds(got: np.ndarray, expected: np.ndarray, bounds: np.ndarray) -> np.ndarray:
    """Return each element's error in units of its bound; infinity for NaN."""
    error = np.abs(got - expected)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = np.where(error == 0, 0.0, error / bounds)
    return np.where(np.isnan(ratios), np.inf, ratios)


def untrusted(problem: Problem, right: Filled) -> str | None:
    """Return why these results prove too little, or None: too many are zero."""
    for name, reached in reached_elements(problem).items():
        expected = getattr(right, name)
        nonzero = np.count_nonzero(expected)
        if expected.size and nonzero < TRUSTED_SHARE * reached:
            return f"{nonzero} non-zeros among {expected.size} of {name}"
    return None


def _fill(problem: Problem, fill: str, accuracy: Accuracy | None, folder: Path | None) -> Filled:
    """Fill a problem; draw again, a few times, if too many results cancel to zero."""
    if isinstance(problem, Conv2D) and accuracy is not None and fill == "real":
        direct = filled(problem, fill, folder)
        given = direct.x, direct.w, direct.b, direct.dy
        y, dx, dw = (accuracy.bound(result, *given) for result in ("y", "dx", "dw"))
        return replace(direct, y_bound=y, dx_bound=dx, dw_bound=dw)
    for seed in range(_SEED, _SEED + (1 if fill == "real" else 16)):
        random = np.random.default_rng(seed)
        if isinstance(problem, Conv2D) and accuracy is not None:
            made = _fill_declared(problem, fill, random, accuracy)
        elif isinstance(problem, Conv2D):
            made = _fill_convolution(problem, fill, random)
        else:
            made = _fill_pooling(problem, fill, random)
        if untrusted(problem, made) is None:
            break
    return made


def _fill_convolution(problem: Conv2D, fill: str, random: np.random.Generator) -> Filled:
    shapes, dtype = problem.shapes, problem.dtype
    if fill == "real":
        drawn = real_inputs(problem)
        x, w, b, dy = drawn.x, drawn.w, drawn.b, drawn.dy
    else:
        longest = max(products_summed(problem))
        limit = min(4, math.isqrt(EXACT_INTEGERS // longest))
        if limit < 1:
            raise TooLargeError(
                f"a sum of {longest} products cannot be checked exactly: "
                f"float32 holds integers up to {EXACT_INTEGERS} only"
            )
        x, w, b, dy = (_integers(random, shape, limit).astype(dtype) for shape in shapes)
    if not problem.bias:
        b = ABSENT
    if fill == "nonfinite":
        return _nonfinite_convolution(problem, random, x, w, b, dy)
    right = reference.convolution(problem, x, w, b, dy)
    if not problem.bias:
        right = right._replace(db=ABSENT)
    if fill == "integers":
        return _filled(x, w, b, dy, *(result.astype(dtype) for result in right))
    size = reference.convolution(problem, np.abs(x), np.abs(w), np.abs(b), np.abs(dy))
    in_y, in_dx, in_dw = (rounding(dtype, n) for n in products_summed(problem))
    db_bound = size.db * in_dw if problem.bias else ABSENT
    bounds = (size.y * in_y, size.dx * in_dx, size.dw * in_dw, db_bound)
    return _filled(x, w, b, dy, *right, *bounds)


def _fill_declared(
    problem: Conv2D, fill: str, random: np.random.Generator, accuracy: Accuracy
) -> Filled:
    """Fill a convolution with integers for an algorithm that declares its accuracy."""
    x, w, b, dy = (_integers(random, shape, 1) for shape in problem.shapes)
    b = b if problem.bias else ABSENT
    of_weights = fill == "integers dw"
    if accuracy.integral is not None:
        thinned = functools.partial(_thinned, random, problem.dtype)
        if of_weights:
            dy *= accuracy.integral
            dy = thinned(dy, lambda kept: accuracy.magnitude("dw", x, w, b, kept))
        else:
            w *= accuracy.integral
            x = thinned(x, lambda kept: accuracy.magnitude("y", kept, w, b, dy), planes=True)
            dy = thinned(dy, lambda kept: accuracy.magnitude("dx", x, w, b, kept), planes=True)
    x, w, b, dy = (array.astype(problem.dtype) for array in (x, w, b, dy))
    if fill == "nonfinite":
        return _nonfinite_convolution(problem, random, x, w, b, dy)
    right = reference.convolution(problem, x, w, b, dy)
    if not problem.bias:
        right = right._replace(db=ABSENT)
    if accuracy.integral is None:
        right = right._replace(y=ABSENT, dx=ABSENT, dw=ABSENT)
    elif of_weights:
        right = right._replace(y=ABSENT, dx=ABSENT)
    else:
        right = right._replace(dw=ABSENT, db=ABSENT)
    return _filled(x, w, b, dy, *(result.astype(problem.dtype) for result in right))


def _thinned(
    random: np.random.Generator,
    dtype: str,
    array: np.ndarray,
    magnitude: Callable[[np.ndarray], np.ndarray],
    planes: bool = False,
) -> np.ndarray:
    """Set elements, or whole channels of images, to zero until the type holds all numbers exactly.

    Raises
    ------
    TooLargeError
        If even a single element's are too large.
    """
    chance = random.random(array.shape[:2] + ((1, 1) if planes else array.shape[2:]))
    share, kept = 1.0, array
    while array.size:
        largest = magnitude(kept).max(initial=0)
        if largest <= _EXACT[dtype]:
            break
        share *= 0.9 * min(1.0, _EXACT[dtype] / largest)  # each evaluation takes long
        if share * chance.size < 1:
            raise TooLargeError(f"one product exceeds what {dtype} holds exactly")
        kept = array * (chance <= np.quantile(chance, share))
    return kept


def _nonfinite_convolution(
    problem: Conv2D,
    random: np.random.Generator,
    x: np.ndarray,
    w: np.ndarray,
    b: np.ndarray,
    dy: np.ndarray,
) -> Filled:
    """Put a NaN and an infinity into some images; forward must propagate exactly these.

    Backward is not checked: the contract does not define the product of padding and a non-finite
    weight or gradient.
    """
    for image in x[::2]:
        for value in (np.nan, np.inf):
            image[*(random.integers(size) for size in image.shape)] = value
    with np.errstate(invalid="ignore"):
        right = reference.convolution(problem, x, w, b, dy)
    return _filled(x, w, b, dy, right.y.astype(problem.dtype))


def _fill_pooling(problem: MaxPool2D, fill: str, random: np.random.Generator) -> Filled:
    shapes, dtype = problem.shapes, problem.dtype
    if fill == "real":
        return _real_pooling(problem)
    x = np.empty(shapes.x)
    if fill == "integers":  # distinct within an image's plane, as far as float32 goes
        values = np.arange(problem.height * problem.width) % EXACT_INTEGERS - 7
        x.reshape(-1, values.size)[...] = values
        random.permuted(x.reshape(-1, values.size), axis=1, out=x.reshape(-1, values.size))
    elif fill == "ties":
        x[...] = random.integers(-3, 0, shapes.x)
    else:
        x[...] = random.integers(-3, 4, shapes.x)
        for value, share in ((np.nan, 0.15), (-np.inf, 0.3), (np.inf, 0.1)):
            x[random.random(shapes.x) < share] = value
        x[:, ::2] = np.where(np.isnan(x[:, ::2]), 0, x[:, ::2])
        x[:, ::3] = -np.inf
    x = x.astype(dtype)
    dy = _integers(random, shapes.y, 4).astype(dtype)
    right = reference.pooling(problem, x, dy)
    return _filled(x, ABSENT, ABSENT, dy, right.y.astype(dtype), right.dx.astype(dtype))


def _real_pooling(problem: MaxPool2D) -> Filled:
    drawn = real_inputs(problem)
    right = reference.pooling(problem, drawn.x, drawn.dy)
    size = reference.pooling(problem, drawn.x, np.abs(drawn.dy))
    taps = problem.kernel_size[0] * problem.kernel_size[1]
    return replace(
        drawn,
        y=right.y,
        dx=right.dx,
        y_bound=np.zeros(problem.shapes.y),
        dx_bound=size.dx * rounding(problem.dtype, taps),
    )


def _integers(random: np.random.Generator, shape: tuple[int, ...], limit: int) -> np.ndarray:
    """Return integers from 1 to `limit` with random signs; a zero would hide its factor."""
    signs = random.choice((-1, 1), shape)
    return np.asarray(random.integers(1, limit + 1, shape) * signs)


def _filled(*arrays: np.ndarray) -> Filled:
    return Filled(*arrays, *[ABSENT] * (len(fields(Filled)) - len(arrays)))
