"""HTML pages that open anywhere, without a network: what they need is in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cnnkernels import files

COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#999999", "#B5A800")
"""Okabe and Ito's [1]_, which colour-blind people tell apart; black and yellow, which a dark or a
light page swallows, are replaced.

References
----------
.. [1] M. Okabe, K. Ito, "Color Universal Design", 2008.
"""

SHAPES = ("circle", "square", "diamond", "triangle-up", "cross", "x", "star", "triangle-down")
"""Plotly's symbols: a shape for each colour."""


class PageError(RuntimeError):
    """A page cannot be written; the message says what to do."""


def write(path: Path, template: str, **values: Any) -> None:
    """Write a page, whole or not at all; make its folder.

    Parameters
    ----------
    path : path
    template : str
        Its file below `cnnbench`: it extends ``report/base.html``.
    **values
        What the template names; text is escaped.

    Raises
    ------
    PageError
        If the libraries for it are not installed, or the file cannot be written.
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
