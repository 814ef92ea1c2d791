"""The public functions: every backend, every memory layout, and invalid arguments."""

import dataclasses
import itertools
from types import SimpleNamespace

import numpy as np
import pytest

import cnnkernels
from cnnkernels import Needs, Unsupported, registry

CONVOLUTIONS = [
    {},
    {"stride": (2, 1), "padding": (2, 1)},
    {"padding": "same"},
    {"padding": ((0, 2), (1, 0)), "dilation": (1, 2)},
    {"groups": 2, "padding": 1, "stride": 2},
]
POOLINGS = [
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 1)},
    {"kernel_size": 3, "stride": 2, "ceil_mode": True},
    {"kernel_size": 2, "stride": 1, "dilation": (2, 3)},
]


def integers(seed, *shapes, dtype="float32"):
    """Return arrays of small integers; their sums of products are exact in any order."""
    random = np.random.default_rng(seed)
    return [random.integers(-4, 5, shape).astype(dtype) for shape in shapes]


def convolved(backend, geometry, dtype="float32", batch=2):
    """Return a convolution's inputs (dy, x, w, b), its output and gradients on a backend."""
    group_channels = 4 // geometry.get("groups", 1)
    x, w, b = integers(1, (batch, 4, 5, 6), (2, group_channels, 3, 2), (2,), dtype=dtype)
    y = cnnkernels.conv2d(x, w, b, **geometry, backend=backend)
    (dy,) = integers(2, y.shape, dtype=dtype)
    gradients = cnnkernels.conv2d_backward(dy, x, w, **geometry, backend=backend)
    return (dy, x, w, b), (y, *gradients)


def pooled(backend, geometry, dtype="float32", batch=2):
    """Return a pooling's inputs (dy, x), its output and gradient on a backend."""
    (x,) = integers(3, (batch, 4, 6, 7), dtype=dtype)
    y = cnnkernels.max_pool2d(x, **geometry, backend=backend)
    (dy,) = integers(4, y.shape, dtype=dtype)
    return (dy, x), (y, cnnkernels.max_pool2d_backward(dy, x, **geometry, backend=backend))


def assert_same(results, expected):
    for got, right in zip(results, expected, strict=True):
        np.testing.assert_array_equal(got, right, strict=True)


# --------------------------------------------------------------------------------------------
# results


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("compute", "geometry"),
    [(convolved, geometry) for geometry in CONVOLUTIONS]
    + [(pooled, geometry) for geometry in POOLINGS],
)
def test_a_backend_answers_as_the_definition_does(backend, compute, geometry, dtype):
    _, results = compute(backend, geometry, dtype)
    _, expected = compute("naive", geometry, dtype)
    assert_same(results, expected)
    for array in results:
        assert array.flags.c_contiguous
        assert array.flags.writeable


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")
@pytest.mark.parametrize("geometry", CONVOLUTIONS)
def test_the_definition_of_convolution_is_that_of_torch(geometry):
    torch = pytest.importorskip("torch")
    (dy, *inputs), results = convolved("naive", geometry)
    x, w, b = (torch.from_numpy(array).requires_grad_() for array in inputs)
    padded, others = x, geometry
    if np.ndim(geometry.get("padding", 0)) == 2:  # what torch has another function for
        (top, bottom), (left, right) = geometry["padding"]
        padded = torch.nn.functional.pad(x, (left, right, top, bottom))
        others = geometry | {"padding": 0}
    y = torch.nn.functional.conv2d(padded, w, b, **others)
    y.backward(torch.from_numpy(dy))
    assert_same(results, (y.detach(), x.grad, w.grad, b.grad))


@pytest.mark.parametrize("geometry", POOLINGS)
def test_the_definition_of_pooling_is_that_of_torch(geometry):
    torch = pytest.importorskip("torch")
    (dy, images), results = pooled("naive", geometry)
    x = torch.from_numpy(images).requires_grad_()
    y = torch.nn.functional.max_pool2d(x, **geometry)
    y.backward(torch.from_numpy(dy))
    assert_same(results, (y.detach(), x.grad))


def test_without_a_bias_nothing_is_added_and_db_is_none(backend):
    (dy, x, w, b), (y, *gradients) = convolved(backend, {})
    bare = cnnkernels.conv2d(x, w, backend=backend)
    np.testing.assert_array_equal(bare, y - b[:, None, None])
    dx, dw, db = cnnkernels.conv2d_backward(dy, x, w, bias=False, backend=backend)
    assert_same((dx, dw), gradients[:2])
    assert db is None


@pytest.mark.parametrize("needs", list(itertools.product((False, True), repeat=3)))
def test_only_the_gradients_that_are_needed_come_back(backend, needs):
    needs = Needs(*needs)
    (dy, x, w, _), (_, *everything) = convolved(backend, {"padding": 1})
    some = cnnkernels.conv2d_backward(dy, x, w, padding=1, needs=needs, backend=backend)
    for wanted, gradient, right in zip(needs, some, everything, strict=True):
        if wanted:
            np.testing.assert_array_equal(gradient, right, strict=True)
        else:
            assert gradient is None


def test_a_batch_of_none_gives_empty_images_and_zero_gradients(backend):
    _, (y, dx, dw, db) = convolved(backend, {"padding": 1}, batch=0)
    assert (y.shape, dx.shape) == ((0, 2, 5, 7), (0, 4, 5, 6))
    assert (dw.shape, db.shape) == ((2, 4, 3, 2), (2,))
    assert not dw.any()
    assert not db.any()
    _, (y, dx) = pooled(backend, {"kernel_size": 2}, batch=0)
    assert (y.shape, dx.shape) == ((0, 4, 3, 3), (0, 4, 6, 7))


# --------------------------------------------------------------------------------------------
# memory


def every_other(array):
    wide = np.repeat(array, 2, axis=-1)
    wide[..., 1::2] = np.nan
    return wide[..., ::2]


def backwards(array):
    return np.flip(np.flip(array).copy())


def channels_last(array):
    return np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0)


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


def misaligned(array):
    memory = bytearray(1) + array.tobytes()
    return np.frombuffer(memory, array.dtype, array.size, offset=1).reshape(array.shape)


def big_endian(array):
    return array.astype(array.dtype.newbyteorder(">"))


def broadcast(array):
    return np.broadcast_to(array[:1], array.shape)


LAYOUTS = [
    every_other,
    backwards,
    np.asfortranarray,
    channels_last,
    read_only,
    misaligned,
    big_endian,
    broadcast,
]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_layout_of_memory_gives_the_answer_of_a_contiguous_one(backend, layout):
    def results(dy, x, w, b, pool_dy):
        pool = {"kernel_size": 2, "stride": 1, "backend": backend}
        return (
            cnnkernels.conv2d(x, w, b, padding=1, backend=backend),
            *cnnkernels.conv2d_backward(dy, x, w, padding=1, backend=backend),
            cnnkernels.max_pool2d(x, **pool),
            cnnkernels.max_pool2d_backward(pool_dy, x, **pool),
        )

    shapes = (2, 5, 4, 5), (2, 3, 4, 5), (5, 3, 3, 3), (5,), (2, 3, 3, 4)
    arrays = [layout(array) for array in integers(5, *shapes)]
    before = [array.tobytes() for array in arrays]
    assert_same(results(*arrays), results(*(np.array(array, "=f4") for array in arrays)))
    assert [array.tobytes() for array in arrays] == before


def test_results_are_the_callers_own(backend):
    (dy, x, w, b), first = convolved(backend, {})
    kept = [array.copy() for array in first]
    _, second = convolved(backend, {})
    for array in second:
        array[...] = 7
    assert_same(first, kept)
    for array, result in itertools.product((dy, x, w, b), first):
        assert not np.may_share_memory(array, result)


# --------------------------------------------------------------------------------------------
# invalid arguments

X, W, B, DY = integers(6, (2, 4, 6, 7), (6, 4, 3, 2), (6,), (2, 6, 4, 6))


def conv2d(x=X, w=W, b=B, backend="numpy", **geometry):
    return cnnkernels.conv2d(x, w, b, **geometry, backend=backend)


def conv2d_backward(dy=DY, x=X, w=W, backend="numpy", **geometry):
    return cnnkernels.conv2d_backward(dy, x, w, **geometry, backend=backend)


def max_pool2d(x=X, kernel_size=2, backend="numpy", **geometry):
    return cnnkernels.max_pool2d(x, kernel_size, **geometry, backend=backend)


def max_pool2d_backward(dy=X[:, :, :3, :3], x=X, kernel_size=2, backend="numpy", **geometry):
    return cnnkernels.max_pool2d_backward(dy, x, kernel_size, **geometry, backend=backend)


FUNCTIONS = [conv2d, conv2d_backward, max_pool2d, max_pool2d_backward]


@pytest.mark.parametrize(
    ("array", "came"),
    [
        (X.tolist(), "got list"),
        (None, "got NoneType"),
        (np.float32(1), "got float32"),
        (np.ma.masked_array(X), "got MaskedArray"),
    ],
)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_is_no_numpy_array_is_a_type_error(function, array, came):
    with pytest.raises(TypeError, match=f"^x: expected a NumPy array, {came}"):
        function(x=array)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_tensor_of_torch_is_a_type_error(function):
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"^x: expected a NumPy array, got Tensor"):
        function(x=torch.from_numpy(X))


@pytest.mark.parametrize("dtype", ["int64", "float16", "complex64", "bool", "object"])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_dtype_of_no_kernel_is_a_type_error(function, dtype):
    with pytest.raises(TypeError, match=f"^x: expected float32 or float64, got {dtype}"):
        function(x=X.astype(dtype))


REFUSED = {
    conv2d: [
        ({"x": X[0]}, ValueError, "x: expected 4 axes (N, C, H, W), got shape (4, 6, 7)"),
        ({"w": B}, ValueError, "w: expected 4 axes (K, C/groups, R, S), got shape (6,)"),
        ({"w": W[:, :3]}, ValueError, "w: expected shape (6, 4, 3, 2), got (6, 3, 3, 2)"),
        ({"w": W.astype("f8")}, TypeError, "w: expected float32, the dtype of x, got float64"),
        ({"w": W.tolist()}, TypeError, "w: expected a NumPy array, got list"),
        ({"b": B[:5]}, ValueError, "b: expected shape (6,), got (5,)"),
        ({"b": B[:, None]}, ValueError, "b: expected shape (6,), got (6, 1)"),
        ({"b": B.astype("f8")}, TypeError, "b: expected float32, the dtype of x, got float64"),
        ({"b": 0.5}, TypeError, "b: expected a NumPy array, got float"),
        ({"groups": 2}, ValueError, "w: expected shape (6, 2, 3, 2), got (6, 4, 3, 2)"),
        ({"groups": 3}, ValueError, "in_channels: expected a multiple of groups=3, got 4"),
        ({"stride": 0}, ValueError, "stride: expected at least 1, got 0"),
        ({"x": X[:, :0]}, ValueError, "in_channels: expected at least 1, got 0"),
        ({"x": X[:, :, :2]}, ValueError, "does not fit the padded image, 2 pixels high"),
        ({"w": W[:0]}, ValueError, "out_channels: expected at least 1, got 0"),
        ({"w": W[..., :0]}, ValueError, "kernel_size: expected at least 1, got 0"),
    ],
    conv2d_backward: [
        ({"w": W[0]}, ValueError, "w: expected 4 axes (K, C/groups, R, S), got shape (4, 3, 2)"),
        ({"w": W[:, 1:]}, ValueError, "w: expected shape (6, 4, 3, 2), got (6, 3, 3, 2)"),
        ({"dy": X}, ValueError, "dy: expected shape (2, 6, 4, 6), got (2, 4, 6, 7)"),
        ({"dy": DY.astype("f8")}, TypeError, "dy: expected float32, the dtype of x, got float64"),
        ({"dy": None}, TypeError, "dy: expected a NumPy array, got NoneType"),
        ({"bias": 1}, TypeError, "bias: expected True or False, got 1"),
    ],
    max_pool2d: [
        ({"x": X[0]}, ValueError, "x: expected 4 axes (N, C, H, W), got shape (4, 6, 7)"),
        ({"x": X[:, :0]}, ValueError, "channels: expected at least 1, got 0"),
        ({"kernel_size": 7}, ValueError, "does not fit the padded image, 6 pixels high"),
        ({"padding": 2}, ValueError, "window row 0 of 5 lies wholly in the padding (2, 2)"),
    ],
    max_pool2d_backward: [
        ({"dy": X}, ValueError, "dy: expected shape (2, 4, 3, 3), got (2, 4, 6, 7)"),
        ({"dy": X[0]}, ValueError, "dy: expected shape (2, 4, 3, 3), got (4, 6, 7)"),
        ({"dy": X.astype("f8")}, TypeError, "dy: expected float32, the dtype of x, got float64"),
    ],
}


@pytest.mark.parametrize(
    ("function", "case"),
    [(function, case) for function, cases in REFUSED.items() for case in cases],
)
def test_what_does_not_fit_is_refused_with_what_was_expected_and_what_came(function, case):
    arguments, error, message = case
    with pytest.raises(error) as caught:
        function(**arguments)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "number",
    [2**63, -(2**63) - 1, 2**64 + 1, 10**5000],
    ids=["2**63", "-2**63 - 1", "2**64 + 1", "10**5000"],
)
@pytest.mark.parametrize(
    ("function", "names"),
    [
        (conv2d, ("padding", "stride", "dilation", "groups")),
        (conv2d_backward, ("padding", "stride", "dilation", "groups")),
        (max_pool2d, ("stride", "padding", "dilation", "kernel_size")),
        (max_pool2d_backward, ("stride", "padding", "dilation", "kernel_size")),
    ],
)
def test_numbers_that_no_kernel_can_compute_with_are_refused(backend, function, names, number):
    for name in names:
        with pytest.raises(ValueError, match=rf"^{name}: expected at (most|least) \d+, got"):
            function(**{name: number}, backend=backend)
    with pytest.raises(ValueError, match=r"^\w+: expected at (most|least) \d+, got"):
        function(padding=number, stride=number, backend=backend)


@pytest.mark.parametrize("backend", ["naive", "numpy", "numba", "numba-simd"], indirect=True)
def test_the_longest_stride_gives_one_window(backend):
    _, found = convolved(backend, {"stride": 2**48})
    _, expected = convolved("naive", {"stride": 6})
    assert_same(found, expected)
    _, found = pooled(backend, {"kernel_size": 2, "stride": 2**48})
    _, expected = pooled("naive", {"kernel_size": 2, "stride": 7})
    assert_same(found, expected)


def test_needs_may_be_a_plain_tuple():
    gradients = conv2d_backward(needs=(False, False, True))
    assert tuple(gradient is not None for gradient in gradients) == (False, False, True)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_backend_is_a_name_or_a_backend(function):
    right = function(backend="numpy")
    given = function(backend=registry.load("numpy"))
    np.testing.assert_equal(given, right)
    with pytest.raises(ValueError, match=r"unknown backend 'nunpy' \(did you mean 'numpy'\?\)"):
        function(backend="nunpy")
    with pytest.raises(TypeError, match="backend: expected a name or a Backend, got NoneType"):
        function(backend=None)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_what_a_backend_declines_is_unsupported_with_its_reason(function):
    def no_kernel(*_):
        raise AssertionError("the kernel was called")

    declines = SimpleNamespace(
        unsupported=lambda problem: f"only squares, not {problem.height}x{problem.width}",
        cache_spec=no_kernel,
        forward=no_kernel,
        backward=no_kernel,
    )
    choosy = dataclasses.replace(
        registry.load("numpy"), name="choosy", convolution=declines, pooling=declines
    )
    with pytest.raises(Unsupported, match=r"^choosy: only squares, not 6x7$"):
        function(backend=choosy)
