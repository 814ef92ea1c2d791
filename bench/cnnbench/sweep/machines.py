"""The machines of a sweep: what they are, which are alike, and whether their versions agree."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cnnbench.sweep.coordinator import Task

About = dict[str, Any]
"""What `cnnbench.sweep.remote.describe` tells of a machine."""


@dataclass(eq=False)
class Machine:
    """A machine with its workers.

    Attributes
    ----------
    name : str
        From its processor; a number tells it apart from others of that name.
    about : dict
    workers : set of str
        Addresses of its workers; empty while it is away.
    task : Task or None
        What it measures now. It is one task, however many workers the machine has.
    seen : float
        When it last had a worker, by the monotonic clock.
    state : str
        What it does, in words.
    """

    name: str
    about: About
    workers: set[str] = field(default_factory=set)
    task: Task | None = None
    seen: float = 0.0
    state: str = ""


def alike(one: About, other: About) -> bool:
    """Return whether two machines have one fingerprint."""
    return bool(one["fingerprint"] == other["fingerprint"])


def apart(one: About, other: About) -> list[str]:
    """Return the parts of the fingerprint in which two machines differ."""
    mine, theirs = one["fingerprint"], other["fingerprint"]
    return [key for key in {**mine, **theirs} if mine.get(key) != theirs.get(key)]


def other_versions(about: About, here: About) -> list[str]:
    """Return in words how a machine's commit and libraries differ from those here."""
    theirs, mine = ({"commit": of["commit"], **of["versions"]} for of in (about, here))
    return [
        f"{name} {theirs.get(name) or 'missing'} (here {mine.get(name) or 'missing'})"
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name)
    ]
