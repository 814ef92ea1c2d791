"""The page of a run: every figure drawn in a real browser, from a file, without a network."""

import dataclasses
import re
from html import unescape

import pytest

from cnnbench import cli, results
from cnnbench.digits.network import ARCHITECTURES
from cnnbench.report import charts, learnt, page
from cnnbench.report.offline import COLOURS, SHAPES, PageError
from cnnbench.results import Row, Run

plotly = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")

MOST_BYTES = 6_000_000
FIGURES = (
    "Seconds to train to the end",
    "Loss: all curves lie on each other",
    "Accuracy on images that were not trained on",
    "Where a training step goes",
    "Every error is left of the line at 1",
    "Convolution, forward: right of the line",
    "Max-pool, backward: right of the line",
    "Convolution, forward: the lower, the faster",
    "Roofline, ",
    "What the first call costs",
    "36 of 1347 training images",
    "Two kernels of nine numbers each find edges",
    "Sharing weights",
    "What conv1 looks for",
    "after conv1 and ReLU",
    "after conv2 and ReLU",
    "Confusion",
    "The test images told wrong",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a short comparison left its rows and its page."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    folder = tmp_path_factory.mktemp("compared")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        words = "compare --quick --threads 1 --backends numpy,torch-cpu --json run.json"
        patch.setattr("sys.argv", ["cnnbench", *words.split()])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """The run, and the same once more as if on two threads, somewhat faster, one of them wrong."""
    run = results.read(folder / "run.json")
    twice = [
        dataclasses.replace(
            row,
            threads=2,
            seconds=row.seconds and row.seconds / 1.5,
            samples=[sample / 1.5 for sample in row.samples],
        )
        for row in run.rows
    ]
    twice[0].withdraw("wrong", "y[0, 0, 0, 0] is 1, not <2>")
    run.rows.extend(twice)
    return run


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    page.write(run, path, against=run)
    return path


@pytest.mark.slow
def test_compare_leaves_a_page_of_every_figure(folder):
    text = unescape((folder / "report.html").read_text("utf-8"))
    titles = re.findall("<h3>(.*?)</h3>", text)
    for figure in FIGURES:
        assert any(figure in title for title in titles), figure
    assert "Train with" in re.search('<p id="answer">(.*?)</p>', text)[1]


@pytest.mark.slow
def test_the_page_is_small_and_fetches_nothing(written):
    assert written.stat().st_size <= MOST_BYTES
    own = re.sub(r"<script>.*?</script>", "", written.read_text("utf-8"), count=1, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", own)
    assert not re.findall(r"https?://", own)


@pytest.mark.slow
def test_every_chart_has_a_title_units_words_for_who_does_not_see_it_and_a_table(run):
    found = [
        chart
        for section in page.sections(run, run)
        for group in section.groups.values()
        for chart in group
    ]
    assert len(found) > len(FIGURES)
    for chart in found:
        assert chart.title
        assert chart.alt
        assert chart.sheet.rows
        plotly.Figure(chart.traces, chart.layout)  # refuses what it does not know
        for name in "xy":
            axis = chart.layout.get(f"{name}axis", {})
            names = all(
                isinstance(at, str) for trace in chart.traces for at in trace.get(name, [0])
            )
            titled = axis.get("title", {}).get("text")
            assert titled or names or axis.get("visible") is False, chart.title
        for trace in chart.traces:  # plotly.js takes any other for its red and blue
            assert trace.get("colorscale", "Greys") in ("Greys", "Blues", "RdBu", "Viridis")


@pytest.mark.slow
@pytest.mark.parametrize(("width", "scheme"), [(390, "light"), (390, "dark"), (1280, "dark")])
def test_every_figure_is_drawn_without_an_error_and_nothing_is_too_wide(
    browser, written, width, scheme
):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.set_script_timeout(120)
    try:
        browser.get(written.as_uri())
        groups = browser.execute_script(
            "return document.querySelector('select[data-section]').options.length"
        )
        assert groups == 4  # two backends, on one thread and on two
        for number in range(groups):
            browser.execute_script(
                "const s = document.querySelector('select[data-section]');"
                "s.selectedIndex = arguments[0]; s.dispatchEvent(new Event('change'))",
                number,
            )
            told = browser.execute_async_script(
                "const done = arguments[0];"
                "drawAll().then(() => done(null), wrong => done(String(wrong)))"
            )
            assert told is None
            assert browser.execute_script("return document.documentElement.scrollWidth") <= width
        places, empty = browser.execute_script(
            "const places = [...document.querySelectorAll('.chart')];"
            "const drawn = p => p.querySelector("
            "  '.scatterlayer .trace, .barlayer .point, .heatmaplayer image');"
            "return [places.length, places.filter(p => !drawn(p)).map(p => p.ariaLabel)]"
        )
        assert empty == []
        assert places > len(FIGURES)
        paper, ink = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert (brightness(paper) < brightness(ink)) == (scheme == "dark")
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


# --------------------------------------------------------------------------------------------
# what the figures say


def row_of(backend, seconds=1.0, **changed):
    row = Row("digits.conv1", "mb64ic1ih8oc8oh8kh3ph1", "conv2d", "forward", backend, 1, "ok")
    row.seconds, row.samples, row.error_over_bound = seconds, [seconds], 0.25
    row.baseline, row.ratio, row.ratio_low, row.ratio_high = "slow", 2.0, 1.5, 2.25
    row.verdict = "FASTER"
    for name, value in changed.items():
        setattr(row, name, value)
    return row


def test_ratios_have_their_intervals():
    rows = [row_of("fast"), row_of("slow", 2.0, ratio=1.0, ratio_low=1.0, ratio_high=1.0)]
    (chart,) = charts.ratios(rows, charts.colours(["fast", "slow"]))
    (trace,) = chart.traces
    assert (trace["x"], trace["y"]) == ([2.0], ["digits.conv1"])
    assert trace["error_x"]["array"] == [0.25]
    assert trace["error_x"]["arrayminus"] == [0.5]


def test_the_roofline_is_the_lower_of_memory_and_peak():
    ceilings = {"1": {"flops": {"float32": 1e11}, "bandwidth": {"1000": 4e11, "9000": 1e10}}}
    rows = [row_of("fast", gflops=50.0, ceiling_fraction=0.5)]
    (chart,) = charts.rooflines(rows, ceilings, charts.colours(["fast"]))
    memory = chart.traces[0]
    for intensity, rate in zip(memory["x"], memory["y"], strict=True):
        assert rate == pytest.approx(min(100.0, 10.0 * intensity))
    assert chart.traces[-1]["y"] == [50.0]


def test_threads_are_compared_with_one():
    rows = [row_of("fast", 1.0), row_of("fast", 0.6, threads=2)]
    (chart,) = charts.threads(rows, charts.colours(["fast"]))
    assert chart.traces[0]["x"] == [pytest.approx(1.0 / 0.6)]


def test_two_runs_are_compared_case_by_case():
    here, there = [row_of("fast", 1.0)], [row_of("fast", 3.0), row_of("other", 9.0)]
    (chart,) = charts.against(here, there, charts.colours(["fast"]))
    assert chart.traces[0]["x"] == [3.0]
    assert list(charts.against(here, [row_of("other")], charts.colours(["fast"]))) == []


def test_a_cell_tells_the_worst_and_why():
    wrong = row_of("mine")
    wrong.withdraw("wrong", "y[0] is 1, not 2")
    (section,) = [
        one
        for one in page.sections(Run({}, rows=[row_of("mine"), wrong, row_of("good")]), None)
        if one.title == "Correctness"
    ]
    ((_, table),) = section.tables
    ((_, mine, good),) = table.rows
    assert (mine.text, mine.kind, mine.hover) == ("wrong", "wrong", "y[0] is 1, not 2")
    assert (good.text, good.kind) == ("ok 0.250", "ok")
    assert "y[0] is 1" in " ".join(table.notes)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_figures_of_what_was_learnt_agree_with_each_other(architecture):
    from cnnbench.digits.options import Options
    from cnnbench.digits.training import train
    from cnnbench.digits.weights import Trained
    from cnnkernels import registry

    options = Options(epochs=1, architecture=architecture, batchnorm=True)
    done = train(registry.load("numpy"), options)
    found = {c.title: c for c in learnt.charts(Trained("numpy", options, done.state))}
    confusion = next(chart for title, chart in found.items() if title.startswith("Confusion"))
    counts = confusion.traces[0]["z"]
    assert sum(map(sum, counts)) == 450
    right = sum(counts[i][i] for i in range(10))
    assert right == round(450 * done.epochs[0].test_accuracy)
    assert any(f"of {450 - right}: what it is" in title for title in found)
    deepest = {"digits": 2, "digits-deep": 3, "digits-strided": 4}[architecture]
    for number in range(1, deepest + 1):
        assert any(f"after conv{number} and ReLU" in title for title in found)


def test_colours_and_shapes_are_paired_so_that_neighbours_differ_in_both():
    assert len(COLOURS) == len(SHAPES) == len(set(COLOURS)) == len(set(SHAPES))
    markers = charts.colours(map(str, range(len(COLOURS))))
    assert len({(m["color"], m["symbol"]) for m in markers.values()}) == len(COLOURS)


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(PageError, match=r"pip install 'cnnbench\[report\]'"):
        page.write(Run({}, rows=[row_of("mine")]), tmp_path / "page.html")


def test_a_run_without_rows_is_a_page_that_says_so(tmp_path):
    page.write(Run({}), tmp_path / "page.html")
    assert "0 of 0 checks passed" in (tmp_path / "page.html").read_text("utf-8")
