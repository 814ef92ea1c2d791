"""HTML pages that open without a network: each in one file, or several in a site."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cnnkernels import files

COLOURS = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#B5A800",
    "#8C564B", "#7B5CD6", "#E0457B", "#3FBF3F", "#A06A00", "#1BA8A8",
)  # fmt: skip
"""Okabe and Ito's palette [1]_ for color-blind readers, then more for pages with many backends.

Black and yellow are replaced: they vanish on a dark or a light page.

References
----------
.. [1] M. Okabe, K. Ito, "Color Universal Design", 2008.
"""

SHAPES = (
    "circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down",
    "pentagon", "hexagon", "octagon", "hexagram", "star-triangle-up", "star-diamond",
)  # fmt: skip
"""Plotly's symbols, one for each color."""


class PageError(RuntimeError):
    """A page cannot be written; the message names the remedy."""


@dataclass(frozen=True)
class Site:
    """The site that a page belongs to, seen from the page.

    Attributes
    ----------
    script : str
        Relative address of Plotly's script, which the site's pages share.
    links : tuple of (str, str)
        Texts and relative addresses, shown above the page.
    """

    script: str
    links: tuple[tuple[str, str], ...]


def plotly_script() -> str:
    """Return Plotly's script.

    Raises
    ------
    PageError
        If plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise _not_installed(error) from None
    return str(get_plotlyjs())


def write(path: Path, template: str, site: Site | None = None, **values: Any) -> None:
    """Write a page atomically, creating its folder.

    Parameters
    ----------
    path : path
    template : str
        Template file below `cnnbench`; it extends ``report/base.html``.
    site : Site, optional
        Otherwise the page contains Plotly's script, and needs no other file.
    **values
        Variables of the template; text is escaped.

    Raises
    ------
    PageError
        If Jinja2 or plotly is not installed, or the file cannot be written.
    """
    try:
        import jinja2
    except ImportError as error:
        raise _not_installed(error) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnbench", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(
        site=site,
        plotly="" if site else plotly_script(),
        colours=COLOURS,
        shapes=SHAPES,
        **values,
    )
    try:
        files.require_writable(path)
        files.write(path, text)
    except files.WriteError as error:
        raise PageError(str(error)) from None


def _not_installed(error: ImportError) -> PageError:
    return PageError(
        f"the libraries for pages are not installed here ({error}): pip install 'cnnbench[report]'"
    )
