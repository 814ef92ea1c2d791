"""PyTorch layers that run on a backend, or on the backends that a plan has chosen."""

from __future__ import annotations

from typing import Any

from torch import Tensor, fx, nn
from torch.nn import functional

from cnnkernels import registry
from cnnkernels.contract import Unsupported
from cnnkernels.plan import Plan
from cnnkernels.torch.choosing import checked
from cnnkernels.torch.functional import conv2d, max_pool2d

NO_INDICES = "return_indices is for PyTorch's own MaxPool2d alone"


class _Layer(nn.Module):
    """Base of `Conv2d` and `MaxPool2d`; comes before PyTorch's class in their bases."""

    backend: str | Plan

    def __init__(self, *args: Any, backend: str | Plan = registry.AUTO, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.backend = checked(backend)

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

    def extra_repr(self) -> str:
        """Return PyTorch's text plus the backend."""
        return f"{super().extra_repr()}, backend={_shown(self.backend)}"


def _shown(backend: str | Plan) -> str:
    if isinstance(backend, Plan):
        return f"a plan of {len(backend.choices)} problems"
    return repr(backend)


class Conv2d(_Layer, nn.Conv2d):
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


class MaxPool2d(_Layer, nn.MaxPool2d):
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
