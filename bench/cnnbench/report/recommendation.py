"""Tables of a recommendation, and the code that applies it."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from cnnbench.digits.options import Options
from cnnbench.recommend import parts
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    CHANNELS_LAST,
    COMPILED,
    NATIVE,
    Decision,
    Recommendation,
    named,
)
from cnnbench.report import numbers
from cnnbench.report.tables import Sheet, threads_in_words
from cnnbench.results import Row
from cnnkernels.registry import AUTO

FAR = 0.05
"""Predictions further from the measured time have a note."""

SHOWN = 0.01
"""Operators with a smaller share of a step share a line."""


def sheets(found: Recommendation) -> Iterator[Sheet]:
    """Yield whole steps, where their time goes, and the backend of each layer."""
    if found.steps:
        yield steps_sheet(found)
    else:
        yield _totals(found)
    if found.parts:
        yield parts_sheet(found)
    yield _layers(found)


def _layers(found: Recommendation) -> Sheet:
    lines = []
    notes = [f"{name}: left to PyTorch: {why}" for name, why in found.network.left]
    notes += [f"{backend}: left out: {why}" for backend, why in found.barred.items()]
    if found.slow:
        ends = (min(found.slow.values()), max(found.slow.values()))
        words = (f"{factor:.1f}" if factor < 10 else f"{factor:.0f}" for factor in ends)
        notes.append(
            f"{', '.join(found.slow)}: {' to '.join(dict.fromkeys(words))} times slower than the "
            "fastest in first steps, not measured further"
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
            notes.append(f"{named(row.backend)}: {row.outcome}: {row.reason}")
        elif reason is not None:
            notes.append(f"{named(row.backend)}: to compare with alone: {reason}")
    notes += _of_the_rest(found)
    return Sheet(
        f"Training steps of {found.network.name}, {threads_in_words(found.plan.threads)}",
        tuple(columns),
        tuple(lines),
        tuple(notes),
    )


def _step_line(row: Row, of_model: bool) -> tuple[str, ...]:
    line = [
        named(row.backend),
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


def _of_the_rest(found: Recommendation) -> Iterator[str]:
    """Yield notes on the predictions, and on the time that no plan can reduce."""
    if found.kind == "model":
        if any("predicted_seconds" in row.details for row in found.steps):
            yield (
                f"predicted: {NATIVE}'s step, times the sums of layers and rest, both measured "
                "inside steps, over its own"
            )
        apart = [(row, _apart(row)) for row in found.steps]
        far = [
            f"{named(row.backend)} by {numbers.percent(abs(a))}" for row, a in apart if abs(a) > FAR
        ]
        if far:
            yield (
                f"predicted and measured differ: {', '.join(far)}; the layers were timed earlier, "
                "when the machine may have been faster or slower, and step by step with clocks"
            )
        return
    base = next((row for row in found.steps if row.backend == found.reference), None)
    rest = None if base is None else base.details.get("rest_seconds")
    if base is None or rest is None or rest <= 0:
        return
    yield (
        "predicted: the layers, each measured alone, and the rest of a step, that of the same "
        "line, from a profile"
    )
    yield (
        f"{numbers.seconds(rest)} of {base.backend}'s step, "
        f"{numbers.percent(rest / base.details['profiled_seconds'])}, is neither convolution nor "
        "max-pooling: no plan makes it faster"
    )


def _apart(row: Row) -> float:
    """Return the relative difference of the predicted time from the measured one."""
    predicted = row.details.get("predicted_seconds")
    return 0.0 if predicted is None or not row.seconds else predicted / row.seconds - 1


def parts_sheet(found: Recommendation) -> Sheet:
    """Return where the time of a PyTorch model's step goes, in each way of training.

    Each way's parts are scaled to its measured step: watching slows some operators down.
    """
    rows = [row for row in found.steps if row.backend in found.parts and row.seconds]
    of_ways = [_scaled(found.parts[row.backend], row.seconds or 0.0) for row in rows]
    kinds = [
        kind
        for kind in parts.KINDS
        if any(one.get(kind, 0.0) >= SHOWN * sum(one.values()) for one in of_ways)
    ]
    lines = [(kind, *(numbers.seconds(one.get(kind)) for one in of_ways)) for kind in kinds]
    small = [sum(one[kind] for kind in one if kind not in kinds) for one in of_ways]
    lines.append(("all others", *map(numbers.seconds, small)))
    lines.append(("together", *(numbers.seconds(row.seconds) for row in rows)))
    notes = ["operators timed one by one in watched steps, scaled to the step measured above"]
    if rows:
        rest = parts.rest(of_ways[-1])
        notes.append(
            f"{numbers.seconds(rest)} of {named(rows[-1].backend)}'s step, "
            f"{numbers.percent(rest / sum(of_ways[-1].values()))}, is PyTorch's own: no plan makes "
            "it faster"
        )
    return Sheet(
        f"Where a step's time goes, {threads_in_words(found.plan.threads)}",
        ("operators", *(named(row.backend) for row in rows)),
        tuple(lines),
        tuple(notes),
    )


def _scaled(seconds: Mapping[str, float], whole: float) -> dict[str, float]:
    """Return the parts of a step in proportion, so that together they take the whole."""
    factor = whole / sum(seconds.values())
    return {kind: factor * of_kind for kind, of_kind in seconds.items()}


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
