"""The sentence that ends a comparison, and its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cnnbench import timing
from cnnbench.digits.trainers import PROGRAMS, is_pytorch
from cnnbench.report import numbers
from cnnbench.results import Row, Run
from cnnbench.words import counted

BUSY = 0.1
"""The fraction of a machine's time above which other programs disturb a measurement."""


def answer(rows: Sequence[Row], floor: float) -> str:
    """Return which backend to train the digits CNN with, and by how much.

    The lead over PyTorch is that over its fastest way of training, among backends and programs.
    Programs can train only this CNN, so the fastest one is named separately.

    Parameters
    ----------
    rows : sequence of Row
        Rows of one thread count, including trainings.
    floor : float
        The A/A floor: smaller differences are noise.
    """
    trained = sorted(
        (row for row in rows if row.op == "train" and row.outcome == "ok" and row.samples),
        key=lambda row: row.seconds or 0.0,
    )
    programs = [row for row in trained if row.backend in PROGRAMS]
    backends = [row for row in trained if row not in programs]
    sentences = [_recommendation(backends, floor)]
    rival = next((row for row in trained if is_pytorch(row.backend)), None)
    if rival is not None and backends and not is_pytorch(backends[0].backend):
        apart = timing.ratio(backends[0].measured, rival.measured)
        sentences.append(
            f"{backends[0].backend} is {numbers.interval(*apart.known())} as fast as PyTorch's "
            f"fastest way here, {rival.backend}."
        )
    if programs:
        sentences.append(
            f"The fastest program for this CNN alone is {programs[0].backend}: "
            f"{numbers.seconds(programs[0].seconds)}."
        )
    return " ".join(sentences)


def _recommendation(trained: Sequence[Row], floor: float) -> str:
    """Return the sentence about backends; `trained` has the fastest first."""
    if not trained:
        return "No backend trained the digits CNN to the end here, so none can be recommended."
    best, *others = trained
    threads, epochs = best.threads, len(best.details["epochs"])
    run = (
        f"{numbers.seconds(best.seconds)} for {counted(epochs, 'epoch')} "
        f"on {counted(threads, 'thread')}"
    )
    accuracy = f"test accuracy {100 * best.details['test_accuracy']:.1f} %"
    if not others:
        return (
            f"Train with {best.backend} here: {run}, {accuracy}; "
            "no other backend trained to the end."
        )
    following = others[0]
    found = timing.ratio(best.measured, following.measured)
    if found.value < 1.0:  # the shared rounds reverse the order
        return _recommendation([following, best], floor)
    apart = numbers.interval(*found.known())
    if timing.verdict(found, floor) == "FASTER":
        return (
            f"Train with {best.backend} here: {run}, {apart} as fast as {following.backend}, "
            f"the next best; {accuracy}."
        )
    return (
        f"Train with {best.backend} or {following.backend} here: {run} with the first, {apart} as "
        f"fast as the second, too close to call; {accuracy}."
    )


def checks(rows: Sequence[Row]) -> str:
    """Return the number of passed checks and the largest error."""
    passed = sum(row.outcome == "ok" for row in rows)
    skipped = sum(row.skipped for row in rows)
    refused = sum(row.outcome == "unsupported" for row in rows) - skipped
    slow = f", {skipped} skipped as too slow" if skipped else ""
    worst = max((row.error_over_bound or 0.0 for row in rows), default=0.0)
    return (
        f"{counted(passed, 'check')} passed, {len(rows) - passed - refused - skipped} wrong or "
        f"failed, {refused} not supported here{slow}; "
        f"the largest error is {numbers.of_bound(worst)} times direct's rounding bound"
    )


def busy(run: Run) -> list[str]:
    """Return warnings if the machine was busy, so that no number can be trusted."""
    lines = []
    for count, floor in run.floors.items():
        warning = timing.busy_warning(floor)
        if warning is not None:
            where = f" ({counted(count, 'thread')})" if len(run.floors) > 1 else ""
            lines.append(warning + where)
    taken = run.environment.get("taken_by_others")
    if taken is not None and taken > BUSY:
        lines.append(
            f"Other programs took {100 * taken:.0f} % of this machine's time meanwhile. "
            "Close them and measure again."
        )
    return lines


def evidence(rows: Sequence[Row], floor: float) -> list[str]:
    """Return the evidence for the answer: the checks and the A/A floor.

    With trainings, only the checks at their thread count are included.
    """
    lines = []
    trained = {row.threads for row in rows if row.op == "train"}
    checked = [
        row
        for row in rows
        if row.op != "train" and row.problem and (not trained or row.threads in trained)
    ]
    if checked:
        lines.append(checks(checked))
    if math.isnan(floor):
        return [*lines, "A/A floor: not measured"]
    return [
        *lines,
        f"A/A floor {numbers.floor(floor)}: two identical runs differed by up to that much, so "
        "smaller differences are noise",
    ]
