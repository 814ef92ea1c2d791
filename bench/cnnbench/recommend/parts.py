"""Where the time of a PyTorch model's training step goes, by kind of operator."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from cnnbench.recommend.networks import Network
from cnnkernels.contract import Conv2D

CONVOLUTIONS = "convolutions"
POOLINGS = "max-pooling"
LEFT = "layers left to PyTorch"
"""Convolutions and max-poolings that no backend computes."""

NORMALIZATION = "normalization"
ACTIVATIONS = "activations"
SUMS = "additions, joins"
PRODUCTS = "matrix products"
OPTIMIZER = "optimizer"
OTHERS = "other operators"
BETWEEN = "between operators"
"""A step's time outside its operators: Python, autograd, and memory."""

KINDS = (
    CONVOLUTIONS,
    POOLINGS,
    LEFT,
    NORMALIZATION,
    ACTIVATIONS,
    SUMS,
    PRODUCTS,
    OPTIMIZER,
    OTHERS,
    BETWEEN,
)

_OURS = (CONVOLUTIONS, POOLINGS)

_ACTIVATIONS = (
    "celu", "elu", "gelu", "glu", "hardsigmoid", "hardswish", "hardtanh", "leaky_relu", "mish",
    "prelu", "relu", "relu6", "selu", "sigmoid", "silu", "softplus", "tanh", "threshold",
)  # fmt: skip
_SUMS = ("add", "cat", "mul", "stack", "sub")
_PRODUCTS = ("addmm", "baddbmm", "bmm", "linear", "mm")


def kind_of(operator: str) -> str:
    """Return the kind of one of PyTorch's operators, given its name without overload.

    An operator's variants in place and its backward are of the same kind.
    """
    name = operator.removesuffix("_backward").removesuffix("_").removeprefix("_")
    if any(part in name for part in ("batch_norm", "layer_norm", "group_norm")):
        return NORMALIZATION
    for kind, names in ((ACTIVATIONS, _ACTIVATIONS), (SUMS, _SUMS), (PRODUCTS, _PRODUCTS)):
        if name in names:
            return kind
    return OTHERS


def of_steps(network: Network, steps: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the seconds of a step by kind: the medians over steps that `Training.watch` timed."""
    found: list[dict[str, float]] = []
    for step in steps:
        of_step = dict(step["others"])
        for layer in network.layers:
            kind = CONVOLUTIONS if isinstance(layer.problem, Conv2D) else POOLINGS
            of_call = step["layers"].get(str(layer.problem), ())
            of_step[kind] = of_step.get(kind, 0.0) + len(layer.names) * sum(of_call)
        found.append(of_step)
    return {
        kind: statistics.median(of_step.get(kind, 0.0) for of_step in found)
        for kind in KINDS
        if any(kind in of_step for of_step in found)
    }


def rest(parts: Mapping[str, float]) -> float:
    """Return the seconds of a step outside the layers that backends compute."""
    return sum(seconds for kind, seconds in parts.items() if kind not in _OURS)
