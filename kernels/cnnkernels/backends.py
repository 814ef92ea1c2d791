"""One factory function per backend: its convolution, its pooling and its arrays.

A factory imports its modules only when called, so that listing backends costs nothing. It raises
`Unsupported` with the reason if the backend cannot run here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from cnnkernels.contract import Array, Backend, Unsupported

if TYPE_CHECKING:
    import torch


class NumpyArrays:
    """NumPy arrays, C-contiguous."""

    layout = "NCHW"
    device = "cpu"

    def put(self, array: np.ndarray) -> np.ndarray:
        """Return the array itself, or a contiguous copy."""
        return np.ascontiguousarray(array)

    def get(self, array: Array) -> np.ndarray:
        """Return the array itself, or a contiguous copy."""
        return np.ascontiguousarray(array)

    def synchronize(self) -> None:
        """Return immediately: NumPy and Numba have finished when they return."""


class TorchArrays:
    """PyTorch tensors on a device; 4-D tensors have the given memory layout.

    Parameters
    ----------
    device : str
        'cpu' or 'cuda'.
    layout : str
        'NCHW', or 'NHWC' for PyTorch's channels_last.
    """

    def __init__(self, device: str, layout: str = "NCHW") -> None:
        import torch

        self.layout, self.device = layout, device
        self._torch = torch

    def put(self, array: np.ndarray) -> torch.Tensor:
        """Return a tensor on the device and in the layout."""
        if not array.flags.writeable:  # PyTorch warns of read-only memory
            array = array.copy()
        tensor = self._torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
        if self.layout == "NCHW" or tensor.ndim != 4:
            return tensor
        # Not .contiguous(): it keeps tensors with ambiguous strides, such as images of one channel,
        # and kernels would then read them as NCHW.
        placed = self._torch.empty_like(tensor, memory_format=self._torch.channels_last)
        return placed.copy_(tensor)

    def get(self, array: Any) -> np.ndarray:
        """Return a C-contiguous NumPy array, on the host."""
        return np.ascontiguousarray(array.detach().cpu().contiguous().numpy())

    def synchronize(self) -> None:
        """Wait for the device's queue; on the CPU return immediately."""
        if self.device == "cuda":
            self._torch.cuda.synchronize()


def naive() -> Backend:
    """Plain Python loops: the definition."""
    from cnnkernels.convolution import naive as convolution
    from cnnkernels.pooling import naive as pooling

    return Backend(
        name="naive",
        description="plain Python loops: the definition",
        convolution=convolution,
        pooling=pooling,
        arrays=NumpyArrays(),
        deterministic=True,
    )


def numpy() -> Backend:
    """im2col and matrix products; pooling by window views."""
    from cnnkernels.convolution import im2col
    from cnnkernels.pooling import windows

    return Backend(
        name="numpy",
        description="NumPy: im2col and a matrix product",
        convolution=im2col,
        pooling=windows,
        arrays=NumpyArrays(),
    )


def numba() -> Backend:
    """Plain loops, compiled, in threads."""
    require_numba()
    from cnnkernels.convolution import numba_direct as convolution
    from cnnkernels.pooling import numba_direct as pooling

    return Backend(
        name="numba",
        description="Numba: plain loops, compiled, in threads",
        convolution=convolution,
        pooling=pooling,
        arrays=NumpyArrays(),
        deterministic=True,
    )


def numba_simd() -> Backend:
    """Explicit vectors, register tiles and panels, in threads."""
    require_numba()
    from cnnkernels.convolution import numba_simd as convolution
    from cnnkernels.pooling import numba_simd as pooling

    return Backend(
        name="numba-simd",
        description="Numba: explicit vectors, an implicit matrix product, in threads",
        convolution=convolution,
        pooling=pooling,
        arrays=NumpyArrays(),
        deterministic=True,
    )


def numba_winograd_f4() -> Backend:
    """Winograd's F(4x4, 3x3) for 3x3 convolutions of stride 1, `numba_simd` for the rest."""
    return _numba_winograd(4)


def numba_winograd_f2() -> Backend:
    """Winograd's F(2x2, 3x3) for 3x3 convolutions of stride 1, `numba_simd` for the rest."""
    return _numba_winograd(2)


def _numba_winograd(outputs: int) -> Backend:
    direct = numba_simd()
    from cnnkernels.convolution.numba_winograd import Winograd
    from cnnkernels.fallback import WithFallback

    return Backend(
        name=f"numba-winograd-f{outputs}",
        description=(
            f"Numba: Winograd's F({outputs}x{outputs}, 3x3), and {direct.name} for other layers"
        ),
        convolution=WithFallback(Winograd(outputs), direct.convolution),
        pooling=direct.pooling,
        arrays=direct.arrays,
        deterministic=True,
        fallback=direct.name,
    )


def torch_cpu() -> Backend:
    """PyTorch on the CPU, contiguous tensors."""
    return _torch("torch-cpu", "PyTorch (oneDNN), contiguous tensors", "cpu", "NCHW")


def torch_cpu_nhwc() -> Backend:
    """PyTorch on the CPU, channels_last tensors inside and out."""
    return _torch("torch-cpu-nhwc", "PyTorch (oneDNN), channels_last tensors", "cpu", "NHWC")


def torch_cuda() -> Backend:
    """PyTorch on a CUDA device, with TF32 off: float32 means float32."""
    torch = _import_torch()
    if torch.version.cuda is None:
        raise Unsupported(f"PyTorch {torch.__version__} is built without CUDA")
    if not torch.cuda.is_available():
        raise Unsupported("PyTorch finds no CUDA device here")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    return _torch("torch-cuda", "PyTorch (cuDNN), TF32 off", "cuda", "NCHW")


def _torch(name: str, description: str, device: str, layout: str) -> Backend:
    _import_torch()
    from cnnkernels.convolution import torch_aten
    from cnnkernels.pooling import torch_aten as pooling

    return Backend(
        name=name,
        description=description,
        convolution=(
            torch_aten.ChannelsLastOnCPU if (device, layout) == ("cpu", "NHWC") else torch_aten
        ),
        pooling=pooling,
        arrays=TorchArrays(device, layout),
    )


_LAYERS = ("default", "safe", "threadsafe", "forksafe", "tbb", "omp", "workqueue")


def require_numba() -> None:
    """Check that Numba can compile, and can run loops in threads.

    Raises
    ------
    Unsupported
        If Numba is not installed, or a setting of it prevents that; the reason names the setting.
    """
    try:
        import numba
    except ImportError as error:
        raise Unsupported(f"Numba is not installed here ({error})") from None
    if numba.config.DISABLE_JIT:
        raise Unsupported("NUMBA_DISABLE_JIT is set, so that nothing is compiled: unset it")
    layer = str(numba.config.THREADING_LAYER).lower()
    if layer not in _LAYERS:
        raise Unsupported(
            f"NUMBA_THREADING_LAYER: expected one of {', '.join(_LAYERS)}, got {layer!r}"
        )
    if layer in ("tbb", "safe"):
        try:
            import numba.np.ufunc.tbbpool
        except ImportError as error:
            raise Unsupported(
                f"NUMBA_THREADING_LAYER is {layer!r}, and TBB cannot be loaded ({error}): "
                "install tbb, or unset it"
            ) from None


def _import_torch() -> Any:
    try:
        import torch
    except ImportError as error:
        raise Unsupported(f"PyTorch is not installed here ({error})") from None
    return torch
