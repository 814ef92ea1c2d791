"""What is asked of a machine: a command of the suite, perhaps on some of its cases only.

Requests and answers are plain JSON, so that nothing of the project is pickled.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from cnnbench.cases import CaseSet

COMMANDS = ("check", "time", "train", "recommend")
"""The commands that a sweep takes."""

WITH_CASES = ("check", "time")
"""Those that can be asked of some cases only; the others compare everything side by side."""


class SweepError(RuntimeError):
    """A sweep cannot begin or go on; the message says what to do."""


@dataclass(frozen=True)
class Request:
    """A command line of the suite.

    Attributes
    ----------
    command : str
        One of `COMMANDS`.
    arguments : tuple of str
        Its options, as typed.
    cases : tuple of (str, str)
        The cases to measure: the name of each one's set, or '', and its descriptor. Empty for
        commands without cases.
    """

    command: str
    arguments: tuple[str, ...]
    cases: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, command: str, arguments: Sequence[str], sets: Iterable[CaseSet]) -> Request:
        """Return the request of a command line with these cases, each once."""
        cases = dict.fromkeys((group.name, str(case)) for group in sets for case in group.cases)
        return cls(command, tuple(arguments), tuple(cases))

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Request:
        """Return the request that `as_json` gave."""
        return cls(
            plain["command"],
            tuple(plain["arguments"]),
            tuple((name, descriptor) for name, descriptor in plain["cases"]),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the request as plain JSON."""
        return {
            "command": self.command,
            "arguments": list(self.arguments),
            "cases": [list(case) for case in self.cases],
        }

    def only(self, cases: Iterable[tuple[str, str]]) -> Request:
        """Return the request of these cases alone."""
        return replace(self, cases=tuple(cases))

    def command_line(self, folder: Path) -> list[str]:
        """Return the arguments of `cnnbench`, with cases in files in a folder.

        A set keeps its name as that of its file, so that its layers are summed as before.
        """
        words = [self.command, *self.arguments]
        if not self.cases:
            return words
        listed: dict[str, list[str]] = {}
        for name, descriptor in self.cases:
            listed.setdefault(name, []).append(descriptor)
        sources = listed.pop("", [])
        for name, descriptors in listed.items():
            path = folder / f"{name}.txt"
            path.write_text("".join(f"{line}\n" for line in descriptors), encoding="utf-8")
            sources.append(str(path))
        return [*words, "--cases", ",".join(sources)]
