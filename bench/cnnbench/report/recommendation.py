"""Tables of a recommendation, and the code that applies it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

from cnnbench.digits.options import Options
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    CHANNELS_LAST,
    COMPILED,
    NATIVE,
    Decision,
    Recommendation,
)
from cnnbench.report import numbers
from cnnbench.report.tables import Sheet, threads_in_words
from cnnbench.results import Row
from cnnkernels.registry import AUTO


def sheets(found: Recommendation) -> Iterator[Sheet]:
    """Yield whole steps, and the backend of each layer."""
    if found.steps:
        yield steps_sheet(found)
    else:
        yield _totals(found)
    yield _layers(found)


def _layers(found: Recommendation) -> Sheet:
    lines = []
    notes = [f"{name}: left to PyTorch: {why}" for name, why in found.network.left]
    notes += [f"{backend}: left out: {why}" for backend, why in found.barred.items()]
    if found.slow:
        factors = sorted(found.slow.values())
        words = " to ".join(dict.fromkeys(f"{factor:.0f}" for factor in (factors[0], factors[-1])))
        notes.append(
            f"{', '.join(found.slow)}: {words} times slower than the fastest in a first probe, not "
            "measured further"
        )
    refused: dict[str, list[str]] = {}
    for decision in found.decisions:
        lines.append(_line(decision))
        for backend, why in decision.refused.items():
            refused.setdefault(f"{backend}: {why}", []).append(decision.layer.names[0])
    for reason, layers in refused.items():
        where = "" if len(layers) == len(found.decisions) else f" ({', '.join(layers)})"
        notes.append(reason + where)
    return Sheet(
        "Layers, forward and the backward that training needs, "
        f"{threads_in_words(found.plan.threads)}",
        ("layer", "calls", "backend", "time", f"vs {found.baseline}", "why"),
        tuple(lines),
        tuple(notes),
    )


def _line(decision: Decision) -> tuple[str, ...]:
    name, calls = decision.layer.names[0], str(len(decision.layer.names))
    choice = decision.choice
    if choice is None:
        return name, calls, "none", "-", "-", "see below"
    return (
        name,
        calls,
        choice.backend,
        numbers.seconds(choice.seconds[choice.backend]),
        numbers.interval(choice.ratio, choice.low, choice.high),
        choice.why,
    )


def _totals(found: Recommendation) -> Sheet:
    names = dict.fromkeys(name for decision in found.decisions for name in decision.candidates)
    totals = {name: found.total(name) for name in (*names, *([AUTO] if found.mixed else []))}
    return Sheet(
        "Convolutions and max-poolings of a training step, each layer measured alone",
        ("all by", "a step"),
        tuple(
            ("each by the fastest" if name == AUTO else name, numbers.seconds(total))
            for name, total in totals.items()
            if total is not None
        ),
    )


def steps_sheet(found: Recommendation) -> Sheet:
    """Return training steps: predicted, measured, and relative to PyTorch's better layout."""
    of_model = found.kind == "model"
    columns = ["step", "predicted", "measured", f"vs {found.reference}"]
    columns += ["vs the better layout", "verdict"] if of_model else ["verdict"]
    lines, notes = [], []
    for row in found.steps:
        lines.append(_step_line(row, of_model))
        reason = found.why_not(row.backend)
        if row.outcome != "ok":
            notes.append(f"{_named(row)}: {row.outcome}: {row.reason}")
        elif reason is not None:
            notes.append(f"{_named(row)}: to compare with alone: {reason}")
    notes += _of_the_rest(found)
    return Sheet(
        f"Training steps of {found.network.name}, {threads_in_words(found.plan.threads)}",
        tuple(columns),
        tuple(lines),
        tuple(notes),
    )


def _step_line(row: Row, of_model: bool) -> tuple[str, ...]:
    line = [
        _named(row),
        numbers.seconds(row.details.get("predicted_seconds")),
        numbers.seconds(row.seconds),
        numbers.interval(row.ratio, row.ratio_low, row.ratio_high),
    ]
    verdict = row.verdict
    if of_model:
        better = row.details.get("better_layout") or dict.fromkeys(("ratio", "low", "high"))
        line.append(numbers.interval(better["ratio"], better["low"], better["high"]))
        verdict = better.get("verdict")
    return (*line, (verdict if row.outcome == "ok" else row.outcome) or "-")


def _named(row: Row) -> str:
    return "the mix" if row.backend == AUTO else row.backend


def _of_the_rest(found: Recommendation) -> Iterator[str]:
    """Yield notes on the predictions, and on the time that no plan can reduce."""
    base = next((row for row in found.steps if row.backend == found.reference), None)
    rest = None if base is None else base.details.get("rest_seconds")
    if base is None or rest is None or rest <= 0:
        return
    if found.kind == "model":
        left, step = found.left, (base.details["layer_seconds"] or 0.0) + rest
        yield (
            f"predicted: {NATIVE}'s step, times the sums of layers and rest, both measured inside "
            "steps, over its own"
        )
    else:
        left, step = base.details["left_seconds"], base.details["profiled_seconds"]
        yield (
            "predicted: the layers, each measured alone, and the rest of a step, that of the same "
            "line, from a profile"
        )
    if left:
        yield (
            f"{numbers.percent(left / step)} of {base.backend}'s step is in convolutions and "
            "max-poolings that are left to PyTorch"
        )
    neither = max(0.0, rest - left)
    yield (
        f"{numbers.seconds(neither)} of {base.backend}'s step, {numbers.percent(neither / step)}, "
        "is neither convolution nor max-pooling: no plan makes it faster"
    )


def how_to_follow(found: Recommendation, path: Path) -> list[str]:
    """Return the lines of code that apply a recommendation; none if nothing changes."""
    if found.stay == COMPILED:
        return ["model = torch.compile(model)"]
    if found.stay == AUTOCAST:
        return ['with torch.autocast("cpu", torch.bfloat16):', "    y = model(images)"]
    if found.stay == CHANNELS_LAST:
        return [
            "model = model.to(memory_format=torch.channels_last)",
            "images = images.to(memory_format=torch.channels_last)",
        ]
    if not found.follow:
        return []
    file = str(path)
    if found.kind == "model":
        return [
            "import cnnkernels.torch, cnnkernels.plan",
            f"cnnkernels.torch.convert(model, cnnkernels.plan.load({file!r}))",
        ]
    if found.kind == "network":
        options = Options(**found.options)
        return [
            f"cnnbench train --plan {shlex.quote(file)} --backends auto "
            f"--arch {options.architecture} --batch {options.batch_size} "
            f"--threads {found.plan.threads}"
        ]
    return [
        "from cnnkernels import conv2d, plan",
        f"plan.use({file!r})",
        'conv2d(x, w, padding=1, backend="auto")  # in a PyTorch model: cnnkernels.torch.convert',
    ]
