"""The one sentence a comparison ends in, and the evidence for it."""

from __future__ import annotations

from collections.abc import Sequence

from cnnbench import timing
from cnnbench.digits.trainers import PROGRAMS
from cnnbench.report import numbers
from cnnbench.results import Row


def answer(rows: Sequence[Row], floor: float) -> str:
    """Return which backend to train the digits CNN with, and by how much.

    Programs train nothing but this CNN: the fastest is named beside the answer.

    Parameters
    ----------
    rows : sequence of Row
        Of one thread count; trainings among them.
    floor : float
        The A/A floor: differences below it are none.
    """
    trained = sorted(
        (row for row in rows if row.op == "train" and row.outcome == "ok" and row.samples),
        key=lambda row: row.seconds or 0.0,
    )
    programs = [row for row in trained if row.backend in PROGRAMS]
    sentences = [_recommendation([row for row in trained if row not in programs], floor)]
    if programs:
        sentences.append(
            f"Of the programs for this CNN alone, {programs[0].backend} is the fastest: "
            f"{numbers.seconds(programs[0].seconds)}."
        )
    return " ".join(sentences)


def _recommendation(trained: Sequence[Row], floor: float) -> str:
    """Return the sentence about backends, the fastest first."""
    if not trained:
        return "No backend trained the digits CNN to the end here, so none can be recommended."
    best, *others = trained
    threads = "1 thread" if best.threads == 1 else f"{best.threads} threads"
    run = f"{numbers.seconds(best.seconds)} for {len(best.details['epochs'])} epochs on {threads}"
    accuracy = f"{100 * best.details['test_accuracy']:.1f} % right on the test images"
    if not others:
        return (
            f"Train with {best.backend} here: {run}, {accuracy}; "
            "no other backend trained to the end."
        )
    following = others[0]
    found = timing.ratio(best.samples, following.samples)
    if found.value < 1.0:  # in the rounds of both, it was the other way round
        return _recommendation([following, best], floor)
    apart = numbers.interval(*found.known())
    if timing.verdict(found, floor) == "FASTER":
        return (
            f"Train with {best.backend} here: {run}, {apart} as fast as {following.backend}, "
            f"the next; {accuracy}."
        )
    return (
        f"Train with {best.backend} or {following.backend} here: {run} with the first, and "
        f"{apart} as fast as the second, which this machine cannot tell apart; {accuracy}."
    )


def checks(rows: Sequence[Row]) -> str:
    """Return how many checks passed, and the largest error."""
    passed = sum(row.outcome == "ok" for row in rows)
    refused = sum(row.outcome == "unsupported" for row in rows)
    worst = max((row.error_over_bound or 0.0 for row in rows), default=0.0)
    return (
        f"{passed} checks passed, {len(rows) - passed - refused} wrong or failed, "
        f"{refused} not supported here; "
        f"the largest error is {numbers.of_bound(worst)} of what rounding can make"
    )


def evidence(rows: Sequence[Row], floor: float) -> list[str]:
    """Return what the answer stands on: checks passed, and how finely this machine can tell.

    Where there are trainings, those checks count that were of as many threads.
    """
    lines = []
    if floor > timing.UNSTEADY:
        lines.append(
            "THIS MACHINE WAS NOT QUIET: equal programs differed more than programs worth "
            "comparing do; end what else runs, and measure again"
        )
    trained = {row.threads for row in rows if row.op == "train"}
    checked = [
        row
        for row in rows
        if row.op != "train" and row.problem and (not trained or row.threads in trained)
    ]
    return [
        *lines,
        checks(checked),
        f"two identical sides differ by up to {numbers.floor(floor)} on this machine (A/A floor)",
    ]
