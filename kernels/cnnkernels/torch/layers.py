"""Layers of PyTorch's whose convolution or max-pooling a backend or a plan computes."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn import functional

from cnnkernels import registry
from cnnkernels.contract import Unsupported
from cnnkernels.plan import Plan
from cnnkernels.torch.choosing import checked
from cnnkernels.torch.functional import conv2d, max_pool2d

NO_INDICES = "return_indices is for PyTorch's own MaxPool2d alone"


class _Layer(nn.Module):
    """Base of `Conv2d` and `MaxPool2d` here; each names it before PyTorch's class."""

    backend: str | Plan

    def __init__(self, *args: Any, backend: str | Plan = registry.AUTO, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = checked(backend)

    def __setattr__(self, name: str, value: Any) -> None:
        # torch.ao.quantization sets it everywhere, and then replaces PyTorch's exact classes only.
        if name == "qconfig" and value is not None:
            raise Unsupported(
                "qconfig: quantization knows PyTorch's own layers only, not cnnkernels' "
                f"{type(self).__name__}; give the model those back before it is prepared: "
                "cnnkernels.torch.revert(model)"
            )
        super().__setattr__(name, value)

    def extra_repr(self) -> str:
        """Return PyTorch's words and the backend."""
        return f"{super().extra_repr()}, backend={_shown(self.backend)}"


def _shown(backend: str | Plan) -> str:
    if isinstance(backend, Plan):
        return f"a plan of {len(backend.choices)} problems"
    return repr(backend)


class Conv2d(_Layer, nn.Conv2d):
    """A `torch.nn.Conv2d` that a backend or a plan computes.

    Parameters
    ----------
    *args, **kwargs
        As `torch.nn.Conv2d` takes.
    backend : str or Plan
        As `conv2d` takes.

    Notes
    -----
    Where a plan has chosen torch-cpu, PyTorch's own function computes, without an operator between.
    The layer takes tensors on the CPU. With ``backend="torch-cuda"`` it takes those on a GPU alone,
    where PyTorch's own function computes, too.

    The layer holds its plan, so that the plan is pickled and copied with it.
    """

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
    """Return images and the zeros that a layer pads them with; other padding is put on first."""
    if layer.padding_mode == "zeros":
        return x, layer.padding
    around = layer._reversed_padding_repeated_twice
    return functional.pad(x, around, mode=layer.padding_mode), 0


class MaxPool2d(_Layer, nn.MaxPool2d):
    """A `torch.nn.MaxPool2d` that a backend or a plan computes.

    Parameters
    ----------
    *args, **kwargs
        As `torch.nn.MaxPool2d` takes; indices cannot be returned.
    backend : str or Plan
        As `conv2d` takes.

    Notes
    -----
    Which tensors it takes, and what becomes of a plan, is as for `Conv2d`.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.return_indices:
            raise Unsupported(NO_INDICES)

    def forward(self, x: Tensor) -> Tensor:
        """Return the maxima."""
        return max_pool2d(
            x,
            self.kernel_size,
            stride=self.stride,
            padding=self.padding,
            dilation=self.dilation,
            ceil_mode=self.ceil_mode,
            backend=self.backend,
        )
