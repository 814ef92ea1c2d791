"""What a training depends on beside the backend."""

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
        As the classes of `cnnbench.digits.optimizers` have them; Adam has no momentum to set.
    seed : int
        Of the initial weights, and of the order of the images.
    dtype : str
    architecture, optimizer : str
        Names in `ARCHITECTURES` and `LEARNING_RATES`.
    batchnorm : bool
        Whether convolutions are followed by batch normalisation, in place of a bias.
    data : str
        A file with images and labels; empty for the digits.
    weights : str
        A file with weights to start from; empty for those drawn by the seed.
    skipped_draws : int
        Images drawn from the order's generator before training, as by a program that showed some.
    most_steps : int or None
        Stop after so many steps, without evaluating.
    budget_seconds : float or None
        Stop after the step that exceeds this, without evaluating.
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
    """Return what is trained, and how, in a line: what is usual goes without saying."""
    told = {
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
        *(f"{name} {value:g}" for name, (value, usual) in told.items() if value != usual),
        *(["batch normalisation"] if options.batchnorm else []),
        *([f"images of {Path(options.data).name}"] if options.data else []),
        *([f"from {Path(options.weights).name}"] if options.weights else []),
        f"seed {options.seed}",
    ]
    return ", ".join(parts)
