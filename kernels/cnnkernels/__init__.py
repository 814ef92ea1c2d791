"""Conv2D and MaxPool2D kernels that share one forward/backward contract."""

from cnnkernels.contract import Backend, Conv2D, Conv2DGradients, MaxPool2D, Needs, Unsupported
from cnnkernels.functional import (
    conv2d,
    conv2d_backward,
    max_pool2d,
    max_pool2d_backward,
)

__all__ = [
    "Backend",
    "Conv2D",
    "Conv2DGradients",
    "MaxPool2D",
    "Needs",
    "Unsupported",
    "conv2d",
    "conv2d_backward",
    "max_pool2d",
    "max_pool2d_backward",
]
