"""The README's figure: drawn from runs, for light and dark pages."""

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from cnnbench.report import figure
from cnnbench.results import Row, Run

ROOT = Path(__file__).parents[3]
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def trained():
    rows = [
        Row("digits", "", "train", "train", name, 2, outcome, seconds=seconds, samples=samples)
        for name, outcome, seconds, samples in (
            ("slow & sure", "ok", 2.0, [2.0]),
            ("numba-simd", "ok", 0.5, [0.5]),
            ("stopped", "ok", 9.0, []),
            ("absent", "unsupported", None, []),
        )
    ]
    for row in rows:
        row.details["epochs"] = [{}] * 10
    return Run({}, rows)


@pytest.fixture
def timed():
    rows = [
        Row("net (sum)", problem, "conv2d", direction, name, threads, "ok", gflops=gflops)
        for name, problem, direction, threads, gflops in (
            ("numba-simd", "", "forward", 1, 80.0),
            ("torch-cpu", "", "forward", 1, 40.0),
            ("torch-cpu", "", "forward", 2, 70.0),
            ("torch-cpu", "mb1", "forward", 1, 30.0),
            ("torch-cpu", "", "backward", 1, 20.0),
        )
    ]
    return Run({"ceilings": {"1": {"flops": {"float32": 100e9}}}}, rows)


def bars(panel):
    return [(bar.label, bar.length, bar.value, bar.ours) for bar in panel.bars]


def test_trainings_to_the_end_are_drawn_the_fastest_first(trained):
    panel = figure.training(trained)
    assert panel.title == "Training the digits CNN, 10 epochs"
    assert bars(panel) == [
        ("numba-simd", 0.5, "500 ms", True),
        ("slow & sure", 2.0, "2.00 s", False),
    ]


def test_sums_of_one_thread_are_drawn_by_direction_below_the_peak(timed):
    panel = figure.layers(timed)
    assert panel.title == "Convolutions of net"
    assert bars(panel) == [
        ("forward", 0.0, "", False),
        ("numba-simd", 80.0, "80", True),
        ("torch-cpu", 40.0, "40", False),
    ]
    assert panel.limit == (100.0, "FMA peak")


def test_a_figure_is_an_svg_whose_bars_are_in_proportion(trained, timed):
    text = figure.figure([figure.training(trained), figure.layers(timed)], "a <machine>")
    svg = ElementTree.fromstring(text)
    widths = [float(bar.get("width")) for bar in svg.iter(f"{SVG}rect")]
    assert widths[1] == pytest.approx(4 * widths[0], rel=1e-2)
    assert widths[2] == pytest.approx(2 * widths[3], rel=1e-2)
    assert "prefers-color-scheme: dark" in text
    assert [part.text for part in svg.iter(f"{SVG}text")][-1] == "a <machine>"


def test_the_committed_figure_shows_the_committed_runs(monkeypatch, tmp_path):
    makefile = (ROOT / "Makefile").read_text()
    folder, names = makefile.partition("addprefix ")[2].partition(")")[0].split(",", 1)
    runs = [str(ROOT / folder / name) for name in names.split()]
    monkeypatch.setattr("sys.argv", ["figure", *runs, str(tmp_path / "figure.svg")])
    figure.main()
    committed = (ROOT / "docs" / "figures" / "speed.svg").read_text()
    assert (tmp_path / "figure.svg").read_text() == committed
