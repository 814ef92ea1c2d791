"""A recommendation as tables, and how to follow it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from cnnbench.recommending import NATIVE, Decision, Recommendation
from cnnbench.report import numbers
from cnnbench.report.tables import Sheet
from cnnkernels.registry import AUTO


def sheets(found: Recommendation) -> Iterator[Sheet]:
    """Yield who computes each layer, what each backend takes for all, and whole steps."""
    yield _layers(found)
    yield _totals(found)


def _layers(found: Recommendation) -> Sheet:
    lines = []
    notes = [f"{name}: left to PyTorch: {why}" for name, why in found.network.left]
    refused: dict[str, list[str]] = {}
    for decision in found.decisions:
        lines.append(_line(decision, found.baseline))
        for backend, why in decision.refused.items():
            refused.setdefault(f"{backend}: {why}", []).append(decision.layer.names[0])
    for reason, layers in refused.items():
        where = "" if len(layers) == len(found.decisions) else f" ({', '.join(layers)})"
        notes.append(reason + where)
    threads = "1 thread" if found.plan.threads == 1 else f"{found.plan.threads} threads"
    return Sheet(
        f"{found.network.name}: a forward and the backward that training needs, {threads}",
        ("layer", "calls", "chosen", "time", found.baseline, "times as fast", "why"),
        tuple(lines),
        tuple(notes),
    )


def _line(decision: Decision, baseline: str) -> tuple[str, ...]:
    name, calls = decision.layer.names[0], str(len(decision.layer.names))
    choice, base = decision.choice, decision.candidates.get(baseline)
    theirs = numbers.seconds(None if base is None else base.seconds)
    if choice is None:
        return name, calls, "none", "-", theirs, "-", "see below"
    return (
        name,
        calls,
        choice.backend,
        numbers.seconds(choice.seconds[choice.backend]),
        theirs,
        numbers.interval(choice.ratio, choice.low, choice.high),
        choice.why,
    )


def _totals(found: Recommendation) -> Sheet:
    steps = {row.backend: row for row in found.steps}
    backends = dict.fromkeys(
        [*(name for d in found.decisions for name in d.candidates), *steps, AUTO]
    )
    lines = []
    for name in backends:
        total = found.total(None if name == AUTO else name)
        row = steps.get(name)
        if total is None and row is None:
            continue
        cells = ["as planned" if name == AUTO else name, numbers.seconds(total)]
        if steps:
            predicted = row.details.get("predicted_seconds") if row else None
            cells += [
                numbers.seconds(predicted),
                numbers.seconds(row.seconds if row else None),
                numbers.interval(row.ratio, row.ratio_low, row.ratio_high) if row else "-",
                (row.verdict if row.outcome == "ok" else row.outcome) or "-" if row else "-",
            ]
        lines.append(tuple(cells))
    notes = [f"{row.backend}: {row.outcome}: {row.reason}" for row in steps.values() if row.reason]
    base = steps.get(found.baseline)
    if base is not None and base.details.get("rest_seconds") is not None and base.seconds:
        left = base.details["rest_seconds"]
        notes.append(
            f"{numbers.seconds(max(0.0, left))} of {found.baseline}'s step, "
            f"{numbers.percent(max(0.0, left) / base.seconds)}, is neither convolution nor "
            "pooling: no plan makes it faster"
        )
    if found.overheads:
        notes.append(
            f"a converted layer takes {numbers.seconds(found.overheads['converted'])} a step "
            f"beside its kernels, PyTorch's own {numbers.seconds(found.overheads['native'])}; "
            "both are counted"
        )
    columns = ["whole step", "these layers"]
    if steps:
        columns += ["predicted", "measured", f"vs {found.baseline}", "verdict"]
    return Sheet("Training steps", tuple(columns), tuple(lines), tuple(notes))


def how_to_follow(found: Recommendation, path: Path) -> list[str]:
    """Return what to write, in lines."""
    if not found.follow or {c.backend for c in found.plan.choices.values()} == {NATIVE}:
        return []
    if found.overheads:
        return [
            "import cnnkernels.torch, cnnkernels.plan",
            f'cnnkernels.torch.convert(model, cnnkernels.plan.load("{path}"))',
        ]
    return [
        f'cnnkernels.plan.use("{path}"), then backend="auto"; '
        f"or CNNKERNELS_PLAN={path} cnnbench train --backends auto"
    ]
