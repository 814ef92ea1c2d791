"""The built site: complete, without broken links, offline, and readable on a phone and a screen."""

import re
from collections import deque
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).parents[3]
SITE = ROOT / "build/site"
MOST_BYTES = 6e6
READ = (
    "README.html",
    "docs/tutorial/tutorial.html",
    "docs/api/cnnkernels.torch.html",
    "kernels/cnnkernels/convolution/numba_winograd/README.html",
    "results/README.html",
    "docs/results/network-digits.html",
    "docs/results/kernel-numba-simd.html",
    "results/side-by-side-digits.html",
    "history.html",
)
"""Pages of each kind."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (SITE / "index.html").is_file(), reason="not built: run make site"),
]


class Addresses(HTMLParser):
    """What a page links to, what it loads, and which places of it can be linked to."""

    def __init__(self, page):
        super().__init__()
        self.links, self.loaded, self.places = set(), set(), {""}
        self.feed(page.read_text("utf-8"))

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.places |= {found[name] for name in ("id", "name") if found.get(name)}
        if tag == "a" and found.get("href"):
            self.links.add(found["href"])
        elif tag == "form" and found.get("action"):
            self.links.add(found["action"])
        elif tag == "meta" and found.get("http-equiv") == "refresh":
            self.links.add(found["content"].partition("url=")[2])
        elif tag in ("script", "img", "iframe", "source", "object") and found.get("src"):
            self.loaded.add(found["src"])
        elif tag == "link" and found.get("rel") in ("stylesheet", "icon", "preload"):
            self.loaded.add(found["href"])


@pytest.fixture(scope="module")
def pages():
    """The addresses of every page."""
    return {page: Addresses(page) for page in sorted(SITE.rglob("*.html"))}


def local(page, address):
    """Return the file that an address of a page leads to, and the place in it."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return None, ""
    target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
    return target, unquote(parts.fragment)


def test_every_link_leads_somewhere(pages):
    broken = []
    for page, found in pages.items():
        for address in found.links | found.loaded:
            target, place = local(page, address)
            if target is None:
                continue
            known = pages.get(target)
            if not target.is_file() or (known and place not in known.places):
                broken.append((str(page.relative_to(SITE)), address))
    assert broken == []


def test_every_page_can_be_reached_from_the_first_one(pages):
    reached, ahead = set(), deque([SITE / "index.html"])
    while ahead:
        page = ahead.popleft()
        if page in pages and page not in reached:
            reached.add(page)
            ahead.extend(local(page, address)[0] for address in pages[page].links)
    assert [str(page.relative_to(SITE)) for page in pages if page not in reached] == []


def test_nothing_is_loaded_from_the_network(pages):
    for page, found in pages.items():
        assert [at for at in found.loaded if re.match("(https?:)?//", at)] == [], page
    for style in SITE.rglob("*.css"):
        assert not re.search(r"(url\(|@import )['\"]?https?:", style.read_text("utf-8")), style


def test_no_page_is_large(pages):
    assert max(page.stat().st_size for page in pages) <= MOST_BYTES


def test_every_committed_result_has_a_page_and_its_file():
    for run in (ROOT / "results").glob("*/*.json"):
        if run.parent.name != "asv":
            copied = SITE / run.relative_to(ROOT)
            assert copied.read_bytes() == run.read_bytes(), "build the site anew: make site"
            assert copied.with_suffix(".html").is_file()


def test_the_tutorial_has_its_figures_and_no_failure():
    text = (SITE / "docs/tutorial/tutorial.html").read_text("utf-8")
    assert text.count("Plotly.newPlot(") >= 5
    assert "Traceback" not in text


def test_functions_have_their_docstrings():
    text = (SITE / "docs/api/cnnkernels.torch.html").read_text("utf-8")
    assert 'id="cnnkernels.torch.convert"' in text
    assert "Parameters" in text


def brightness(color):
    return sum(map(float, re.findall(r"[\d.]+", color)[:3]))


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_a_page_is_readable(browser, name, scheme, width):
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500},
    )
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia",
        {"features": [{"name": "prefers-color-scheme", "value": scheme}]},
    )
    browser.get_log("browser")
    try:
        browser.get((SITE / name).as_uri())
        paper, ink, across = browser.execute_script(
            "const p = document.querySelector('p, td');"
            "const ink = getComputedStyle(p).color;"
            "let at = p, paper;"
            "do { paper = getComputedStyle(at).backgroundColor; at = at.parentElement; }"
            "while (at && /, 0\\)$|transparent/.test(paper));"
            "return [paper, ink, document.documentElement.scrollWidth]"
        )
        assert across <= width
        assert (brightness(paper) < brightness(ink)) == (scheme == "dark")
        assert abs(brightness(paper) - brightness(ink)) > 300
        assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []
    finally:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_charts_of_the_tutorial_are_drawn(browser):
    browser.get((SITE / "docs/tutorial/tutorial.html").as_uri())
    drawn = browser.execute_script("return document.querySelectorAll('.main-svg').length")
    assert drawn >= 5


def test_the_search_finds_a_function(browser):
    browser.set_script_timeout(60)
    browser.get((SITE / "search.html").as_uri() + "?q=conv2d_backward")
    found = browser.execute_async_script("""
        const done = arguments[0];
        const look = () => {
          const links = [...document.querySelectorAll("#search-results li a")];
          links.length ? done(links.map(link => link.href)) : setTimeout(look, 200);
        };
        look();
    """)
    browser.get_log("browser")  # it cannot fetch excerpts of pages from files, and says so
    assert any("docs/api/cnnkernels" in address for address in found)
