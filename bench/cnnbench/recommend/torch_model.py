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
from cnnbench.recommend import parts
from cnnbench.recommend.networks import Call, ModelError
from cnnkernels import plan
from cnnkernels.contract import Conv2D, Problem, Unsupported
from cnnkernels.descriptor import parse

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
    autocast : bool
        Whether forward runs under ``torch.autocast`` with bfloat16.
    compiled : bool
        Whether the model is compiled by `torch.compile`.

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
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self._place = place
        self._autocast = autocast
        self._detour: float | None = None
        self.model = load(place).train()
        self._images = torch.randn(*shape, generator=torch.Generator().manual_seed(_SEED))
        if channels_last:
            self.model.to(memory_format=torch.channels_last)
            self._images = self._images.to(memory_format=torch.channels_last)
        if converted:
            layers.convert(self.model, plan.current())
        self._call: Callable[[Tensor], Any] = self.model
        if compiled:
            self._call = torch.compile(self.model)
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        if not trained:
            raise ModelError(f"{place}: the model has no trainable parameter")
        self._optimizer = torch.optim.SGD(trained, lr=_LEARNING_RATE, momentum=0.9)

    def step(self) -> None:
        """Run forward, backward and the optimizer."""
        self._optimizer.zero_grad(set_to_none=True)
        try:
            with torch.autocast("cpu", torch.bfloat16, enabled=self._autocast):
                returned = self._call(self._images)
            outputs = list(_tensors(returned))
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
        with _Watch(self.model, self._optimizer) as watch:
            self.step()
        return watch.calls, list(dict.fromkeys(watch.left))

    def watch(self) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Take a step; return the seconds of its layers, and of its other operators.

        Returns
        -------
        layers : dict of str to [float, float]
            By problem, the seconds of one call in forward and in backward, with the memory and
            caches of a step. Calls of one problem are averaged.
        others : dict of str to float
            The seconds of all other operators, by kind, as `parts` names them, and between them.
        """
        watch = _Watch(self.model, self._optimizer)
        with watch:
            began = time.perf_counter()
            self.step()
            seconds = time.perf_counter() - began
        of_layers, others = watch.seconds()
        if self._detour is None:
            self._detour = _detour()
        watching = watch.watching + watch.operators * self._detour
        between = seconds - watching - watch.operating
        return of_layers, others | {parts.BETWEEN: max(0.0, between)}

    def seconds(self, steps: int) -> float:
        """Return the median seconds of several steps."""
        taken = []
        for _ in range(steps):
            began = time.perf_counter()
            self.step()
            taken.append(time.perf_counter() - began)
        return statistics.median(taken)


class _Watch(TorchDispatchMode):  # type: ignore[misc]  # PyTorch is untyped here
    """Times every operator of a step.

    Parameters
    ----------
    model : Module
        The model, with named layers.
    optimizer : Optimizer

    Attributes
    ----------
    calls, left : list
        As `Training.capture` returns them.
    operators : int
        How many operators the step called.
    operating, watching : float
        The seconds of all operators, and those that this class spent on watching.
    """

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        super().__init__()
        self.calls: list[Call] = []
        self.left: list[tuple[str, str]] = []
        self.operators = 0
        self.operating = self.watching = 0.0
        self._running: list[tuple[str, bool | None]] = []
        self._ours: Counter[_Key] = Counter()
        self._theirs: Counter[_Key] = Counter()
        self._seconds: defaultdict[_Key, list[float]] = defaultdict(lambda: [0.0, 0.0])
        self._others: defaultdict[str, float] = defaultdict(float)
        self._optimizing = False
        self._handles = [
            optimizer.register_step_pre_hook(self._optimizes(True)),
            optimizer.register_step_post_hook(self._optimizes(False)),
        ]
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

    def seconds(self) -> tuple[dict[str, list[float]], dict[str, float]]:
        """Return what `Training.watch` returns."""
        problems = {_key_of(parse(call.problem)): call.problem for call in self.calls}
        of_layers: dict[str, list[float]] = {}
        for key, passes in self._seconds.items():
            ours, theirs = self._ours[key], self._theirs[key]
            of_call = [seconds / max(1, ours + theirs) for seconds in passes]
            if ours:
                of_layers[problems[key]] = of_call
            if theirs:
                self._others[parts.LEFT] += theirs * sum(of_call)
        return of_layers, dict(self._others)

    def _optimizes(self, begins: bool) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            self._optimizing = begins

        return hook

    def _begins(self, name: str) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
            began = time.perf_counter()
            ours = self._note(name, layer, [*inputs, *named.values()][0]) if _alike(layer) else None
            self._running.append((name, ours))
            self.watching += time.perf_counter() - began

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
        """Call a PyTorch operator, and time it."""
        began = time.perf_counter()
        result = function(*given, **(named or {}))
        seconds = time.perf_counter() - began
        self.operators += 1
        self.operating += seconds
        self._keep(function.overloadpacket.__name__, given, result, seconds)
        self.watching += time.perf_counter() - began - seconds
        return result

    def _keep(self, name: str, given: tuple[Any, ...], result: Any, seconds: float) -> None:
        """Add an operator's seconds to its layer, or to its kind."""
        if name not in _TIMED:
            self._others[parts.OPTIMIZER if self._optimizing else parts.kind_of(name)] += seconds
            return
        backward = name.endswith("_backward")
        x, window = given[backward : backward + 2]  # a backward has dy first
        y = given[0] if backward else result[0] if isinstance(result, tuple) else result
        key = _sizes(x), _sizes(window), _sizes(y)
        if not backward:
            where, ours = self._running[-1] if self._running else ("the model", None)
            (self._ours if ours else self._theirs)[key] += 1
            if ours is None:
                self.left.append((where, _AS_FUNCTION.format(_TIMED[name])))
        self._seconds[key][backward] += seconds


def _detour(calls: int = 300) -> float:
    """Return the seconds that PyTorch takes longer to call an operator while a step is watched.

    They are not among those that `_Watch` counts.
    """
    layer = nn.Linear(1, 1)
    x = torch.zeros(1)

    def call() -> float:
        began = time.perf_counter()
        for _ in range(calls):
            x.add_(1.0)
        return time.perf_counter() - began

    call()
    alone = call()
    with _Watch(layer, torch.optim.SGD(layer.parameters())) as watch:
        watched = call()
    return float(max(0.0, (watched - watch.watching - alone) / calls))


_Key: TypeAlias = tuple[tuple[int, ...], ...]
"""The sizes of the images, of the weights or the window, and of the result."""


def _sizes(given: Tensor | Sequence[int]) -> tuple[int, ...]:
    """Return a tensor's shape, or a window's rows and columns."""
    if isinstance(given, Tensor):
        return tuple(given.shape)
    return tuple(given) if len(given) < 8 else tuple(given[:2])


def _key_of(problem: Problem) -> _Key:
    window = problem.shapes.w if isinstance(problem, Conv2D) else problem.kernel_size
    return problem.shapes.x, window, problem.shapes.y


_TIMED = {
    "conv2d": "a convolution",
    "conv2d_backward": "a convolution",
    "max_pool2d": "a max-pooling",
    "max_pool2d_backward": "a max-pooling",
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
"""Names of convolutions and max-poolings below autograd: converted layers', and PyTorch's."""

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
