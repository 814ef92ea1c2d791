"""The page in a real browser, from a file, without a network."""

import json
import re
from pathlib import Path

import pytest

from cnnbench.history import page, series
from cnnbench.report.offline import PageError

ROOT = Path(__file__).parents[3]
pytest.importorskip("plotly", reason="plotly is not installed")


def data_of(path):
    found = re.search(
        r'<script id="data" type="application/json">(.*?)</script>', path.read_text("utf-8"), re.S
    )
    return json.loads(found[1])


@pytest.fixture(scope="module")
def history():
    return series.read(ROOT)


@pytest.fixture(scope="module")
def written(history, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "history.html"
    page.write(history, path)
    return path


def test_the_page_has_every_series_and_step(history, written):
    data = data_of(written)
    assert len(data["series"]) == len(history.series)
    assert [c["hash"] for c in data["commits"]] == [c.hash[:8] for c in history.commits]
    assert sum(len(one["steps"]) for one in data["series"]) == sum(
        len(one.steps) for one in history.series
    )


@pytest.fixture
def upgraded(checkout, tmp_path):
    """A page of a history over an upgrade of NumPy."""
    checkout.benchmark("a.Speed.time_a", params=[["numba"]], param_names=["backend"])
    for commit, numpy in zip(checkout.commits, ("2.3.0", "2.4.6", "2.4.6"), strict=True):
        checkout.add(commit, {"a.Speed.time_a": [1.0]}, libraries={"numpy": numpy})
    path = tmp_path / "history.html"
    page.write(series.read(checkout.folder), path)
    return path


def test_curves_of_a_chart_have_different_names(upgraded):
    assert [one["name"] for one in data_of(upgraded)["series"]] == [
        "numba, numpy 2.3.0",
        "numba, numpy 2.4.6",
    ]


def test_the_page_fetches_nothing(written):
    own = re.sub(r"<script>.*?</script>", "", written.read_text("utf-8"), count=1, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["'](?!data:)""", own)
    assert not re.findall(r"https?://", own)


@pytest.mark.slow
@pytest.mark.parametrize("width", [390, 1280])
def test_every_curve_is_drawn_without_an_error(browser, written, history, width):
    browser.set_window_size(width, 900)
    browser.get(written.as_uri())
    browser.execute_script(
        "document.getElementById('what').value = 'all';"
        "document.getElementById('what').dispatchEvent(new Event('change'));"
    )
    browser.set_script_timeout(120)
    browser.execute_async_script("const done = arguments[0]; drawAll().then(() => done())")
    drawn = browser.execute_script(
        "return document.querySelectorAll('.chart .scatterlayer .trace').length"
    )
    assert drawn == len(history.series)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    errors = [line for line in browser.get_log("browser") if line["level"] == "SEVERE"]
    assert errors == []


@pytest.mark.slow
def test_filters_choose_curves(browser, written, history):
    browser.get(written.as_uri())
    one = history.series[0]
    for key in ("what", "case", "backend"):
        browser.execute_script(
            "const e = document.getElementById(arguments[0]); e.value = arguments[1];"
            "e.dispatchEvent(new Event('change'))",
            key,
            getattr(one, key),
        )
    told = browser.find_element("id", "shown").text
    matching = [
        other
        for other in history.series
        if (other.what, other.case, other.backend) == (one.what, one.case, one.backend)
    ]
    assert f"{len(matching)} curves" in told


@pytest.mark.slow
def test_curves_of_a_chart_look_different(browser, upgraded):
    browser.get(upgraded.as_uri())
    browser.execute_async_script("const done = arguments[0]; drawAll().then(() => done())")
    legend = browser.execute_script(
        "return [...document.querySelectorAll('.legendtext')].map(e => e.textContent)"
    )
    lines = browser.execute_script(
        "return [...document.querySelectorAll('.scatterlayer .js-line')]"
        ".map(e => e.style.strokeDasharray)"
    )
    assert legend == ["numba, numpy 2.3.0", "numba, numpy 2.4.6"]
    assert len(set(lines)) == 2


@pytest.fixture
def dark(browser):
    """Say that the system is dark."""

    def emulate(scheme):
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    emulate("dark")
    yield
    emulate("")


@pytest.mark.slow
@pytest.mark.usefixtures("dark")
def test_a_dark_page_is_printed_in_dark_ink(browser, upgraded):
    def ink(event):
        return browser.execute_script(
            "window.dispatchEvent(new Event(arguments[0]));"
            "return document.querySelector('.xtick text').style.fill",
            event,
        )

    browser.get(upgraded.as_uri())
    browser.execute_async_script("const done = arguments[0]; drawAll().then(() => done())")
    light = "rgb(232, 232, 232)"
    assert [ink("none"), ink("beforeprint"), ink("afterprint")] == [light, "rgb(0, 0, 0)", light]


def test_plotly_missing_is_one_sentence(history, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "plotly.offline", None)
    with pytest.raises(PageError, match=r"pip install 'cnnbench\[report\]'"):
        page.write(history, tmp_path / "page.html")
