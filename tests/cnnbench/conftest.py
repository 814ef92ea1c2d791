"""Fixtures of this room: backends of strangers, who may do anything, runs, rows, a browser."""

import dataclasses
import functools
import os
import shutil
import time
from pathlib import Path

import pytest

from cnnbench import budget, sides, timing, trainings
from cnnbench.digits import recipes
from cnnbench.recommend import whole_steps
from cnnbench.results import Row, Run
from cnnkernels.registry import GROUP

STRANGERS = (
    "wrong",
    "raises",
    "killed",
    "exits",
    "prints",
    "sleeps",
    "compiles",
    "declines",
    "refuses",
    "unloadable",
    "killed-once",
    "killed-when-timed",
    "unsteady",
    "one-thread",
    "two-threads",
    "subtly-wrong",
    "killed-in-turn",
    "replays",
    "borrows",
)


class Steps:
    """Progress that counts."""

    def __init__(self):
        self.total = self.done = 0

    def begin(self, total):
        self.total, self.done = total, 0

    def step(self, text, count=1):
        assert text
        self.done += count
        assert self.done <= self.total


@pytest.fixture(scope="session")
def strangers_folder(tmp_path_factory):
    """A folder that holds the installed distribution of `strangers.py`."""
    folder = tmp_path_factory.mktemp("strangers")
    shutil.copy(Path(__file__).with_name("strangers.py"), folder)
    metadata = folder / "strangers-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Name: strangers\nVersion: 1.0\n")
    entries = [f"{name} = strangers:{name.replace('-', '_')}" for name in STRANGERS]
    (metadata / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *entries]))
    return folder


@pytest.fixture(scope="module")
def strangers(strangers_folder, tmp_path_factory):
    """Install the strangers for every process that is started from here on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(strangers_folder), prepend=os.pathsep)
        patch.setenv("STRANGERS_MARK", str(tmp_path_factory.mktemp("marks") / "mark"))
        yield


@pytest.fixture(scope="session")
def exact_losses():
    """Return the float64 losses that trainings are compared with, found once for each options."""
    return functools.cache(trainings._exact_losses)


@pytest.fixture(scope="module")
def exact_once(exact_losses):
    """Let runs with the same options share the float64 training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainings, "_exact_losses", exact_losses)
        yield


@pytest.fixture(scope="module")
def short_trainings():
    """Let quick comparisons train for two epochs, in one round."""
    digits = recipes.RECIPES["digits"]
    few = dataclasses.replace(digits, options=dataclasses.replace(digits.options, epochs=2))
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(recipes.RECIPES, "digits", few)
        patch.setattr(budget, "QUICK", dataclasses.replace(budget.QUICK, rounds=1))
        yield


@pytest.fixture(scope="module")
def short_sides():
    """Let the sides of a round take little time, for tests that no time matters to."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sides, "SIDE_SECONDS", 0.002)
        patch.setattr(timing, "REST_SECONDS", 0.001)
        patch.setattr(whole_steps, "SIDE_SECONDS", 0.01)
        patch.setattr(whole_steps, "PROFILE_SECONDS", 0.05)
        yield


@pytest.fixture(scope="session")
def fresh_run():
    """Return a function that makes a run, kept in a file if a path is given."""

    def fresh_run(*paths):
        return Run({}, paths=list(paths))

    return fresh_run


@pytest.fixture(scope="session")
def steps():
    """Return a function that makes a progress that counts."""
    return Steps


@pytest.fixture(scope="session")
def ends():
    """Return a function that tells whether a process ends within ten seconds."""

    def running(pid):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as stat:
                state = stat.read().rpartition(")")[2].split()[0]
        except FileNotFoundError:
            try:
                os.kill(pid, 0)
            except ProcessLookupError:
                return False
            return True
        return state != "Z"  # of which nobody has asked how it ended

    def ends(pid):
        last = time.monotonic() + 10
        while running(pid):
            if time.monotonic() > last:
                return False
            time.sleep(0.02)
        return True

    return ends


@pytest.fixture(scope="session")
def browser():
    """Chromium from the system's packages, which reaches no host."""
    selenium = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")
    waiting = pytest.importorskip("selenium.webdriver.support.wait")
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no chromium and chromedriver here (Debian: chromium, chromium-driver)")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    for argument in (
        "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--no-first-run", "--host-resolver-rules=MAP * ~NOTFOUND",
    ):  # fmt: skip
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})

    class Browser(selenium.Chrome):
        def get(self, url):
            """Open a page and wait for all of it: busy machines return while it is being read."""
            super().get(url)
            loaded = "return document.readyState === 'complete'"
            waiting.WebDriverWait(self, 60).until(lambda _: self.execute_script(loaded))

    started = Browser(options=options, service=selenium.ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture(scope="session")
def row_of():
    """Return a function that makes a row of a timed convolution, changed as asked."""

    def row_of(backend, seconds=1.0, **changed):
        row = Row("digits.conv1", "mb64ic1ih8oc8oh8kh3ph1", "conv2d", "forward", backend, 1, "ok")
        row.seconds, row.samples, row.error_over_bound = seconds, [seconds], 0.25
        row.baseline, row.ratio, row.ratio_low, row.ratio_high = "slow", 2.0, 1.5, 2.25
        row.verdict = "FASTER"
        for name, value in changed.items():
            setattr(row, name, value)
        return row

    return row_of
