"""Generates the tables of documents from committed results, so no figure is typed by hand.

A table stands between two comments. The first names its file and kind::

    <!-- table: ../results/some-machine/compare-digits-2026-01-31.json train -->
    ...
    <!-- end of table -->

The kinds ``networks`` and ``models`` take a folder with all machines' results. ``sums`` has the
lowest thread count only.

``python -m cnnbench.report.readme docs/training.md`` regenerates the text between them.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from pathlib import Path

from cnnbench import results
from cnnbench.recommend import recommendation
from cnnbench.report import models, networks, numbers, tables, verdicts
from cnnbench.report.answer import answer, busy, evidence
from cnnbench.report.recommendation import parts_sheet, steps_sheet
from cnnkernels import files

_TABLE = re.compile(
    r"(<!-- table: (?P<path>\S+) (?P<kind>\S+) -->\n).*?(<!-- end of table -->)", re.DOTALL
)

_OF_ALL = {"networks": networks.sheet, "models": models.sheet}
"""Tables of all machines' results, by kind."""


def rendered(text: str, root: Path) -> str:
    """Return a document with regenerated tables.

    Parameters
    ----------
    text : str
        The document.
    root : path
        Folder that the tables' file names are relative to.
    """

    def table(found: re.Match[str]) -> str:
        path = root / found["path"]
        if path.is_dir():
            text = tables.markdown(_OF_ALL[found["kind"]](path))
        else:
            text = _table(results.read(path), found["kind"])
        return f"{found[1]}\n{text}\n{found[4]}"

    return _TABLE.sub(table, text)


def _table(run: results.Run, kind: str) -> str:
    where = run.environment
    machine = f"{where['cpu']}, {numbers.cores(where)}, {where['started'][:10]}"
    if kind == "train":
        sheet = tables.train_sheet(run.rows)
    elif kind == "verdicts":
        sheet = verdicts.sheet(run)
        sheet = dataclasses.replace(sheet, notes=(*sheet.notes, *busy(run)))
    elif kind == "check":
        layers = [row for row in run.rows if row.op != "train" and row.problem]
        return "\n".join(map(tables.markdown, tables.check_sheets(layers)))
    elif kind == "sums":
        sums = [row for row in run.rows if row.op != "train" and not row.problem]
        fewest = min((row.threads for row in sums), default=0)
        sums = [row for row in sums if row.threads == fewest]
        sheets = [tables.markdown(sheet) for sheet in tables.time_sheets(sums)]
        return "\n".join([*sheets, f"> ({machine})"]) + "\n"
    elif kind == "answer":
        floor = run.floors[run.rows[-1].threads]
        lines = [f"> {answer(run.rows, floor)}", ">"]
        lines += [f"> - {line}" for line in (*busy(run), *evidence(run.rows, floor))]
        return "\n".join([*lines, ">", f"> ({machine})"]) + "\n"
    elif kind == "steps":
        found = recommendation.kept(run)
        if found is None or not found.steps:
            raise ValueError(f"table: {run.paths[0]} has no training steps of cnnbench recommend")
        text = tables.markdown(steps_sheet(found))
        if found.parts:
            text += "\n" + tables.markdown(parts_sheet(found))
        return f"{text}\n> {found.answer}\n>\n> ({machine})\n"
    else:
        known = "'train', 'check', 'sums', 'answer', 'steps' or 'verdicts'"
        raise ValueError(f"table: expected {known}, got {kind!r}")
    return tables.markdown(sheet)


def main() -> None:
    """Regenerate the tables of the documents named on the command line."""
    for name in sys.argv[1:]:
        path = Path(name)
        text = path.read_text(encoding="utf-8")
        try:
            files.write(path, rendered(text, path.parent))
        except files.WriteError as error:
            sys.exit(f"readme: {error}")


if __name__ == "__main__":
    main()
