"""PyTorch layers that run on a backend, or on the backends that a plan has chosen.

``convert(model, "numba-simd")`` or ``convert(model, plan)`` moves the convolutions and max-poolings
of an existing model to these backends; ``revert(model)`` undoes it. Parameters, `state_dict`, hooks
and optimizers are unaffected: only the class of a layer changes. Batch normalizations of the model
get faster statistics in training, whatever the backend.

Each kind of layer has two operators, forward and backward. They are registered by `torch.library`,
so that autograd, `torch.compile` and DistributedDataParallel support them. They take CPU tensors of
any memory layout, and return contiguous ones. The backend is chosen before the call, once for
forward and backward: an operator takes a backend's name, never a plan. A compiled model keeps the
backends that were chosen at compilation.

CUDA tensors need the backend torch-cuda, whose kernels are PyTorch's own; layers call them
without an operator. This backend turns TF32 off in the whole process.

Transforms of `torch.func` fold a batch into the images where weights are shared, and loop over it
where they are not. They run uncompiled: to compile them, call ``revert(model)`` before.

Kernels compute gradients, not tangents. In forward mode, layers call PyTorch's own functions;
operators called from a graph compiled or exported earlier raise an error.
"""

from cnnkernels.torch.choosing import ConversionWarning
from cnnkernels.torch.conversion import convert, problem_of, revert
from cnnkernels.torch.functional import conv2d, max_pool2d
from cnnkernels.torch.layers import BatchNorm2d, Conv2d, MaxPool2d
from cnnkernels.torch.thread_counts import set_threads, threads

__all__ = [
    "BatchNorm2d",
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
    globals()[_public].__module__ = __name__  # shown in messages and stored in saved models
