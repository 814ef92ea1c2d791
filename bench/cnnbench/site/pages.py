"""Pages of the site that Sphinx doesn't build: of each committed run, and of the history."""

from __future__ import annotations

import shutil
from pathlib import Path

from cnnbench.history import asv, series
from cnnbench.history import page as history_page
from cnnbench.report import offline, page
from cnnbench.site import lists
from cnnkernels import files

SCRIPT = "_static/plotly.min.js"
"""Address of Plotly's script in the site."""


def write_script(out: Path) -> None:
    """Write Plotly's script, which the tutorial and all pages below share."""
    (out / SCRIPT).parent.mkdir(parents=True, exist_ok=True)
    files.write(out / SCRIPT, offline.plotly_script())


def write(found: lists.Committed, out: Path) -> None:
    """Write a page for each run, beside a copy of its file, and what compares several.

    Parameters
    ----------
    found : Committed
    out : path
        The built site.
    """
    for run in found.runs:
        (path,) = run.paths
        folder = out / "results" / path.parent.name
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, folder / path.name)
        links = (("This run as JSON", path.name),)
        page.write(run, folder / f"{path.stem}.html", site=_site("../../", links))
    for name in found.networks():
        timings = [next(iter(of.values())) for of in found.timings(name).values()]
        if len(timings) > 1:
            target = out / "results" / lists.side_by_side(name)
            page.write_machines(timings, target, site=_site("../"))
    history = series.read(asv.root(), found.folder / "asv")
    history_page.write(history, out / "history.html", _site(""))


def _site(top: str, links: tuple[tuple[str, str], ...] = ()) -> offline.Site:
    """Return the site as seen from a page, given the relative address of the site's top."""
    home = (("cnnbench", f"{top}README.html"), ("Results", f"{top}results/README.html"))
    return offline.Site(f"{top}{SCRIPT}", (*home, *links))
