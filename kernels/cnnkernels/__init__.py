"""Conv2D and MaxPool2D kernels that share one forward/backward contract."""

from cnnkernels.contract import Backend, Conv2D, Conv2DGradients, MaxPool2D, Needs, Unsupported

__all__ = ["Backend", "Conv2D", "Conv2DGradients", "MaxPool2D", "Needs", "Unsupported"]
