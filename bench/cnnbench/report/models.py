"""All machines' newest answers to which way trains a PyTorch model fastest, in one table."""

from __future__ import annotations

from pathlib import Path

from cnnbench import timing
from cnnbench.recommend import recommendation
from cnnbench.recommend.recommendation import LAYOUTS, Recommendation, named
from cnnbench.report import index, numbers
from cnnbench.report.tables import Sheet


def sheet(folder: Path) -> Sheet:
    """Return a table of committed recommendations: PyTorch models by machines.

    A cell has the recommended way of training, the time of its step, and its speed relative to the
    faster of PyTorch's two layouts.

    Parameters
    ----------
    folder : path
        Has a folder for each machine.
    """
    answers: dict[str, dict[str, str]] = {}
    machines = []
    for machine, runs in index.by_machine(folder).items():
        found = map(recommendation.kept, sorted(runs, key=index.started))
        of_models = [one for one in found if one and one.kind == "model" and one.steps]
        if of_models:
            machines.append(machine.name)
        for one in of_models:
            answers.setdefault(_title(one), {})[machine.name] = _cell(one)
    return Sheet(
        "Training steps, relative to the faster of PyTorch's layouts",
        ("a step of", *machines),
        tuple(
            (title, *(cells.get(machine, "-") for machine in machines))
            for title, cells in answers.items()
        ),
        texts=1 + len(machines),
    )


def _title(found: Recommendation) -> str:
    images, _, height, width = found.decisions[0].layer.problem.shapes.x
    return f"{found.network.name}, {images} images of {height}x{width}"


def _cell(found: Recommendation) -> str:
    rows = {row.backend: row for row in found.taken}
    best = rows.get(found.way)
    rival = next((row for row in found.taken if row.backend in LAYOUTS), None)
    if best is None:
        return "-"
    seconds = numbers.seconds(best.seconds)
    if best.backend in LAYOUTS or rival is None:
        return f"{best.backend} {seconds}: stay"
    apart = timing.ratio(best.measured, rival.measured)
    return f"{named(best.backend)} {seconds}: {numbers.interval(*apart.known())}"
