"""The options of a training, apart from the backend."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cnnbench.digits.optimizers import LEARNING_RATES
from cnnbench.words import counted


@dataclass(frozen=True)
class Options:
    """What a training depends on beside the backend.

    Attributes
    ----------
    epochs, batch_size : int
    learning_rate, momentum, weight_decay : float
        As in `cnnbench.digits.optimizers`; Adam ignores the momentum.
    seed : int
        Seed of the initial weights and of the order of the images.
    dtype : str
    architecture, optimizer : str
        Names in `ARCHITECTURES` and `LEARNING_RATES`.
    batchnorm : bool
        Whether batch normalization replaces the biases of convolutions.
    data : str
        File with images and labels; empty for the digits.
    weights : str
        File with initial weights; empty for weights drawn by the seed.
    skipped_draws : int
        Images drawn from the order's generator before training, to match a notebook that does so.
    most_steps : int or None
        Stop after this many steps, without evaluating.
    budget_seconds : float or None
        Stop after the step that exceeds this time, without evaluating.
    """

    epochs: int = 10
    batch_size: int = 64
    learning_rate: float = 0.05
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 42
    dtype: str = "float32"
    architecture: str = "digits"
    optimizer: str = "sgd"
    batchnorm: bool = False
    data: str = ""
    weights: str = ""
    skipped_draws: int = 0
    most_steps: int | None = None
    budget_seconds: float | None = None


def describe(options: Options) -> str:
    """Describe a training in one line, without options at their defaults."""
    unusual = {
        "learning rate": (options.learning_rate, LEARNING_RATES[options.optimizer]),
        "momentum": (options.momentum, Options.momentum),
        "weight decay": (options.weight_decay, Options.weight_decay),
    }
    parts = [
        f"{options.architecture} CNN",
        counted(options.epochs, "epoch"),
        f"batch {options.batch_size}",
        options.dtype,
        *(["adam"] if options.optimizer == "adam" else []),
        *(f"{name} {value:g}" for name, (value, usual) in unusual.items() if value != usual),
        *(["batch normalization"] if options.batchnorm else []),
        *([f"images of {Path(options.data).name}"] if options.data else []),
        *([f"from {Path(options.weights).name}"] if options.weights else []),
        f"seed {options.seed}",
    ]
    return ", ".join(parts)
