"""Self-contained HTML pages that open without a network."""

from __future__ import annotations

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


def write(path: Path, template: str, **values: Any) -> None:
    """Write a page atomically, creating its folder.

    Parameters
    ----------
    path : path
    template : str
        Template file below `cnnbench`; it extends ``report/base.html``.
    **values
        Variables of the template; text is escaped.

    Raises
    ------
    PageError
        If Jinja2 or plotly is not installed, or the file cannot be written.
    """
    try:
        import jinja2
        from plotly.offline import get_plotlyjs
    except ImportError as error:
        raise PageError(
            f"the libraries for pages are not installed here ({error}): "
            "pip install 'cnnbench[report]'"
        ) from None
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("cnnbench", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    text = environment.get_template(template).render(
        plotly=get_plotlyjs(), colours=COLOURS, shapes=SHAPES, **values
    )
    try:
        files.require_writable(path)
        files.write(path, text)
    except files.WriteError as error:
        raise PageError(str(error)) from None
