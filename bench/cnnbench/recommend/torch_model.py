"""A user's PyTorch model: the problems of its layers, and the time of a training step.

Only workers with PyTorch import this module.
"""

from __future__ import annotations

import importlib
import os
import statistics
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.pooling import _AdaptiveMaxPoolNd
from torch.utils._python_dispatch import TorchDispatchMode

import cnnkernels.torch as layers
from cnnbench.recommend.networks import Call, ModelError
from cnnkernels import plan, registry
from cnnkernels.contract import Conv2D, Needs, Unsupported
from cnnkernels.plan import Choice, Plan

_SEED = 20
_LEARNING_RATE = 1e-3


def load(place: str) -> nn.Module:
    """Call a function without arguments, and return its model.

    Parameters
    ----------
    place : str
        ``package.module:function``. The modules may be in the current folder, which is first on the
        path during the import, and last afterwards, so that its files do not shadow libraries.

    Raises
    ------
    ModelError
        If there is no such function, or it returns no model.
    """
    module_name, _, name = place.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise ModelError(
            f"{place}: {module_name} cannot be imported: {type(error).__name__}: {error}"
        ) from None
    finally:
        sys.path.remove(here)
        if here not in sys.path:
            sys.path.append(here)
    function = getattr(module, name, None)
    if not callable(function):
        raise ModelError(f"{place}: {module_name} has no function {name!r}")
    try:
        torch.manual_seed(_SEED)
        model = function()
    except Exception as error:
        raise ModelError(
            f"{place}: {name}() raised {type(error).__name__}: {error}; it is called without "
            "arguments and with an empty standard input, and must return a torch.nn.Module"
        ) from None
    if not isinstance(model, nn.Module):
        raise ModelError(
            f"{place}: expected {name}() to return a torch.nn.Module, got {type(model).__name__}"
        )
    return model


class Training:
    """A model in training on random images, one step after another.

    The loss is the mean square of the model's output, and the optimizer SGD with momentum.

    Parameters
    ----------
    place : str
        As for `load`.
    shape : sequence of int
        Shape of a batch of images.
    channels_last : bool
        Whether model and images have that layout.
    converted : bool
        Whether the model is converted, following the current plan.

    Raises
    ------
    ModelError
        If a training step fails.
    """

    def __init__(
        self,
        place: str,
        shape: Sequence[int],
        *,
        channels_last: bool = False,
        converted: bool = False,
    ) -> None:
        self._place = place
        self.model = load(place).train()
        self._images = torch.randn(*shape, generator=torch.Generator().manual_seed(_SEED))
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
            self._images = self._images.to(memory_format=torch.channels_last)
        if converted:
            layers.convert(self.model, plan.current())
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise ModelError(f"{place}: the model has no trainable parameter")
        self._optimizer = torch.optim.SGD(trained, lr=_LEARNING_RATE, momentum=0.9)

    def step(self) -> None:
        """Run forward, backward and the optimizer."""
        self._optimizer.zero_grad(set_to_none=True)
        try:
            outputs = list(_tensors(self.model(self._images)))
            if not outputs:
                raise ModelError(
                    f"{self._place}: the model returns no tensor that a loss could use"
                )
            torch.stack([tensor.square().mean() for tensor in outputs]).sum().backward()
        except RuntimeError as error:
            shape = ",".join(map(str, self._images.shape))
            raise ModelError(
                f"{self._place}: a training step on images of {shape} raised: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self._optimizer.step()

    def capture(self) -> tuple[list[Call], list[tuple[str, str]]]:
        """Take a step; return the calls of convolutions and max-poolings, and those left out.

        Returns
        -------
        calls : list of Call
            In the order of forward; a layer called twice appears twice.
        left : list of (str, str)
            Similar layers that no backend computes, each with the reason.
        """
        with _Watch(self.model) as watch:
            self.step()
        return watch.calls, list(dict.fromkeys(watch.left))

    def profile(self, seconds: float) -> dict[str, float]:
        """Return the times of a step, of the layers backends compute, and of those left out.

        Parameters
        ----------
        seconds : float
            Approximate duration; at least one step.

        Returns
        -------
        dict of str to float
            Seconds: 'step'; 'layers', the kernels of the calls from `capture`; 'left', the kernels
            left out, including functions.
        """
        taken: list[tuple[float, float, float]] = []
        deadline = time.perf_counter() + seconds
        while not taken or time.perf_counter() < deadline:
            whole = self.seconds(1)  # without inner clocks, which take time
            with _Watch(self.model) as watch:
                self.step()
            taken.append((whole, *watch.seconds()))
        names = ("step", "layers", "left")
        return dict(zip(names, map(statistics.median, zip(*taken, strict=True)), strict=True))

    def seconds(self, steps: int) -> float:
        """Return the median seconds of several steps."""
        taken = []
        for _ in range(steps):
            began = time.perf_counter()
            self.step()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


class _Watch(TorchDispatchMode):  # type: ignore[misc]  # PyTorch is untyped here
    """Times every convolution and max-pooling of a step.

    Parameters
    ----------
    model : Module
        The model, with named layers.

    Attributes
    ----------
    calls, left : list
        As `Training.capture` returns them.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.left: list[tuple[str, str]] = []
        self._running: list[tuple[str, bool | None]] = []
        self._ours: Counter[_Key] = Counter()
        self._theirs: Counter[_Key] = Counter()
        self._seconds: defaultdict[_Key, float] = defaultdict(float)
        self._handles = []
        for name, layer in model.named_modules():
            begins, ends = self._begins(name or "the model"), self._ends
            self._handles += [
                layer.register_forward_pre_hook(begins, with_kwargs=True),
                layer.register_forward_hook(ends, always_call=True),
            ]

    def __exit__(self, *raised: Any) -> None:
        for handle in self._handles:
            handle.remove()
        super().__exit__(*raised)

    def seconds(self) -> tuple[float, float]:
        """Return the seconds in layers that backends compute, and in those left out."""
        ours = 0.0
        for key, seconds in self._seconds.items():
            ours += seconds * self._ours[key] / max(1, self._ours[key] + self._theirs[key])
        return ours, sum(self._seconds.values()) - ours

    def _begins(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            ours = self._note(name, layer, [*inputs, *named.values()][0]) if _alike(layer) else None
            self._running.append((name, ours))

        return hook

    def _ends(self, *_: Any) -> None:
        self._running.pop()

    def _note(self, name: str, layer: nn.Module, x: Tensor) -> bool:
        try:
            problem = layers.problem_of(layer, x)
        except Unsupported as reason:
            self.left.append((name, str(reason)))
            return False
        weights = getattr(layer, "weight", None)
        trained = weights is not None and weights.requires_grad
        self.calls.append(Call(name, str(problem), x.requires_grad, trained))
        return True

    def __torch_dispatch__(
        self, function: Any, _: Any, given: tuple[Any, ...] = (), named: Any = None
    ) -> Any:
        """Call a PyTorch function, and time it if it is a convolution or max-pooling."""
        name = function.overloadpacket.__name__
        if name not in _TIMED:
            return function(*given, **(named or {}))
        backward = name.endswith("_backward")
        x, window = given[backward : backward + 2]  # a backward has dy first
        key = tuple(x.shape), tuple(getattr(window, "shape", window))
        if not backward:
            where, ours = self._running[-1] if self._running else ("the model", None)
            (self._ours if ours else self._theirs)[key] += 1
            if ours is None:
                self.left.append((where, _AS_FUNCTION.format(_TIMED[name])))
        began = time.perf_counter()
        result = function(*given, **(named or {}))
        self._seconds[key] += time.perf_counter() - began
        return result


_Key: TypeAlias = tuple[tuple[int, ...], tuple[int, ...]]
"""The shape of the images, and that of the weights or the window."""

_TIMED = {
    "convolution": "a convolution",
    "convolution_backward": "a convolution",
    "max_pool2d_with_indices": "a max-pooling",
    "max_pool2d_with_indices_backward": "a max-pooling",
    "max_pool3d_with_indices": "a max-pooling",
    "max_pool3d_with_indices_backward": "a max-pooling",
    "adaptive_max_pool2d": "a max-pooling",
    "adaptive_max_pool2d_backward": "a max-pooling",
    "adaptive_max_pool3d": "a max-pooling",
    "adaptive_max_pool3d_backward": "a max-pooling",
}
"""PyTorch's names of convolutions and max-poolings, below autograd."""

_AS_FUNCTION = (
    "{} called as a function: only layers, torch.nn.Conv2d and torch.nn.MaxPool2d, are converted"
)


def _alike(layer: nn.Module) -> bool:
    """Whether a layer is a convolution or max-pooling of any kind."""
    kinds = (nn.modules.conv._ConvNd, nn.modules.pooling._MaxPoolNd, _AdaptiveMaxPoolNd)
    return isinstance(layer, kinds)


def _tensors(output: Any) -> Iterator[Tensor]:
    """Yield the floating-point tensors in a model's output."""
    if isinstance(output, Tensor):
        if output.is_floating_point() and output.requires_grad:
            yield output
    elif isinstance(output, dict):
        for value in output.values():
            yield from _tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from _tensors(value)


_TIMES, _REPEATS = 200, 7


def overheads() -> dict[str, float]:
    """Return the overhead in seconds of a layer's forward and backward besides the kernels.

    Measured on an image of one pixel: the layer with autograd, minus the kernels alone.

    Returns
    -------
    dict of str to float
        'native': PyTorch's own layer. 'kept': the same layer in a converted model, where the plan
        leaves it to PyTorch. 'converted': one of our operators. The last two include looking up the
        problem in a plan.
    """
    problem = Conv2D(1, 1, 1, 1, 1, 1)

    def planned(backend: str) -> Plan:
        return Plan({problem: Choice(backend)}, backend, torch.get_num_threads())

    found = {}
    for name, backend, layer in (
        ("native", "torch-cpu", nn.Conv2d(1, 1, 1)),
        ("kept", "torch-cpu", layers.Conv2d(1, 1, 1, backend=planned("torch-cpu"))),
        ("converted", "numpy", layers.Conv2d(1, 1, 1, backend=planned("numpy"))),
    ):
        kernel, put = registry.load(backend).convolution, registry.load(backend).arrays.put
        x = torch.ones(1, 1, 1, 1, requires_grad=True)
        given = [put(t.detach().numpy()) for t in (x, layer.weight, layer.bias)]
        dy = torch.ones(1, 1, 1, 1)
        theirs = put(dy.numpy())

        def called(layer: nn.Module = layer, x: Tensor = x, dy: Tensor = dy) -> None:
            torch.autograd.grad(layer(x), (x, *layer.parameters()), dy)

        def alone(kernel: Any = kernel, given: Sequence[Any] = given, theirs: Any = theirs) -> None:
            _, cache = kernel.forward(problem, *given)
            kernel.backward(problem, theirs, *given[:2], cache, Needs())

        found[name] = max(0.0, _seconds(called) - _seconds(alone))
    return found


def _seconds(function: Callable[[], None]) -> float:
    function()
    parts = []
    for _ in range(_REPEATS):
        began = time.perf_counter()
        for _ in range(_TIMES):
            function()
        parts.append((time.perf_counter() - began) / _TIMES)
    return statistics.median(parts)
