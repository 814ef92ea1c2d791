"""The convolutions and max-poolings in a network's training step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cnnbench.cases import CaseSet
from cnnbench.digits.network import Plan
from cnnkernels.contract import (
    BACKWARD,
    BACKWARD_DATA,
    BACKWARD_WEIGHTS,
    FORWARD,
    Conv2D,
    Direction,
    Problem,
)
from cnnkernels.descriptor import Case, parse


class ModelError(ValueError):
    """A model that cannot be built or run; the message says what was expected."""


@dataclass(frozen=True)
class Call:
    """A layer's call in a training step.

    Attributes
    ----------
    name : str
        The layer's name in the network.
    problem : str
        Its descriptor.
    dx, dw : bool
        Whether training needs the gradient of its input, and of its weights.
    """

    name: str
    problem: str
    dx: bool
    dw: bool


@dataclass(frozen=True)
class Layer:
    """The calls of a training step that compute the same problem.

    Attributes
    ----------
    names : tuple of str
        One for each call.
    problem : Problem
    backward : Direction or None
        The backward direction that training needs; None if everything is frozen.
    """

    names: tuple[str, ...]
    problem: Problem
    backward: Direction | None

    @property
    def directions(self) -> tuple[Direction, ...]:
        """The directions to time."""
        return (FORWARD,) if self.backward is None else (FORWARD, self.backward)

    @property
    def case(self) -> Case:
        """The layer as a case to check and time."""
        return Case(self.problem, self.names[0], len(self.names))


@dataclass(frozen=True)
class Network:
    """The kernel calls of a training step.

    Attributes
    ----------
    name : str
    layers : tuple of Layer
        In the order of their first calls.
    left : tuple of (str, str)
        Layers that no backend computes, each with the reason.
    """

    name: str
    layers: tuple[Layer, ...]
    left: tuple[tuple[str, str], ...] = ()

    @property
    def cases(self) -> CaseSet:
        """The layers as a set of cases."""
        return CaseSet(self.name, tuple(layer.case for layer in self.layers))


def of_calls(name: str, calls: Iterable[Call], left: Sequence[tuple[str, str]] = ()) -> Network:
    """Return the network that makes these calls.

    If calls of one problem need different gradients, all of these gradients are measured.
    """
    alike: dict[Problem, list[Call]] = {}
    for call in calls:
        alike.setdefault(parse(call.problem), []).append(call)
    layers = tuple(
        Layer(
            tuple(call.name for call in of_one),
            problem,
            _backward(problem, any(c.dx for c in of_one), any(c.dw for c in of_one)),
        )
        for problem, of_one in alike.items()
    )
    return Network(name, layers, tuple((where, why) for where, why in left))


def of_architecture(plan: Plan) -> Network:
    """Return one of the suite's own networks; the first layer needs no input gradient."""
    calls = [
        Call(name, str(problem), dx=number > 0, dw=isinstance(problem, Conv2D))
        for number, (name, problem) in enumerate(plan.layers.items())
    ]
    return of_calls(plan.architecture, calls)


def of_cases(sets: Sequence[CaseSet]) -> Network:
    """Return the network whose layers are these cases, each as often as its set has it.

    All gradients are measured, as the first layer is unknown.
    """
    calls = [
        Call(case.label, str(case.problem), dx=True, dw=True)
        for group in sets
        for case in group.cases
        for _ in range(case.layers)
    ]
    return of_calls(", ".join(group.name or "layers" for group in sets), calls)


def _backward(problem: Problem, dx: bool, dw: bool) -> Direction | None:
    if not isinstance(problem, Conv2D):
        return BACKWARD if dx else None
    return {
        (True, True): BACKWARD,
        (True, False): BACKWARD_DATA,
        (False, True): BACKWARD_WEIGHTS,
        (False, False): None,
    }[dx, dw]


def shape_of(text: str, batch: int | None) -> list[int]:
    """Return the shape in a text such as '8,3,224,224', with another batch if one is given.

    Raises
    ------
    ModelError
        If the text is not a shape.
    """
    try:
        shape = [int(word) for word in text.split(",")]
    except ValueError:
        shape = []
    if len(shape) < 2 or min(shape) < 1:
        raise ModelError(f"--input: expected a batch's shape such as 8,3,224,224, got {text!r}")
    if len(shape) == 3:
        raise ModelError(f"--input: expected N,C,H,W, such as 8,3,224,224, got {text!r}")
    return shape if batch is None else [batch, *shape[1:]]
