"""Draws the test accuracy of trainings over their time: an SVG for light and dark pages.

``python -m cnnbench.report.curves CURVES FIGURE`` reads what ``examples/train_resnet.py --csv``
wrote. The folder of that file is named after the machine.
"""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

from cnnbench.report import numbers
from cnnbench.report.figure import document
from cnnkernels import files

_WIDTH, _HEIGHT = 620, 260
_LEFT, _TOP = 50, 54
_SCALES = (1, 2, 2.5, 5, 10)

_LETTER = 8
"""The width of a letter of a name, roughly."""

_PYTORCH = {"PyTorch": "none", "channels_last": "6 4", "float64": "2 4"}
"""The networks that are not converted, with the dashes of their curves."""

_STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328 }
.title { font-weight: 600 } .note { fill: #59636e; font-size: 12px }
.grid { stroke: #d1d9e0 } .theirs { stroke: #8c959f; fill: #8c959f }
.ours { stroke: #0969da; fill: #0969da }
polyline { fill: none !important; stroke-width: 2.5 } .name { stroke: none; font-weight: 600 }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3 } .note { fill: #9198a1 } .grid { stroke: #3d444d }
  .theirs { stroke: #9198a1; fill: #9198a1 } .ours { stroke: #4493f8; fill: #4493f8 }
}
"""


class Point(NamedTuple):
    """The state of a training after an epoch: seconds since its start, and test accuracy."""

    seconds: float
    accuracy: float


def read(path: Path) -> dict[str, list[Point]]:
    """Return the curve of each network.

    Raises
    ------
    ValueError
        If the file is not one that the example wrote.
    """
    curves: dict[str, list[Point]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for line in csv.DictReader(file):
            try:
                point = Point(float(line["seconds"]), float(line["test_accuracy"]))
                curves.setdefault(line["network"], []).append(point)
            except (KeyError, TypeError, ValueError):
                raise ValueError(f"{path}: expected what train_resnet.py --csv wrote") from None
    if not curves:
        raise ValueError(f"{path}: expected what train_resnet.py --csv wrote, got no curve")
    return curves


def figure(curves: Mapping[str, Sequence[Point]], source: str) -> str:
    """Return an SVG of test accuracy over seconds, a curve for each network."""
    most = max(points[-1].seconds for points in curves.values())
    bottom = _TOP + _HEIGHT
    drawn = [
        f'<text class="title" x="0" y="16">{escape(_title(curves))}</text>',
        '<text class="note" x="0" y="36">test accuracy by seconds of training, a point an epoch'
        "</text>",
    ]
    for tenths in range(0, 11, 2):
        y = bottom - _HEIGHT * tenths / 10
        drawn += [
            f'<line class="grid" x1="{_LEFT}" x2="{_LEFT + _WIDTH}" y1="{y}" y2="{y}"/>',
            f'<text class="note" x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10 * tenths} %'
            "</text>",
        ]
    for seconds in _ticks(most):
        drawn.append(
            f'<text class="note" x="{_x(seconds, most)}" y="{bottom + 18}" text-anchor="middle">'
            f"{seconds:g} s</text>"
        )
    taken = math.inf  # where the name to the right begins
    for name, points in sorted(curves.items(), key=lambda item: -item[1][-1].seconds):
        end = _x(points[-1].seconds, most)
        drawn += _curve(name, points, most, below=42 if end > taken else 22)
        taken = end - _LETTER * len(name)
    return document(_LEFT + _WIDTH + 20, bottom + 48, _title(curves), _STYLE, drawn, source)


def _title(curves: Mapping[str, Sequence[Point]]) -> str:
    ends = [
        f"{name} {numbers.seconds(points[-1].seconds)}, {100 * points[-1].accuracy:.0f} %"
        for name, points in curves.items()
    ]
    epochs = max(map(len, curves.values()))
    return f"{epochs} epochs: {'; '.join(ends)}"


def _curve(name: str, points: Sequence[Point], most: float, below: int) -> Iterator[str]:
    kind = "theirs" if name in _PYTORCH else "ours"
    dashes = _PYTORCH.get(name, "none")
    places = [(_x(point.seconds, most), _TOP + _HEIGHT * (1 - point.accuracy)) for point in points]
    text = " ".join(f"{x},{y:.1f}" for x, y in places)
    yield f'<polyline class="{kind}" stroke-dasharray="{dashes}" points="{text}"/>'
    for x, y in places:
        yield f'<circle class="{kind}" cx="{x}" cy="{y:.1f}" r="3"/>'
    x, y = places[-1]
    yield (
        f'<text class="{kind} name" x="{x}" y="{y + below:.1f}" text-anchor="end">'
        f"{escape(name)}</text>"
    )


def _x(seconds: float, most: float) -> float:
    return round(_LEFT + _WIDTH * seconds / most, 1)


def _ticks(most: float) -> list[float]:
    """Return round numbers of seconds from 0 on, at most eight."""
    power = 10.0 ** (len(str(int(most / 8))) - 1)
    step = next(scale * power for scale in _SCALES if most / (scale * power) <= 8)
    return [number * step for number in range(int(most / step) + 1)]


def main() -> None:
    """Draw the figure of the file named on the command line."""
    curves, path = map(Path, sys.argv[1:])
    try:
        files.write(path, figure(read(curves), f"{curves.parent.name}, {curves.stem[-10:]}"))
    except (files.WriteError, OSError, ValueError) as error:
        sys.exit(f"curves: {error}")


if __name__ == "__main__":
    main()
