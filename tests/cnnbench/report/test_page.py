"""The page of a run: every figure drawn in a real browser, from a file, without a network."""

import dataclasses
import os
import re
import stat
from collections import Counter
from html import unescape
from pathlib import Path

import pytest

from cnnbench import cli, comparison, results
from cnnbench.digits import trainers
from cnnbench.digits.network import ARCHITECTURES
from cnnbench.report import learnt, offline, page
from cnnbench.report.offline import PageError
from cnnbench.results import Run

plotly = pytest.importorskip("plotly.graph_objects", reason="plotly is not installed")

pytestmark = pytest.mark.usefixtures("short_trainings", "exact_once")

ROOT = Path(__file__).parents[3]
MOST_BYTES = 6_000_000
FIGURES = (
    "Time of the whole training",
    "Loss: all curves coincide",
    "Accuracy: solid on test images",
    "Where a training step goes",
    "Every error is left of the line at 1",
    "Convolution, forward: right of the line",
    "Max-pool, backward: right of the line",
    "Convolution, forward: lower is faster",
    "Roofline, ",
    "36 of 1347 training images",
    "Convolution: two 3x3 kernels find edges",
    "Weight sharing",
    "Filters of conv1",
    "after conv1 and ReLU",
    "after conv2 and ReLU",
    "Confusion",
    "Misclassified test images",
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where a short comparison left its rows and its page."""
    pytest.importorskip("torch", reason="PyTorch is not installed")
    folder = tmp_path_factory.mktemp("compared")
    ceilings = {"flops": {"float32": 1e15}, "bandwidth": {"16384": 1e13, "1048576": 1e12}}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(comparison, "measure_ceilings", lambda _: ceilings)  # that nothing exceeds
        patch.chdir(folder)
        words = "compare --quick --threads 2 --backends numpy,torch-cpu --baseline numpy"
        patch.setattr("sys.argv", ["cnnbench", *words.split(), "--json", "run.json"])
        with pytest.raises(SystemExit, match=r"^0$"):
            cli.main()
    return folder


@pytest.fixture(scope="module")
def run(folder):
    """The run, and the same once more as if on four threads, somewhat faster, one of it wrong."""
    run = results.read(folder / "run.json")
    twice = [
        dataclasses.replace(
            row,
            threads=4,
            seconds=row.seconds and row.seconds / 1.5,
            samples=[sample / 1.5 for sample in row.samples],
        )
        for row in run.rows
        if row.threads == 2
    ]
    twice[0].withdraw("wrong", "y[0, 0, 0, 0] is 1, not <2>")
    run.rows.extend(twice)
    return run


@pytest.fixture(scope="module")
def written(run, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    command = f"cnnbench report --from /{'a-long-name' * 20}.json"
    page.write(run, path, against=run, command=command)
    return path


@pytest.mark.slow
def test_compare_leaves_a_page_of_every_figure(folder):
    text = unescape((folder / "report.html").read_text("utf-8"))
    titles = re.findall("<h3>(.*?)</h3>", text)
    for figure in FIGURES:
        assert any(figure in title for title in titles), figure
    answer = re.search('<p id="answer">(.*?)</p>', text)[1]
    assert re.search("Train with .* on 2 threads", answer)
    assert "Command for this page: cnnbench compare --quick --threads 2" in text


@pytest.mark.slow
def test_the_evidence_counts_every_checked_direction(folder):
    run = results.read(folder / "run.json")
    evidence = page._evidence(run)
    assert evidence[0].startswith("16 checks passed")  # 8 directions of two


@pytest.mark.slow
def test_the_page_is_small_and_fetches_nothing(written):
    assert written.stat().st_size <= MOST_BYTES
    own = re.sub(r"<script>.*?</script>", "", written.read_text("utf-8"), count=1, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:|#)""", own)
    assert not re.findall(r"https?://", own)


@pytest.mark.slow
def test_the_page_of_all_backends_and_programs_is_small_as_well(folder, tmp_path):
    run = results.read(folder / "run.json")
    of_torch = [row for row in run.rows if row.backend == "torch-cpu"]
    run.rows = [
        dataclasses.replace(row, backend=name)
        for name in trainers.names()
        for row in of_torch
        if name not in trainers.PROGRAMS or row.op == "train"
    ]
    page.write(run, tmp_path / "page.html", against=run)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert text.count("<option>") == len(trainers.names())
    assert len(text.encode()) <= MOST_BYTES


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
@pytest.mark.parametrize("width", [390, 1280])
def test_every_figure_is_drawn_without_an_error_and_nothing_is_too_wide(browser, written, width):
    def open_in(scheme):
        browser.execute_cdp_cmd(
            "Emulation.setEmulatedMedia",
            {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
        )
        browser.get(written.as_uri())
        paper, ink = browser.execute_script(
            "const s = getComputedStyle(document.body); return [s.backgroundColor, s.color]"
        )
        assert (brightness(paper) < brightness(ink)) == (scheme == "dark")

    def draw():
        told = browser.execute_async_script(
            "const done = arguments[0];"
            "drawAll().then(() => done(null), wrong => done(String(wrong)))"
        )
        assert told is None
        assert browser.execute_script("return document.documentElement.scrollWidth") <= width

    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.set_script_timeout(120)
    try:
        open_in("light")
        groups = browser.execute_script(
            "return document.querySelector('select[data-section]').options.length"
        )
        assert groups == 4  # two backends, on two threads and on four
        for number in range(groups):
            browser.execute_script(
                "const s = document.querySelector('select[data-section]');"
                "s.selectedIndex = arguments[0]; s.dispatchEvent(new Event('change'))",
                number,
            )
            draw()
        places, empty = browser.execute_script(
            "const places = [...document.querySelectorAll('.chart')];"
            "const drawn = p => p.querySelector("
            "  '.scatterlayer .trace, .barlayer .point, .heatmaplayer image');"
            "return [places.length, places.filter(p => !drawn(p)).map(p => p.ariaLabel)]"
        )
        assert empty == []
        assert places > len(FIGURES)
        open_in("dark")
        draw()
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["train-digits", "compare-digits"])
def test_on_a_phone_legends_axis_titles_and_verdicts_are_whole(browser, tmp_path, name):
    path = next((ROOT / "results").glob(f"*/{name}-*.json"))
    page.write(results.read(path), tmp_path / "page.html")
    phone = {"width": 390, "height": 900, "deviceScaleFactor": 1, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", phone)
    browser.set_script_timeout(120)
    try:
        browser.get((tmp_path / "page.html").as_uri())
        browser.execute_async_script("drawAll().then(arguments[0])")
        verdict, cut, narrow = browser.execute_script("""
            const heads = [...document.querySelectorAll("#section-1 table th")];
            const verdict = heads.find(head => head.textContent === "verdict");
            const cut = [], narrow = [];
            for (const place of document.querySelectorAll(".chart")) {
              if (place.closest("[hidden]")) continue;
              const box = place.getBoundingClientRect();
              for (const part of place.querySelectorAll(".legendtext, .xtitle, .ytitle")) {
                const own = part.getBoundingClientRect();
                if (own.left < box.left - 1 || own.right > box.right + 1 ||
                    own.top < box.top - 1 || own.bottom > box.bottom + 1)
                  cut.push(place.ariaLabel + ": " + part.textContent);
              }
              const clip = place.querySelector(".legend .bg");
              const names = [...place.querySelectorAll(".legendtext")];
              if (clip && names.some(name => name.getBoundingClientRect().bottom >
                  clip.getBoundingClientRect().bottom + 1)) cut.push(place.ariaLabel);
              const size = place._fullLayout._size;
              const image = place._fullLayout.yaxis.scaleanchor;
              if (!image && (size.w < 150 || size.h < 60))
                narrow.push([place.ariaLabel, size.w, size.h]);
            }
            return [verdict.getBoundingClientRect().right, cut, narrow];
        """)
        assert verdict <= 390
        assert cut == []
        assert narrow == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_all_backends_and_programs_have_their_own_color():
    looks = page.charts.colours(trainers.names())
    assert len({look["color"] for look in looks.values()}) == len(trainers.names())


def test_thread_counts_have_their_own_marks(row_of):
    rows = [row_of("fast"), row_of("fast", threads=2)]
    for row in rows:
        row.baseline = "slow"
    (chart,) = page.charts.ratios(rows, page.charts.colours(["fast"]))
    assert [(t["name"], t["marker"]["symbol"]) for t in chart.traces] == [
        ("fast (1)", "circle"), ("fast (2)", "circle-open"),
    ]  # fmt: skip


def test_the_page_of_times_opens_with_a_sentence_and_a_table():
    run = results.read(next((ROOT / "results").glob("*/time-resnet50-*.json")))
    summary = page.summary(run)
    totals = [row for row in run.rows if row.case == "resnet50 (sum)"]
    compared = {(row.direction, row.threads) for row in totals}
    assert len(summary.rows) == len(compared)
    assert [cell.text for cell in summary.rows[0][:2]] == ["resnet50, forward", "1"]
    (fastest, count), *_ = Counter(row[2].text for row in summary.rows).most_common(1)
    assert page.headline(run).startswith(
        f"{fastest} has the lowest total time in {count} of {len(compared)} comparisons"
    )


def test_the_page_of_a_recommendation_opens_with_its_answer():
    path = next((ROOT / "results").glob("*/recommend-digits-*.json"))
    assert page.headline(results.read(path)).startswith("Train digits with numba-simd")


@pytest.mark.slow
def test_what_is_printed_is_dark_on_light_whatever_the_screen_is(browser, written):
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": "dark"}]},
    )
    browser.set_script_timeout(120)
    inks = """
        const [event, done] = arguments;
        window.dispatchEvent(new Event(event));
        const tick = document.querySelector(".chart .xtick text");
        done([getComputedStyle(tick).fill, getComputedStyle(document.body).color]);
    """
    try:
        browser.get(written.as_uri())
        for event, dark_ink in (("beforeprint", True), ("afterprint", False)):
            for ink in browser.execute_async_script(inks, event):
                assert (brightness(ink) < 3 * 128) == dark_ink, event
    finally:
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def brightness(colour):
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


# --------------------------------------------------------------------------------------------
# what the figures say


def test_a_cell_tells_the_worst_and_why(row_of):
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
    assert any(f"of {450 - right}: true class" in title for title in found)
    deepest = {"digits": 2, "digits-deep": 3, "digits-strided": 4}[architecture]
    for number in range(1, deepest + 1):
        assert any(f"after conv{number} and ReLU" in title for title in found)


def test_a_missing_library_is_one_sentence(tmp_path, monkeypatch, row_of):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(PageError, match=r"pip install 'cnnbench\[report\]'"):
        page.write(Run({}, rows=[row_of("mine")]), tmp_path / "page.html")


def test_the_circumstances_say_which_cores_a_quota_leaves(tmp_path):
    about = {"cpu": "Some CPU", "cores": 1, "visible_cores": 2, "cpu_quota": 1.5, "system": "Linux"}
    page.write(Run(about), tmp_path / "page.html")
    words = "Some CPU, 1 core (2 visible, a quota leaves the time of 1.5), Linux"
    assert words in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_of_a_site_shares_the_sites_script_and_links_to_it(tmp_path, row_of):
    site = offline.Site("../script.js", (("Home", "../index.html"),))
    environment = {"command": ["cnnbench"], "cpu": "A", "cores": 1, "aa_floor": {}}
    page.write(Run(environment, [row_of("numpy")]), tmp_path / "page.html", site=site)
    text = (tmp_path / "page.html").read_text("utf-8")
    assert '<script src="../script.js"></script>' in text
    assert '<a href="../index.html">Home</a>' in text
    assert len(text) < len(offline.plotly_script())


def test_a_page_is_written_whole_or_stays_as_it_was(tmp_path, monkeypatch, row_of):
    path = tmp_path / "page.html"
    path.write_text("old")
    path.chmod(0o600)
    (tmp_path / "link.html").symlink_to(path)
    name = os.fsdecode(b"caf\xe9")
    page.write(Run({"cpu": name, "command": [name]}), tmp_path / "link.html", command=name)
    before = path.read_text("utf-8")
    assert before.count("caf\N{REPLACEMENT CHARACTER}") >= 3
    assert (tmp_path / "link.html").is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(PageError, match=r"page\.html: cannot be written: No space left"):
        page.write(Run({}, rows=[row_of("mine")]), path)
    assert path.read_text("utf-8") == before
    assert sorted(os.listdir(tmp_path)) == ["link.html", "page.html"]


def test_a_run_without_rows_is_a_page_that_says_so(tmp_path):
    page.write(Run({}), tmp_path / "page.html")
    assert "0 of 0 checks passed" in (tmp_path / "page.html").read_text("utf-8")


def test_a_page_tells_numbas_settings(tmp_path):
    page.write(Run({"numba_settings": {"NUMBA_OPT": "0"}}), tmp_path / "page.html")
    assert re.search(r"NUMBA_OPT\W.*\W0\W", (tmp_path / "page.html").read_text("utf-8"))
