"""What a training depends on beside the backend."""

from __future__ import annotations

from dataclasses import dataclass


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
