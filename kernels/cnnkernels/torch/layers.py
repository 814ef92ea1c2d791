"""PyTorch layers that run on a backend, or on the backends that a plan has chosen.

Batch normalization, which belongs to no backend, has faster statistics here.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional

from cnnkernels import registry
from cnnkernels.contract import Unsupported
from cnnkernels.plan import Plan
from cnnkernels.torch import normalization
from cnnkernels.torch.choosing import checked
from cnnkernels.torch.functional import conv2d, max_pool2d

NO_INDICES = "return_indices is for PyTorch's own MaxPool2d alone"


class _Layer(nn.Module):
    """Base of this package's layers; comes before PyTorch's class in their bases."""

    def __setattr__(self, name: str, value: Any) -> None:
        # torch.ao.quantization sets it on every layer, then replaces only PyTorch's exact classes.
        if name == "qconfig" and value is not None:
            raise Unsupported(
                "qconfig: quantization supports PyTorch's own layers only, not cnnkernels' "
                f"{type(self).__name__}; before preparing the model call "
                "cnnkernels.torch.revert(model)"
            )
        super().__setattr__(name, value)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's images; `torch.fx` traces it as one call, as of PyTorch's layers."""
        y: Any
        if isinstance(x, fx.Proxy):
            y = x.tracer.create_proxy("call_module", x.tracer.path_of_module(self), (x,), {})
        else:
            y = self._computed(x)
        return y

    def _computed(self, x: Tensor) -> Tensor:
        raise NotImplementedError

    def __prepare_scriptable__(self) -> Any:
        raise Unsupported(
            f"torch.jit.script cannot compile {type(self).__name__} of cnnkernels; before it call "
            "cnnkernels.torch.revert(model), or use torch.jit.trace or torch.compile"
        )


class BackendLayer(_Layer):
    """Base of `Conv2d` and `MaxPool2d`."""

    backend: str | Plan

    def __init__(self, *args: Any, backend: str | Plan = registry.AUTO, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = checked(backend)

    def extra_repr(self) -> str:
        """Return PyTorch's text plus the backend."""
        return f"{super().extra_repr()}, backend={_shown(self.backend)}"


def _shown(backend: str | Plan) -> str:
    if isinstance(backend, Plan):
        return f"a plan of {len(backend.choices)} problems"
    return repr(backend)


class Conv2d(BackendLayer, nn.Conv2d):
    """A `torch.nn.Conv2d` that runs on a backend or a plan.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.Conv2d`.
    backend : str or Plan
        As for `conv2d`.

    Notes
    -----
    The layer takes CPU tensors, or only GPU tensors with ``backend="torch-cuda"``. With torch-cuda,
    or if a plan has chosen torch-cpu, it calls PyTorch's own function without an operator.

    The layer stores its plan, which is pickled and copied with it.
    """

    def _computed(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight, self.bias)

    def _conv_forward(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = padded(self, x)
        return conv2d(
            x,
            weight,
            bias,
            stride=self.stride,
            padding=padding,
            dilation=self.dilation,
            groups=self.groups,
            backend=self.backend,
        )


def padded(layer: nn.Conv2d, x: Tensor) -> tuple[Tensor, Any]:
    """Return images and the zero padding left to apply; apply other padding modes here."""
    if layer.padding_mode == "zeros":
        return x, layer.padding
    around = layer._reversed_padding_repeated_twice
    return functional.pad(x, around, mode=layer.padding_mode), 0


class MaxPool2d(BackendLayer, nn.MaxPool2d):
    """A `torch.nn.MaxPool2d` that runs on a backend or a plan.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.MaxPool2d`; return_indices is not supported.
    backend : str or Plan
        As for `conv2d`.

    Notes
    -----
    Tensors and plans are handled as in `Conv2d`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.return_indices:
            raise Unsupported(NO_INDICES)

    def _computed(self, x: Tensor) -> Tensor:
        return max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            backend=self.backend,
        )


class BatchNorm2d(_Layer, nn.BatchNorm2d):
    """A `torch.nn.BatchNorm2d` with faster statistics in training.

    Parameters
    ----------
    *args, **kwargs
        As for `torch.nn.BatchNorm2d`.

    Notes
    -----
    In training the layer sums contiguous CPU images, float32 or float64, by this package's kernel.
    All others, and what compilers, tracers and transforms see, PyTorch's own layer computes.
    """

    def _computed(self, x: Tensor) -> Tensor:
        if not self.training or not normalization.suits(x, self.num_features, self.eps):
            return nn.BatchNorm2d.forward(self, x)
        of_batch = normalization.statistics(x, self.eps)
        if self.track_running_stats:
            self._track(of_batch, x.numel() // self.num_features)
        return normalization.normalize(x, self.weight, self.bias, of_batch, self.eps)

    @torch.no_grad()
    def _track(self, of_batch: normalization.Statistics, count: int) -> None:
        """Move the running statistics towards those of a batch, as PyTorch does."""
        share, batches = self.momentum, self.num_batches_tracked
        if batches is not None:
            batches.add_(1)
        if share is None:
            share = 0.0 if batches is None else 1.0 / float(batches)
        if self.running_mean is not None:
            self.running_mean.mul_(1.0 - share).add_(of_batch.mean, alpha=share)
        if self.running_var is not None:  # estimates the variance of all images
            bessel = count / (count - 1)
            self.running_var.mul_(1.0 - share).add_(of_batch.variance, alpha=share * bessel)
