"""Layers for PyTorch models that compute with a backend's kernels, or with those of a plan.

``convert(model, "numba-simd")`` or ``convert(model, plan)`` lets a model that exists already
compute its convolutions and max-poolings here; ``revert(model)`` undoes it. Parameters,
`state_dict`, hooks and optimizers stay what they are: a layer changes its class and nothing else.

Below the layers are two operators for each kind, forward and backward, registered by
`torch.library`, so that autograd, `torch.compile` and DistributedDataParallel know them. They take
CPU tensors of any memory layout, and give contiguous ones. The backend is chosen before, once for
forward and backward: an operator takes a backend's name, and knows no plans. What `torch.compile`
has compiled stays with the backends that were chosen then.

On a GPU there is one backend, torch-cuda, whose kernels are PyTorch's own: a layer that is given
CUDA tensors takes no other, and calls them without an operator between. As everywhere, that backend
turns TF32 off in the whole process.

Kernels compute gradients, not tangents. Where forward mode is on, PyTorch's own functions compute;
an operator that is called there by itself, by a graph compiled or exported before, refuses.
"""

from cnnkernels.torch.conversion import ConversionWarning, convert, problem_of, revert
from cnnkernels.torch.functional import conv2d, max_pool2d
from cnnkernels.torch.layers import Conv2d, MaxPool2d
from cnnkernels.torch.thread_counts import set_threads, threads

__all__ = [
    "Conv2d",
    "ConversionWarning",
    "MaxPool2d",
    "conv2d",
    "convert",
    "max_pool2d",
    "problem_of",
    "revert",
    "set_threads",
    "threads",
]

for _public in __all__:
    globals()[_public].__module__ = __name__  # the name of it in messages and in saved models
