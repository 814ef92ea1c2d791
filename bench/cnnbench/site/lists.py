"""Markdown pages that list committed results, by network and by kernel.

``results/README.md`` lists them by machine. ``docs/conf.py`` writes these pages before Sphinx reads
the documents.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

from cnnbench import results
from cnnbench.cases import SETS
from cnnbench.report import index, networks, numbers, page, tables, verdicts
from cnnbench.report.charts import drawing
from cnnbench.report.tables import Sheet
from cnnbench.results import Run
from cnnbench.sums import set_name_of
from cnnkernels import files, registry
from cnnkernels.contract import Unsupported

_LAYERS = ("conv2d", "max_pool2d")

_RUN = re.compile(r"\[([^\]]+)\]\(([^)]+)\.json\)")

_EXPLAINED = {
    "numba-simd": "numba_simd",
    "numba-winograd-f4": "numba_winograd",
    "numba-winograd-f2": "numba_winograd",
}
"""Folders of convolution kernels with a page of their own."""


class Committed:
    """The committed results.

    Attributes
    ----------
    folder : path
        Has a folder for each machine.
    runs : list of Run
    newest : dict of str to dict of str to dict of int to Run
        The newest timing of each network, by machine, network and thread count.
    """

    def __init__(self, folder: Path) -> None:
        found = index.by_machine(folder)
        self.folder = folder
        self.runs = [run for runs in found.values() for run in runs]
        self.newest = {machine.name: networks.newest(runs) for machine, runs in found.items()}

    def networks(self) -> dict[str, list[Run]]:
        """Return the runs that have sums, trainings or steps of each network, known sets first."""
        found: dict[str, list[Run]] = {name: [] for name in SETS}
        for run in self.runs:
            whole = (row for row in run.rows if not row.problem or row.op in ("train", "step"))
            names = dict.fromkeys(set_name_of(row.case) for row in whole)
            for name in () if verdicts.copies(run) else names:
                found.setdefault(name, []).append(run)
        return {name: runs for name, runs in found.items() if runs}

    def kernels(self) -> dict[str, list[Run]]:
        """Return the runs in which each backend of this project computed a layer."""
        found: dict[str, list[Run]] = {name: [] for name in registry.names()}
        for run in self.runs:
            names = {row.backend for row in run.rows if row.op in _LAYERS and row.outcome == "ok"}
            for name in names & found.keys():
                found[name].append(run)
        return {name: runs for name, runs in found.items() if runs}

    def timings(self, network: str) -> dict[str, dict[int, Run]]:
        """Return a network's newest timings by thread count, on each machine that has any."""
        return {machine: of[network] for machine, of in self.newest.items() if network in of}


def side_by_side(network: str) -> str:
    """Return the name of the page, among the results, with a network's times on all machines."""
    return f"side-by-side-{results.slug(network)}.html"


def to_pages(text: str) -> str:
    """Return Markdown whose links to runs lead to their pages instead of their files.

    These pages are made after the documents, so the links are HTML, which Sphinx doesn't check.
    """
    return _RUN.sub(r'<a href="\2.html">\1</a>', text)


def write(found: Committed, into: Path) -> None:
    """Write a page for each network and each kernel into a folder, in place of earlier ones."""
    into.mkdir(parents=True, exist_ok=True)
    for earlier in into.glob("*.md"):
        earlier.unlink()
    for name, runs in found.networks().items():
        text = to_pages(_network(name, runs, found, into))
        files.write(into / f"network-{results.slug(name)}.md", text)
    for name, runs in found.kernels().items():
        text = to_pages(_kernel(name, runs, found, into))
        files.write(into / f"kernel-{results.slug(name)}.md", text)


def _network(name: str, runs: list[Run], found: Committed, into: Path) -> str:
    parts = [f"# {name}\n", *_tables(runs, into)]
    timings = found.timings(name)
    if len(timings) > 1:
        address = os.path.relpath(found.folder / side_by_side(name), into)
        parts.append(f'<a href="{address}">All machines side by side</a>\n')
    for machine, of in timings.items():
        rows = [row for threads, run in of.items() for row in networks.sums(run, name, threads)]
        headline = page.headline(replace(next(iter(of.values())), rows=rows))
        parts.append(f"## All layers on {machine}\n\n{headline}\n")
        parts += map(tables.markdown, tables.time_sheets(rows))
    return "\n".join(parts)


def _kernel(name: str, runs: list[Run], found: Committed, into: Path) -> str:
    parts = [f"# {name}\n"]
    with contextlib.suppress(Unsupported):  # perhaps it ran on other machines only
        parts.append(f"{registry.load(name).description}\n")
    if name in _EXPLAINED:
        root = found.folder.parent
        readme = root / "kernels/cnnkernels/convolution" / _EXPLAINED[name] / "README.md"
        parts.append(f"[How it works]({os.path.relpath(readme, into)})\n")
    lines = tuple(_speeds(name, found))
    if lines:
        columns = ("all layers of", "threads", *found.newest)
        quick = any("*" in cell for line in lines for cell in line)
        notes = ("* a quick look, without a verdict",) if quick else ()
        sheet = Sheet("Speed relative to torch-cpu", columns, lines, notes, len(columns))
        parts.append(tables.markdown(sheet))
    return "\n".join([*parts, *_tables(runs, into)])


def _tables(runs: Iterable[Run], into: Path) -> Iterator[str]:
    """Yield a heading and a table of runs for each machine."""
    for machine, of in itertools.groupby(runs, key=lambda run: run.paths[0].parent.name):
        lines = "".join(f"{index.line(run, into)}\n" for run in of)
        yield f"## Runs on {machine}\n\n{index.COLUMNS}{lines}"


def _speeds(name: str, found: Committed) -> Iterator[tuple[str, ...]]:
    """Yield lines: work, thread count, and the backend's ratio to torch-cpu on each machine."""
    cells: dict[tuple[str, int], dict[str, str]] = {}
    for network in SETS:
        for machine, timings in found.timings(network).items():
            for threads, run in timings.items():
                for row in networks.sums(run, network, threads):
                    if row.backend != name or not row.ratio:
                        continue
                    work = f"{network}, {drawing.named(row.op, row.direction).lower()}"
                    ratio = numbers.interval(row.ratio, row.ratio_low, row.ratio_high)
                    verdict = "*" if index.is_quick(run) else f" {row.verdict or ''}"
                    cells.setdefault((work, threads), {})[machine] = f"{ratio}{verdict}"
    for (work, threads), of in cells.items():
        if name != "torch-cpu":
            yield work, str(threads), *(of.get(machine, "-") for machine in found.newest)
