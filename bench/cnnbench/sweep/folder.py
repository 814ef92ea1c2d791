"""A sweep's folder: what was asked, a journal of the rows that came home, and a run a machine.

The journal is written row by row, so that nothing is lost however the sweep ends. The runs are the
files that other commands read; they are written from time to time, and at the end.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cnnbench.results import ResultsError, fresh_folder
from cnnkernels import files

ASKED, JOURNAL = "sweep.json", "rows.jsonl"


class Folder:
    """A sweep's folder.

    Parameters
    ----------
    path : path
    asked : dict
        The sweep, as JSON: see `cnnbench.sweep.coordinator`.

    Attributes
    ----------
    trouble : str
        Why rows are in memory alone, or ''.
    """

    def __init__(self, path: Path, asked: dict[str, Any]) -> None:
        self.path, self.asked, self.trouble = path, asked, ""
        self._unwritten: list[str] = []

    @classmethod
    def new(cls, parent: Path, command: str, subject: str, asked: dict[str, Any]) -> Folder:
        """Create a folder for a sweep.

        Raises
        ------
        ResultsError
            If it cannot be created.
        """
        made = cls(fresh_folder(parent, f"sweep-{command}", subject), asked)
        made.ask(asked)
        return made

    @classmethod
    def open(cls, path: Path) -> Folder:
        """Open the folder of an earlier sweep.

        Raises
        ------
        ResultsError
            If it is none.
        """
        try:
            return cls(path, json.loads((path / ASKED).read_text(encoding="utf-8")))
        except (OSError, ValueError) as error:
            raise ResultsError(
                f"--resume: expected the folder of a sweep, with {ASKED}; got {path} ({error})"
            ) from None

    def ask(self, asked: dict[str, Any]) -> None:
        """Write what is asked, with the shares of the machines so far."""
        self.asked = asked
        with contextlib.suppress(files.WriteError):  # the journal tells of a full disk
            files.write(self.path / ASKED, json.dumps(asked, indent=1))

    def entries(self) -> Iterator[dict[str, Any]]:
        """Yield what the journal has; a last line that was cut off is left out."""
        path = self.path / JOURNAL
        if not path.exists():
            return
        with path.open(encoding="utf-8") as file:
            for line in file:
                with contextlib.suppress(ValueError):
                    yield json.loads(line)

    def note(self, entry: dict[str, Any]) -> None:
        """Add an entry to the journal; what cannot be written is kept for the next time."""
        self._unwritten.append(json.dumps(entry) + "\n")
        try:
            self._append("".join(self._unwritten))
        except OSError as error:
            self.trouble = f"{self.path / JOURNAL}: {error.strerror}"
        else:
            self._unwritten.clear()
            self.trouble = ""

    def _append(self, text: str) -> None:
        with (self.path / JOURNAL).open("a", encoding="utf-8") as file:
            file.write(text)

    def rescue(self) -> Path:
        """Write the whole journal to the folder for temporary files, and return its path."""
        with tempfile.NamedTemporaryFile(
            "w", prefix="cnnbench-rows-", suffix=".jsonl", delete=False, encoding="utf-8"
        ) as file:
            for entry in self.entries():
                file.write(json.dumps(entry) + "\n")
            file.write("".join(self._unwritten))
        return Path(file.name)
