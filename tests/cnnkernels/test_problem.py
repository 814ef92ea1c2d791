"""Problems: validation, window geometry, shapes, and counts of work."""

import dataclasses
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnkernels.contract import Conv2D, MaxPool2D, directions
from cnnkernels.geometry import out_size, tap_range

a_while = settings(deadline=None, max_examples=60)

CONVOLUTION = {
    "batch": 2,
    "in_channels": 4,
    "height": 8,
    "width": 9,
    "out_channels": 6,
    "kernel_size": 3,
}
POOLING = {"batch": 2, "channels": 4, "height": 8, "width": 9, "kernel_size": 3}


def convolution(**changes):
    return Conv2D(**CONVOLUTION | changes)


def pooling(**changes):
    return MaxPool2D(**POOLING | changes)


# --------------------------------------------------------------------------------------------
# accepted arguments


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (2, ((2, 2), (2, 2))),
        ((2, 1), ((2, 2), (1, 1))),
        ([2, 1], ((2, 2), (1, 1))),
        (((2, 1), (0, 2)), ((2, 1), (0, 2))),
        (np.int64(1), ((1, 1), (1, 1))),
        ("valid", ((0, 0), (0, 0))),
        ("same", ((1, 2), (1, 1))),
    ],
)
def test_padding_is_stored_by_side(given, stored):
    assert convolution(kernel_size=(4, 3), padding=given).padding == stored


def test_same_keeps_the_size_of_images_and_puts_the_larger_half_behind():
    problem = convolution(kernel_size=(4, 2), dilation=(1, 3), padding="same")
    assert problem.padding == ((1, 2), (1, 2))
    assert problem.shapes.y[2:] == problem.shapes.x[2:]


def test_an_integer_means_both_axes():
    assert convolution(kernel_size=3, stride=2, dilation=2) == convolution(
        kernel_size=(3, 3), stride=(2, 2), dilation=(2, 2)
    )


def test_stride_of_a_pooling_is_its_kernel_unless_given():
    assert pooling(kernel_size=(2, 3)).stride == (2, 3)
    assert pooling(kernel_size=(2, 3), stride=1).stride == (1, 1)


@pytest.mark.parametrize("make", [convolution, pooling])
@pytest.mark.parametrize(
    ("given", "stored"),
    [("f4", "float32"), (np.float64, "float64"), (np.dtype(">f8"), "float64"), (float, "float64")],
)
def test_dtype_is_stored_by_name(make, given, stored):
    assert make(dtype=given).dtype == stored


@pytest.mark.parametrize("make", [convolution, pooling])
def test_a_batch_of_none_is_fine(make):
    problem = make(batch=0)
    assert problem.shapes.x[0] == problem.shapes.y[0] == 0
    assert problem.flops("forward") == 0


@pytest.mark.parametrize("make", [convolution, pooling])
def test_problems_cannot_be_changed_but_be_replaced(make):
    problem = make()
    with pytest.raises(dataclasses.FrozenInstanceError):
        problem.height = 7
    taller = dataclasses.replace(problem, height=20)
    assert taller == make(height=20)
    assert problem == make()
    with pytest.raises(ValueError, match="height: expected at least 1"):
        dataclasses.replace(problem, height=0)


# --------------------------------------------------------------------------------------------
# geometry


def windows(size, pad, kernel, stride, dilation):
    """List the positions of each window's taps along an axis, by explicit loops."""
    found, first = [], -pad[0]
    while first + dilation * (kernel - 1) < size + pad[1]:
        found.append([first + tap * dilation for tap in range(kernel)])
        first += stride
    return found


def axes():
    """Axes with at least one window: size, padding, kernel, stride and dilation."""
    pad = st.tuples(st.integers(0, 5), st.integers(0, 5))
    sizes = (st.integers(1, most) for most in (12, 4, 4, 3))
    size, kernel, stride, dilation = sizes
    return st.tuples(size, pad, kernel, stride, dilation).filter(lambda axis: windows(*axis))


def geometry(high, wide):
    """Return the two axes as arguments of a problem."""
    names = ("padding", "kernel_size", "stride", "dilation")
    (height, width), *pairs = zip(high, wide, strict=True)
    return {"height": height, "width": width} | dict(zip(names, pairs, strict=True))


@given(high=axes(), wide=axes())
@a_while
def test_out_sizes_count_the_windows_that_fit(high, wide):
    expected = len(windows(*high)), len(windows(*wide))
    assert (out_size(*high), out_size(*wide)) == expected
    problem = convolution(**geometry(high, wide))
    assert (problem.out_height, problem.out_width) == problem.shapes.y[2:] == expected


@given(axis=axes(), tap=st.integers(0, 3))
@a_while
def test_tap_range_holds_the_windows_whose_tap_lies_on_a_pixel(axis, tap):
    size, pad, _, stride, dilation = axis
    out = len(windows(*axis))
    offset = tap * dilation - pad[0]
    first, last = tap_range(out, size, stride, offset)
    assert first <= last
    assert list(range(first, last)) == [p for p in range(out) if 0 <= p * stride + offset < size]


@given(high=axes(), wide=axes())
@a_while
def test_padding_is_trimmed_to_what_windows_reach_and_no_further(high, wide):
    problem = convolution(**geometry(high, wide))
    for axis, stored in zip((high, wide), problem.padding, strict=True):
        size, (before, after), *_ = axis
        last_tap = windows(*axis)[-1][-1]
        assert stored == (before, max(0, last_tap - size + 1))
        assert stored[1] <= after


@pytest.mark.parametrize("make", [convolution, pooling])
def test_a_problem_that_is_pickled_leaves_its_hash_behind(make):
    problem = make()
    hash(problem)
    problem.__dict__["_hash"] += 1  # as the hash of a text is another in another process
    copied = pickle.loads(pickle.dumps(problem))
    assert copied == problem
    assert hash(copied) == hash(make())


@given(high=axes(), wide=axes())
@a_while
def test_problems_that_differ_in_padding_that_no_window_reaches_are_equal(high, wide):
    problem = convolution(**geometry(high, wide))
    trimmed = convolution(**geometry(high, wide) | {"padding": problem.padding})
    assert trimmed == problem
    assert hash(trimmed) == hash(problem)
    assert str(trimmed) == str(problem)


@given(high=axes(), wide=axes())
@a_while
def test_symmetric_padding_is_given_where_it_means_the_same_problem(high, wide):
    given_sides = geometry(high, wide)
    problem = convolution(**given_sides)
    before = high[1][0], wide[1][0]
    means_it = our_answers(convolution, **given_sides | {"padding": before}) == problem.shapes.y[2:]
    assert problem.symmetric_padding == (before if means_it else None)
    if means_it:
        assert convolution(**given_sides | {"padding": before}) == problem


def torch_answers(function, *arguments, **keywords):
    """Return the output sizes in PyTorch, or None if it rejects the problem."""
    try:
        return tuple(function(*arguments, **keywords).shape[2:])
    except RuntimeError:
        return None


def our_answers(make, **keywords):
    try:
        return make(**keywords).shapes.y[2:]
    except ValueError:
        return None


def random_geometries():
    """Yield sizes and windows; some kernels do not fit."""
    random = np.random.default_rng(1)
    for _ in range(400):
        kernel, stride, dilation = (
            tuple(map(int, random.integers(1, most, 2))) for most in (5, 5, 3)
        )
        padding = tuple(int(random.integers(0, k // 2 + 1)) for k in kernel)
        window = {"kernel_size": kernel, "stride": stride, "padding": padding, "dilation": dilation}
        yield *map(int, random.integers(1, 12, 2)), window


def test_out_sizes_of_convolutions_are_those_of_torch():
    torch = pytest.importorskip("torch")
    for height, width, window in random_geometries():
        images = torch.empty(0, 1, height, width)
        filters = torch.empty(1, 1, *window["kernel_size"])
        geometry = {word: window[word] for word in ("stride", "padding", "dilation")}
        expected = torch_answers(torch.nn.functional.conv2d, images, filters, **geometry)
        assert our_answers(convolution, height=height, width=width, **window) == expected


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_out_sizes_of_poolings_are_those_of_torch(ceil_mode):
    torch = pytest.importorskip("torch")
    for height, width, window in random_geometries():
        window["ceil_mode"] = ceil_mode
        # Without images PyTorch reads no memory where a window sees no pixel.
        images = torch.empty(0, 1, height, width)
        expected = torch_answers(torch.nn.functional.max_pool2d, images, **window)
        if expected is None:
            with pytest.raises(ValueError, match="does not fit"):
                pooling(height=height, width=width, **window)
        elif window["dilation"] == (1, 1):
            assert pooling(height=height, width=width, **window).shapes.y[2:] == expected
        else:  # a window may reach over the image and see no pixel, which PyTorch lets pass
            ours = our_answers(pooling, height=height, width=width, **window)
            assert ours in (expected, None)


def sparse_axes():
    """Axes with taps so far apart that windows may step over the image."""
    pad = st.tuples(st.integers(0, 30), st.integers(0, 30))
    sizes = (st.integers(1, most) for most in (9, 9, 9, 15))
    size, kernel, stride, dilation = sizes
    return st.tuples(size, pad, kernel, stride, dilation).filter(lambda axis: windows(*axis))


@given(axis=sparse_axes())
@settings(deadline=None, max_examples=400)
def test_the_first_window_that_sees_no_pixel_is_named(axis):
    size = axis[0]
    found = windows(*axis)
    blind = [p for p, taps in enumerate(found) if not any(0 <= place < size for place in taps)]
    if blind:
        with pytest.raises(
            ValueError, match=f"^padding: window row {blind[0]} of {len(found)} lie"
        ):
            pooling(**geometry(axis, (3, (0, 0), 1, 1, 1)))
    else:
        assert pooling(**geometry(axis, (3, (0, 0), 1, 1, 1))).out_height == len(found)


@given(high=axes(), wide=axes())
@a_while
def test_a_pooling_is_refused_exactly_where_a_window_sees_no_pixel(high, wide):
    sees = all(
        any(0 <= place < axis[0] for place in taps)
        for axis in (high, wide)
        for taps in windows(*axis)
    )
    if sees:
        expected = len(windows(*high)), len(windows(*wide))
        assert pooling(**geometry(high, wide)).shapes.y[2:] == expected
    else:
        with pytest.raises(ValueError, match="would see no pixel"):
            pooling(**geometry(high, wide))


def extremes():
    """Common integers; one in seven is adjacent to a power of two."""
    near = st.builds(lambda power, more: 2**power + more, st.integers(0, 66), st.integers(-1, 1))
    return st.one_of(*[st.integers(1, 5)] * 6, near)


@given(
    sizes=st.tuples(extremes(), extremes()),
    batch=extremes(),
    channels=extremes(),
    kernel_size=st.tuples(extremes(), extremes()),
    stride=st.tuples(extremes(), extremes()),
    padding=st.tuples(st.tuples(extremes(), extremes()), st.tuples(extremes(), extremes())),
    dilation=st.tuples(extremes(), extremes()),
    make=st.sampled_from([convolution, pooling]),
)
@settings(deadline=None, max_examples=400)
def test_what_is_accepted_can_be_computed_in_64_bits(sizes, channels, make, **geometry):
    names = ("in_channels", "out_channels") if make is convolution else ("channels",)
    geometry |= dict.fromkeys(names, channels) | dict(zip(("height", "width"), sizes, strict=True))
    try:
        problem = make(**geometry)
    except ValueError:
        return
    sides = []
    for axis, (size, out) in enumerate(zip(sizes, problem.shapes.y[2:], strict=True)):
        stride, step, dilation, kernel, pad = (
            getattr(problem, name)[axis]
            for name in ("stride", "steps", "dilation", "kernel_size", "padding")
        )
        assert out == out_size(size, geometry["padding"][axis], kernel, stride, dilation)
        assert out == out_size(size, pad, kernel, step, dilation)
        last = (out - 1) * stride + (kernel - 1) * dilation - pad[0]
        with np.errstate(over="raise"):
            numbers = map(np.int64, (out - 1, stride, kernel - 1, dilation, pad[0]))
            p, by, tap, between, before = numbers
            assert p * by + tap * between - before == last
        sides.append(max(size + sum(pad), step))
    assert math.prod(sides) <= 2**48
    for shape in problem.shapes:
        assert math.prod(shape) * 4 <= 2**48


# --------------------------------------------------------------------------------------------
# shapes, work and traffic


def test_shapes_name_each_array():
    shapes = convolution(groups=2, padding=1, stride=2).shapes
    assert shapes == ((2, 4, 8, 9), (6, 2, 3, 3), (6,), (2, 6, 4, 5))
    assert shapes._fields == ("x", "w", "b", "y")
    assert convolution(bias=False).shapes.b == ()
    shapes = pooling(padding=1, stride=2).shapes
    assert shapes == ((2, 4, 8, 9), (2, 4, 4, 5))
    assert shapes._fields == ("x", "y")


@given(high=axes(), wide=axes())
@a_while
def test_flops_are_two_for_each_tap_on_a_pixel(high, wide):
    problem = Conv2D(batch=2, in_channels=6, out_channels=4, groups=2, **geometry(high, wide))
    rows, columns = (
        sum(0 <= place < axis[0] for taps in windows(*axis) for place in taps)
        for axis in (high, wide)
    )
    multiply_adds = 2 * 4 * 3 * rows * columns  # images, filters, channels of a filter
    assert problem.multiply_adds == multiply_adds
    for direction in ("forward", "backward_data", "backward_weights"):
        assert problem.flops(direction) == 2 * multiply_adds
    assert problem.flops("backward") == 4 * multiply_adds


def test_a_pooling_compares_each_tap_on_a_pixel_and_has_no_flops():
    problem = MaxPool2D(2, 3, 4, 4, 3, stride=2, padding=1)
    # windows at -1 and 1 of each axis see 2 and 3 rows
    assert problem.comparisons == 2 * 3 * (2 + 3) ** 2
    assert problem.flops("forward") == problem.flops("backward") == 0


@pytest.mark.parametrize(("dtype", "size"), [("float32", 4), ("float64", 8)])
def test_bytes_moved_count_each_array_once(dtype, size):
    problem = Conv2D(2, 3, 5, 5, 4, 3, dtype=dtype)
    x, w, b, y = 2 * 3 * 5 * 5, 4 * 3 * 3 * 3, 4, 2 * 4 * 3 * 3
    without = dataclasses.replace(problem, bias=False)
    for direction, elements, biases in (
        ("forward", x + w + y, b),
        ("backward_data", y + w + x, 0),
        ("backward_weights", y + x + w, b),
        ("backward", y + x + w + x + w, b),
    ):
        assert problem.bytes_moved(direction) == size * (elements + biases)
        assert without.bytes_moved(direction) == size * elements
    pool = MaxPool2D(2, 3, 6, 6, 2, dtype=dtype)
    for direction in ("forward", "backward"):
        assert pool.bytes_moved(direction) == size * (2 * 3 * 6 * 6 + 2 * 3 * 3 * 3)


def test_a_convolution_has_two_more_directions_than_a_pooling():
    assert directions(convolution()) == (
        "forward",
        "backward_data",
        "backward_weights",
        "backward",
    )
    assert directions(pooling()) == ("forward", "backward")
