"""Draws the README's figure from committed results: an SVG for light and dark pages.

``python -m cnnbench.report.figure TRAINED TIMED FIGURE`` draws two panels. The first shows each
backend's training time for the digits CNN, from a `compare` or `train` run. The second shows each
backend's convolution rates for a network on one thread, from a `time` run.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from cnnbench import results
from cnnbench.report import numbers
from cnnbench.report.tables import threads_in_words
from cnnbench.results import Row, Run
from cnnbench.sums import set_name_of
from cnnbench.words import counted
from cnnkernels import files

_WIDTH, _LINE, _LABELS, _GAP = 430, 22, 168, 50

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 } .note { fill: #59636e; font-size: 12px }
.bar { fill: #8c959f } .ours { fill: #0969da } .peak { stroke: #d1242f; stroke-dasharray: 4 3 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 }
  .bar { fill: #656c76 } .ours { fill: #4493f8 } .peak { stroke: #f85149 }
}
"""

_OURS = "numba"
"""Begins the names of this project's fast backends and programs, whose bars have a color."""


class _Bar(NamedTuple):
    label: str
    length: float
    value: str
    ours: bool


class _Panel(NamedTuple):
    title: str
    note: str
    bars: Sequence[_Bar]
    most: float
    """The value of a bar of full width."""
    limit: tuple[float, str] | None = None
    """Position and name of a limit."""


def training(run: Run) -> _Panel:
    """Return the panel of training times, without unfinished trainings."""
    threads = max(row.threads for row in run.rows if row.op == "train")
    rows = sorted(
        (
            row
            for row in run.rows
            if row.op == "train" and row.threads == threads and row.samples and row.seconds
        ),
        key=lambda row: row.seconds or 0.0,
    )
    bars = [
        _Bar(row.backend, row.seconds or 0.0, numbers.seconds(row.seconds), _is_ours(row))
        for row in rows
    ]
    epochs = len(rows[0].details["epochs"])
    return _Panel(
        f"Training the digits CNN, {counted(epochs, 'epoch')}",
        f"run time, {threads_in_words(threads)}; shorter is better",
        bars,
        max(bar.length for bar in bars),
    )


def layers(run: Run) -> _Panel:
    """Return the panel of convolution rates, summed over a set, on one thread."""
    sums = [
        row
        for row in run.rows
        if row.op == "conv2d" and not row.problem and row.threads == 1 and row.gflops
    ]
    peak = run.environment["ceilings"]["1"]["flops"]["float32"] / 1e9
    name = set_name_of(sums[0].case)
    bars = [bar for direction in _directions(sums) for bar in _bars(sums, direction)]
    rates = "Effective GFLOP/s" if any("products" in row.details for row in run.rows) else "GFLOP/s"
    return _Panel(
        f"Convolutions of {name}",
        f"{rates}, 1 thread; longer is better",
        bars,
        max(peak, *(bar.length for bar in bars)),
        (peak, "FMA peak"),
    )


def _directions(rows: Sequence[Row]) -> list[str]:
    return [d for d in dict.fromkeys(row.direction for row in rows) if d != "backward"]


def _bars(rows: Sequence[Row], direction: str) -> Iterator[_Bar]:
    yield _Bar(direction.replace("_", "-"), 0.0, "", False)
    for row in rows:
        if row.direction == direction and row.gflops:
            value = f"{row.gflops:.0f}"
            yield _Bar(row.backend, row.gflops, value, _is_ours(row))


def _is_ours(row: Row) -> bool:
    return row.backend.startswith(_OURS)


def figure(panels: Sequence[_Panel], source: str) -> str:
    """Return an SVG of panels side by side, with the machine below."""
    lines = max(len(panel.bars) for panel in panels)
    height = 60 + lines * _LINE + 34
    width = len(panels) * _WIDTH + (len(panels) - 1) * _GAP
    drawn = [
        part
        for number, panel in enumerate(panels)
        for part in _drawn(panel, number * (_WIDTH + _GAP), lines)
    ]
    title = "; ".join(panel.title for panel in panels)
    return document(width, height, title, _STYLE, drawn, source)


def document(
    width: int, height: int, title: str, style: str, drawn: Sequence[str], source: str
) -> str:
    """Return an SVG of drawn elements, with their source in the last line."""
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">',
            f"<title>{escape(title)}</title>",
            f"<style>{style}</style>",
            *drawn,
            f'<text class="note" x="0" y="{height - 6}">{escape(source)}</text>',
            "</svg>\n",
        ]
    )


def _drawn(panel: _Panel, x: int, lines: int) -> Iterator[str]:
    yield f'<text class="title" x="{x}" y="16">{escape(panel.title)}</text>'
    yield f'<text class="note" x="{x}" y="36">{escape(panel.note)}</text>'
    room = _WIDTH - _LABELS - 64
    left = x + _LABELS
    for number, bar in enumerate(panel.bars):
        y = 50 + number * _LINE
        length = room * bar.length / panel.most
        if not bar.value:  # the heading of a group
            yield f'<text class="note" x="{x}" y="{y + 15}">{escape(bar.label)}</text>'
            continue
        kind = "ours" if bar.ours else "bar"
        yield f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{escape(bar.label)}</text>'
        yield (
            f'<rect class="{kind}" x="{left}" y="{y + 3}" width="{length:.1f}" '
            f'height="{_LINE - 6}" rx="2"/>'
        )
        yield f'<text x="{left + length + 6:.1f}" y="{y + 15}">{escape(bar.value)}</text>'
    if panel.limit is not None:
        value, name = panel.limit
        at, end = left + room * value / panel.most, 50 + lines * _LINE
        yield f'<line class="peak" x1="{at:.1f}" x2="{at:.1f}" y1="44" y2="{end}"/>'
        label = f"{escape(name)} {value:.0f}"
        yield f'<text class="note" x="{at:.1f}" y="36" text-anchor="middle">{label}</text>'


def main() -> None:
    """Draw the figure from the runs named on the command line."""
    trained, timed, path = map(Path, sys.argv[1:])
    try:
        runs = results.read(trained), results.read(timed)
        where = runs[1].environment
        days = " and ".join(dict.fromkeys(run.environment["started"][:10] for run in runs))
        source = f"{where['cpu']} ({where['machine']}), float32, {days}"
        files.write(path, figure([training(runs[0]), layers(runs[1])], source))
    except (files.WriteError, results.ResultsError) as error:
        sys.exit(f"figure: {error}")


if __name__ == "__main__":
    main()
