"""The answer of a recommendation: which way of training to take, or to keep."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from cnnbench import timing
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    COMPILED,
    COMPILED_PLAN,
    LAYOUTS,
    PINNED,
    Recommendation,
    named,
)
from cnnbench.report import numbers
from cnnbench.results import Row
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

SLOWEST_ACCEPTED = 0.98
"""A recommendation below this ratio to unchanged PyTorch is called slower."""


def conclude(found: Recommendation, floor: float) -> None:
    """Recommend what is certainly faster than the reference, else the reference.

    Of ways that cannot be told apart, the one without conversion, else the faster one. PyTorch's
    usual layout is kept only if no way is certainly faster than it.
    """
    if found.kind == "layers":
        _conclude_of_layers(found)
        return
    taken = found.taken
    references = LAYOUTS if found.kind == "model" else (found.baseline,)
    rivals = [row for row in taken if row.backend in references]
    allowed = [row for row in rivals if found.why_not(row.backend) is None]
    others = [row for row in taken if row not in rivals and found.why_not(row.backend) is None]

    def against(row: Row, other: Row) -> str:
        return timing.verdict(timing.ratio(row.measured, other.measured), floor)

    certain = [row for row in others if not allowed or against(row, allowed[0]) == "FASTER"]
    if certain:
        best = certain[0]
        unconverted = [row for row in certain if row.backend in (COMPILED, AUTOCAST)]
        if unconverted and against(best, unconverted[0]) != "FASTER":
            best = unconverted[0]
        if best.backend in (COMPILED, AUTOCAST):
            found.follow, found.stay = False, best.backend
        elif best.backend == COMPILED_PLAN:
            found.compiled = True
        elif best.backend != AUTO:
            found.plan = found.uniform(best.backend)
        ties = [r for r in certain if r is not best and against(r, best) in ("SAME", "UNCLEAR")]
        found.answer = _to_train_with(found, best, ties, allowed or rivals)
    elif allowed:
        as_it_is = next((row for row in allowed if row.backend == found.reference), allowed[0])
        if any(against(row, as_it_is) == "FASTER" for row in (allowed[0], *others)):
            as_it_is = allowed[0]
        ties = [r for r in allowed if r is not as_it_is and against(r, as_it_is) != "SLOWER"]
        found.follow, found.stay = False, as_it_is.backend
        found.plan = found.uniform(found.reference)
        found.answer = _to_stay(found, as_it_is, ties, others, against)
    else:
        found.follow = False
        reasons = [
            f"{row.backend}: {row.reason or found.why_not(row.backend)}" for row in found.steps
        ]
        found.answer = (
            f"None of the allowed ways to train {found.network.name} could be measured: "
            f"{'; '.join(reasons)}."
        )


def _to_train_with(
    found: Recommendation, best: Row, ties: Sequence[Row], rivals: Sequence[Row]
) -> str:
    how = best.backend if found.stay else _words(found.plan)
    if found.compiled:
        how += ", under torch.compile"
    text = f"Train {found.network.name} with {how}: {numbers.seconds(best.seconds)} a step"
    if rivals:
        rival, reason = rivals[0], found.why_not(rivals[0].backend)
        text += f", {_apart(best, rival)} as fast as {rival.backend}"
        if reason is not None:
            text += f", which is not to be chosen ({reason})"
            if timing.ratio(best.measured, rival.measured).value < SLOWEST_ACCEPTED:
                text += ": slower, as asked for"
    if ties:
        text += f"; no certain difference from {_listed(ties)}"
    return text + "."


def _to_stay(
    found: Recommendation,
    best: Row,
    ties: Sequence[Row],
    others: Sequence[Row],
    against: Callable[[Row, Row], str],
) -> str:
    text = (
        f"Stay with {best.backend} for {found.network.name}: {numbers.seconds(best.seconds)} a step"
    )
    if ties:
        text += f"; no certain difference from {_listed(ties)}"
    if others:
        following = others[0]
        is_slower = against(following, best) == "SLOWER"
        how = "slower" if is_slower else f"not certainly {100 * timing.RELEVANT:.0f} % faster"
        way, apart = named(following.backend), _apart(following, best)
        text += f"; {way}, the next, is {how}: {apart} as fast"
    return text + "."


def _conclude_of_layers(found: Recommendation) -> None:
    name, base = found.network.name, found.baseline
    layers, theirs = found.total(AUTO), found.total(base)
    found.follow = {choice.backend for choice in found.plan.choices.values()} != {base}
    gain = ""
    if layers is not None and theirs is not None:
        gain = f": {numbers.seconds(layers)} a step, {numbers.seconds(theirs)} with {base}"
    if found.follow:
        found.answer = (
            f"For {name} take {_words(found.plan)}{gain}; no whole step was measured, as these are "
            "layers alone."
        )
    else:
        found.stay, found.plan.fallback = base, base
        found.answer = f"For {name} stay with {base}: no other backend is faster on any layer."


def _listed(rows: Sequence[Row]) -> str:
    return " and ".join(f"{named(row.backend)} ({numbers.seconds(row.seconds)})" for row in rows)


def _apart(one: Row, other: Row) -> str:
    found = timing.ratio(one.measured, other.measured)
    return numbers.interval(*found.known())


def _words(plan: Plan) -> str:
    counts: dict[str, int] = {}
    for choice in plan.choices.values():
        counts[choice.backend] = counts.get(choice.backend, 0) + 1
    pinned = sum(choice.why == PINNED for choice in plan.choices.values())
    as_pinned = f" ({pinned} pinned)" if pinned else ""
    if len(counts) == 1:
        return f"{next(iter(counts))} for every layer{as_pinned}"
    parts = sorted(counts, key=lambda name: -counts[name])
    of_each = ", ".join(f"{name} for {counts[name]}" for name in parts)
    return f"a mix, {of_each} problems{as_pinned}"
