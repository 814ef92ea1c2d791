"""The backends' factories: kernels, reasons not to run here, and conversion of arrays."""

import sys

import numpy as np
import pytest

from cnnkernels import Unsupported, backends, registry

TORCH_RECIPES = [backends.torch_cpu, backends.torch_cpu_nhwc, backends.torch_cuda]


# --------------------------------------------------------------------------------------------
# factories


@pytest.mark.parametrize(
    ("name", "convolution", "pooling", "layout", "deterministic"),
    [
        ("naive", "naive", "naive", "NCHW", True),
        ("numpy", "im2col", "windows", "NCHW", False),
        ("numba", "numba_direct", "numba_direct", "NCHW", True),
        ("numba-simd", "numba_simd", "numba_simd", "NCHW", True),
        ("torch-cpu", "torch_aten", "torch_aten", "NCHW", False),
        ("torch-cpu-nhwc", "torch_aten", "torch_aten", "NHWC", False),
        pytest.param(
            *("torch-cuda", "torch_aten", "torch_aten", "NCHW", False), marks=pytest.mark.cuda
        ),
    ],
)
def test_a_recipe_joins_kernels_and_arrays(name, convolution, pooling, layout, deterministic):
    try:
        backend = registry.load(name)
    except Unsupported as reason:
        pytest.skip(str(reason))
    # A class where a module's functions serve one layout in another way.
    home = getattr(backend.convolution, "__module__", backend.convolution.__name__)
    assert home == f"cnnkernels.convolution.{convolution}"
    assert backend.pooling.__name__ == f"cnnkernels.pooling.{pooling}"
    assert backend.arrays.layout == layout
    assert backend.deterministic is deterministic
    assert backend.description


@pytest.mark.parametrize("recipe", TORCH_RECIPES)
def test_without_torch_its_backends_are_unsupported(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    with pytest.raises(Unsupported, match="PyTorch is not installed here"):
        recipe()


@pytest.mark.parametrize("recipe", [backends.numba, backends.numba_simd])
def test_without_numba_its_backends_are_unsupported(recipe, monkeypatch):
    monkeypatch.setitem(sys.modules, "numba", None)
    with pytest.raises(Unsupported, match="Numba is not installed here"):
        recipe()


@pytest.mark.parametrize("recipe", [backends.numba, backends.numba_simd])
@pytest.mark.parametrize(
    ("setting", "value", "reason"),
    [
        ("DISABLE_JIT", 1, "NUMBA_DISABLE_JIT is set, so that nothing is compiled: unset it"),
        ("THREADING_LAYER", "opm", "NUMBA_THREADING_LAYER: expected one of .*, got 'opm'"),
        ("THREADING_LAYER", "TBB", r"NUMBA_THREADING_LAYER is 'tbb', and .*: install tbb, .*"),
        ("THREADING_LAYER", "safe", r"NUMBA_THREADING_LAYER is 'safe', and .*: install tbb, .*"),
    ],
)
def test_a_setting_of_numbas_that_is_in_the_way_is_named(
    recipe, setting, value, reason, monkeypatch
):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, setting, value)
    monkeypatch.setitem(sys.modules, "numba.np.ufunc.tbbpool", None)
    with pytest.raises(Unsupported, match=f"^{reason}$"):
        recipe()


def test_where_numba_compiles_nothing_its_backends_are_unsupported(python):
    pytest.importorskip("numba")
    printed = python(
        "import cnnkernels, numpy\n"
        "for name in ('numba', 'numba-simd'):\n"
        "    try:\n"
        "        cnnkernels.max_pool2d(numpy.ones((1, 1, 4, 4)), 2, backend=name)\n"
        "    except cnnkernels.Unsupported as reason:\n"
        "        print(reason)\n",
        NUMBA_DISABLE_JIT="1",
    )
    reason = "NUMBA_DISABLE_JIT is set, so that nothing is compiled: unset it"
    assert printed.splitlines() == [reason] * 2


def test_without_torch_and_numba_the_others_work(python):
    printed = python(
        "import sys\n"
        "sys.modules['torch'] = sys.modules['numba'] = None\n"
        "import cnnkernels, numpy\n"
        "from cnnkernels import registry\n"
        "for name in registry.names():\n"
        "    try:\n"
        "        y = cnnkernels.max_pool2d(numpy.ones((1, 1, 4, 4)), 2, backend=name)\n"
        "        print(name, y.sum())\n"
        "    except cnnkernels.Unsupported as reason:\n"
        "        print(name, 'unsupported')\n"
    )
    assert printed.splitlines()[:9] == [
        "naive 4.0",
        "numpy 4.0",
        "numba unsupported",
        "numba-simd unsupported",
        "numba-winograd-f4 unsupported",
        "numba-winograd-f2 unsupported",
        "torch-cpu unsupported",
        "torch-cpu-nhwc unsupported",
        "torch-cuda unsupported",
    ]


def test_without_cuda_its_backend_says_whether_torch_or_the_machine_has_none(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(Unsupported, match=r"PyTorch .* is built without CUDA"):
        backends.torch_cuda()
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(Unsupported, match="PyTorch finds no CUDA device here"):
        backends.torch_cuda()


def test_cuda_computes_with_tf32_off(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    flags = torch.backends.cudnn, torch.backends.cuda.matmul
    kept = [flag.allow_tf32 for flag in flags]
    try:
        for flag in flags:
            flag.allow_tf32 = True
        backends.torch_cuda()
        assert [flag.allow_tf32 for flag in flags] == [False, False]
    finally:
        for flag, value in zip(flags, kept, strict=True):
            flag.allow_tf32 = value


@pytest.mark.cuda
def test_cuda_computes_on_the_device():
    pytest.importorskip("torch")
    try:
        backend = registry.load("torch-cuda")
    except Unsupported as reason:
        pytest.skip(str(reason))
    tensor = backend.arrays.put(np.ones((1, 2, 3, 4), "f4"))
    assert tensor.is_cuda
    backend.arrays.synchronize()


# --------------------------------------------------------------------------------------------
# arrays


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((2, 3, 4, 5), "float32"),
        ((2, 1, 4, 5), "float64"),
        ((2, 3, 1, 1), "float32"),
        ((0, 3, 4, 5), "int64"),
        ((6,), "float64"),
    ],
)
@pytest.mark.parametrize("layout", [np.array, np.asfortranarray, read_only, np.flip])
def test_arrays_come_back_as_they_were_put(backend, shape, dtype, layout):
    values = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    array = layout(values)
    kept = array.copy()
    placed = backend.arrays.put(array)
    backend.arrays.synchronize()
    back = backend.arrays.get(placed)
    np.testing.assert_array_equal(back, kept, strict=True)
    np.testing.assert_array_equal(array, kept, strict=True)
    assert type(back) is np.ndarray
    assert back.flags.c_contiguous
    assert tuple(placed.shape) == shape


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 1, 4, 5), (2, 3, 1, 1), (1, 1, 4, 4)])
def test_tensors_lie_in_memory_as_their_layout_says(shape, layout):
    pytest.importorskip("torch")
    tensor = backends.TorchArrays("cpu", layout).put(np.zeros(shape, "f4"))
    _, channels, height, width = shape
    plane = height * width
    strides = {
        "NCHW": (channels * plane, plane, width, 1),
        "NHWC": (channels * plane, 1, width * channels, channels),
    }
    assert tensor.stride() == strides[layout]


def test_a_read_only_array_is_copied_for_torch_which_would_let_it_be_written_to():
    pytest.importorskip("torch")
    array = read_only(np.zeros((1, 1, 2, 2), "f4"))
    backends.TorchArrays("cpu").put(array).fill_(1)
    assert not array.any()


def test_numpy_arrays_that_fit_are_not_copied():
    arrays = backends.NumpyArrays()
    array = np.zeros((2, 3), "f4")
    assert arrays.put(array) is array
    assert arrays.get(array) is array
    assert arrays.put(array.T).flags.c_contiguous
