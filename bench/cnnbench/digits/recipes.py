"""Trainings by name."""

from __future__ import annotations

from dataclasses import dataclass

from cnnbench.digits.options import Options


@dataclass(frozen=True)
class Recipe:
    """A named training.

    Attributes
    ----------
    description : str
    options : Options
    backend : str
        The only backend it runs on; empty for any.
    command : str
        The worker's command.
    """

    description: str
    options: Options
    backend: str = ""
    command: str = "train"


RECIPES: dict[str, Recipe] = {
    "digits": Recipe("the digits CNN by SGD with momentum, float32, on any backend", Options()),
    "notebook-numpy": Recipe(
        "the same in float64 on numpy, in the order of a notebook that draws 36 samples first",
        Options(dtype="float64", skipped_draws=36),
        backend="numpy",
    ),
    "notebook-torch": Recipe(
        "PyTorch's own: BatchNorm, Adam, autograd and DataLoader",
        Options(learning_rate=1e-3),
        backend="torch-cpu",
        command="train_in_pytorch",
    ),
}
