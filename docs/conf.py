"""Sphinx's configuration of the site, which `make site` builds from this repository's documents."""

import functools
import os
import re
from pathlib import Path

import cnnbench
from cnnbench.site import lists, pages

ROOT = Path(__file__).parents[1]

project = "cnnbench"
author = "The cnnbench developers"
copyright = author
release = cnnbench.__version__
extensions = [
    "myst_nb",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
]

# The source folder is the repository, so that links between documents work in both places.
root_doc = "README"
include_patterns = [
    "*.md",
    "docs/*.md",
    "docs/results/*.md",
    "docs/api/*.rst",
    "docs/tutorial/tutorial.py",
    "kernels/**/*.md",
    "results/README.md",
]
templates_path = [str(ROOT / "docs/templates")]
myst_heading_anchors = 3

# The tutorial runs when it has changed since the last build.
nb_custom_formats = {".py": ["jupytext.reads", {"fmt": "py:percent"}]}
nb_execution_mode = "cache"
nb_execution_cache_path = str(ROOT / ".cnnbench/notebooks")
nb_execution_timeout = 300
nb_execution_raise_on_error = True
nb_merge_streams = True
os.environ["PLOTLY_RENDERER"] = "notebook_connected"

autosummary_generate = ["docs/api.md"]
default_role = "py:obj"
numpydoc_show_class_members = False

html_theme = "furo"
html_title = "cnnbench"
html_show_sphinx = False
html_show_sourcelink = False
html_additional_pages = {"index": "index.html"}

TUTORIAL = "docs/tutorial/tutorial"

CONTENTS = {
    "README": """
```{toctree}
:hidden:
:caption: Use it
Tutorial <docs/tutorial/tutorial>
docs/commands
docs/training
docs/backends
docs/measuring
docs/sweeps
docs/history
results/README
```

```{toctree}
:hidden:
:caption: Kernels
kernels/cnnkernels/convolution/numba_simd/README
kernels/cnnkernels/convolution/numba_simd/TRIED
kernels/cnnkernels/convolution/numba_winograd/README
docs/api
```

```{toctree}
:hidden:
:caption: The project
CONTRIBUTING
ARCHITECTURE
CHANGELOG
```
""",
    "docs/history": """
<a href="../history.html">The history page</a> has the curves of all committed measurements.
""",
    "results/README": """
## Performance history

<a href="../history.html">The history page</a> has a curve for each benchmark and backend.

```{toctree}
:caption: By network
:glob:
../docs/results/network-*
```

```{toctree}
:caption: By kernel
:glob:
../docs/results/kernel-*
```
""",
}
"""What only the site adds to documents: tables of contents, and links to its other pages."""

_OTHER_SCRIPT = re.compile(r"\]\((?!\S*tutorial\.py)(\S+\.py)\)")
"""A link to a file that is to be downloaded; Sphinx takes any .py for a document."""

_SCRIPT_FROM_NETWORK = re.compile(r'<script\b[^>]*>(\s*import "https:[^"]*"\s*)?</script>')
"""Plotly's charts bring two; an inner one would not be empty."""


@functools.cache
def committed():
    """Return the committed results, read once."""
    return lists.Committed(ROOT / "results")


def write_lists(app):
    """Write the lists of committed results, and the script of the tutorial's charts."""
    lists.write(committed(), ROOT / "docs/results")
    pages.write_script(Path(app.outdir))


def add_contents(_app, docname, source):
    """Append to a document what only the site has, and make links right for the site."""
    text = lists.to_pages(source[0]) if docname == "results/README" else source[0]
    source[0] = _OTHER_SCRIPT.sub(r"](path:\1)", text) + CONTENTS.get(docname, "")


def use_own_script(_app, pagename, _template, context, _doctree):
    """Let the tutorial's charts use the site's script instead of one from the network."""
    if pagename == TUTORIAL:
        script = f'<script src="{context["pathto"](pages.SCRIPT, resource=True)}"></script>'
        context["body"] = script + _SCRIPT_FROM_NETWORK.sub("", context["body"])


def write_pages(app, error):
    """Write the pages of runs into the built site."""
    if error is None:
        pages.write(committed(), Path(app.outdir))


def setup(app):
    """Connect this file's functions to the stages of a build."""
    app.connect("builder-inited", write_lists, priority=100)
    app.connect("source-read", add_contents)
    # Numpydoc looks for signatures in docstrings. Ours have none, and it fails on aliases of types.
    for listener in app.events.listeners["autodoc-process-signature"]:
        app.disconnect(listener.id)
    app.connect("html-page-context", use_own_script)
    app.connect("build-finished", write_pages)
