"""The measured layers by name, as keyword arguments of a problem. Names are permanent."""

from __future__ import annotations

import ctypes
from typing import Any

DIGITS: dict[str, dict[str, Any]] = {
    "digits.conv1": {
        "batch": 64, "in_channels": 1, "height": 8, "width": 8, "out_channels": 8,
        "kernel_size": 3, "padding": 1,
    },
    "digits.pool1": {
        "batch": 64, "channels": 8, "height": 8, "width": 8, "kernel_size": 2, "stride": 2,
    },
    "digits.conv2": {
        "batch": 64, "in_channels": 8, "height": 4, "width": 4, "out_channels": 16,
        "kernel_size": 3, "padding": 1,
    },
    "digits.pool2": {
        "batch": 64, "channels": 16, "height": 4, "width": 4, "kernel_size": 2, "stride": 2,
    },
}  # fmt: skip
"""The digits CNN, small enough for loops in Python."""


def _convolution(
    batch: int, channels: int, size: int, filters: int, kernel: int, **more: int
) -> dict[str, Any]:
    return {
        "batch": batch, "in_channels": channels, "height": size, "width": size,
        "out_channels": filters, "kernel_size": kernel, **more,
    }  # fmt: skip


REAL: dict[str, dict[str, Any]] = {
    "resnet.7x7-stride2-224": _convolution(1, 3, 224, 64, 7, stride=2, padding=3),
    "resnet.1x1-56": _convolution(2, 64, 56, 256, 1),
    "resnet.1x1-stride2-56": _convolution(2, 256, 56, 512, 1, stride=2),
    "resnet.3x3-56": _convolution(2, 64, 56, 64, 3, padding=1),
    "resnet.3x3-28": _convolution(2, 128, 28, 128, 3, padding=1),
    "resnet.3x3-14": _convolution(2, 256, 14, 256, 3, padding=1),
    "resnet.3x3-7": _convolution(2, 512, 7, 512, 3, padding=1),
    "resnet.1x1-7": _convolution(4, 2048, 7, 512, 1),
    "alexnet.5x5-groups2-27": _convolution(2, 96, 27, 256, 5, padding=2, groups=2),
    "mobilenet.depthwise-28": _convolution(8, 256, 28, 256, 3, padding=1, groups=256),
    "resnet.pool-112": {
        "batch": 2, "channels": 64, "height": 112, "width": 112, "kernel_size": 3, "stride": 2,
        "padding": 1,
    },
    "vgg.pool-56": {
        "batch": 2, "channels": 256, "height": 56, "width": 56, "kernel_size": 2, "stride": 2,
    },
}  # fmt: skip
"""Layers of ResNet-50, AlexNet, MobileNet v1 and VGG-16, in smaller batches than in `cnnbench`."""

CASES = {**DIGITS, **REAL}

BASELINE = "torch-cpu"
OURS = ("numpy", "numba", "numba-simd")
BACKENDS = ("naive", *OURS, BASELINE, "torch-cpu-nhwc", "torch-cuda")

TOO_SLOW = [(case, "naive") for case in REAL]
"""Python's loops would take minutes."""


def problem(case: str) -> Any:
    """Return a case's problem from the installed `cnnkernels`."""
    from cnnkernels import contract

    sizes = CASES[case]
    return (contract.Conv2D if "out_channels" in sizes else contract.MaxPool2D)(**sizes)


def load(name: str, what: Any = None) -> Any:
    """Return a backend of the installed `cnnkernels`.

    Raises
    ------
    NotImplementedError
        With the reason, if this commit has no such backend, or if the backend cannot run here or
        cannot run this problem. asv skips on it; other errors are failures.
    """
    if name == "torch-cuda":  # avoids importing PyTorch, which takes seconds
        try:
            ctypes.CDLL("libcuda.so.1")
        except OSError as error:
            raise NotImplementedError(f"no CUDA driver here ({error})") from None
    absent = f"there is no backend {name} at this commit"
    try:
        import cnnkernels.registry as registry  # `from` would not name what is absent
    except ModuleNotFoundError as error:
        if error.name != "cnnkernels.registry":
            raise
        raise NotImplementedError(absent) from None
    try:
        backend = registry.load(name)
    except registry.UnknownBackendError:
        raise NotImplementedError(absent) from None
    reason = None if what is None else backend.unsupported(what)
    if reason:
        raise NotImplementedError(reason)
    return backend
