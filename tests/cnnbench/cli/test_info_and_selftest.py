"""What info tells of this machine, and selftest of the suite."""

import json
import re

import pytest

from cnnbench import speed
from cnnbench.judging import limits, statistics
from cnnkernels import conformance

TINY = "mb2ic3ih6oc4oh6kh3ph1"


@pytest.mark.slow
def test_info_says_what_can_run_here_and_why_the_rest_cannot(command, monkeypatch, tmp_path):
    from cnnkernels import registry

    monkeypatch.setattr(limits, "measure_ceilings", lambda _: {"reason": "not in a test"})
    monkeypatch.setattr(registry, "names", lambda: ("naive", "numpy", "torch-cuda"))
    monkeypatch.setenv("NUMBA_OPT", "2")
    code, out, _ = command("info", "--json", "out.json")
    assert code == 0
    assert "NUMBA_OPT=2" in out
    assert re.search(r"ceilings with 1 thread not measured: not in a test", out)
    assert re.search(r"numpy +can run here", out)
    assert re.search(r"torch-cuda +(unsupported|can run here)", out)
    plain = json.loads((tmp_path / "out.json").read_text())
    assert {"cpu", "cores", "versions", "ceilings", "backends"} <= set(plain["environment"])
    assert plain["rows"] == []


def test_info_says_which_cores_a_quota_leaves_and_measures_with_them(command, monkeypatch):
    from cnnkernels import host, registry

    counts = []
    monkeypatch.setattr(limits, "measure_ceilings", lambda n: counts.append(n) or {"reason": "-"})
    monkeypatch.setattr(registry, "names", lambda: ())
    monkeypatch.setattr(host, "cpu_model", lambda: "Some CPU")
    monkeypatch.setattr(host, "visible_cores", lambda: 4)
    monkeypatch.setattr(host, "quota", lambda: 1.5)
    code, out, _ = command("info")
    assert code == 0
    words = "Some CPU, 1 core (4 visible, a quota leaves the time of 1.5), "
    assert words in " ".join(out.split())
    assert counts == [1]


@pytest.mark.slow
@pytest.mark.usefixtures("short_sides")
def test_selftest_catches_every_broken_kernel_and_prints_the_floor(command):
    code, out, _ = command("selftest", "--threads", "1", "--baseline", "numpy")
    count = len(conformance.BROKEN)
    assert count >= 12
    assert code == 0
    assert f"{count} of {count} broken kernels caught" in out
    assert "MISSED" not in out
    assert re.search(r"A/A floor: two processes of numpy differ by up to [\d.]+ %", out)


@pytest.mark.slow
def test_selftest_that_misses_one_says_so_and_exits_1(command, monkeypatch):
    from cnnkernels import registry

    right = {"fine": registry.load("numpy")}
    monkeypatch.setattr(conformance, "BROKEN", right)
    monkeypatch.setattr(conformance, "CORNER", (TINY,))
    monkeypatch.setattr(speed, "time", lambda run, *_: run.environment.update(aa_floor={"1": 0.01}))
    code, out, _ = command("selftest", "--threads", "1", "--baseline", "naive")
    assert code == 1
    assert "MISSED" in out
    assert "0 of 1 broken kernels caught" in out


@pytest.mark.slow
@pytest.mark.usefixtures("short_sides")
def test_a_copy_that_is_much_slower_is_found(command, monkeypatch):
    monkeypatch.setattr(statistics, "SLOWER", (1.0,))
    arguments = ("--baseline", "numpy", "--cases", "mb8ic8ih16oc8kh3ph1", "--threads", "1")
    code, out, _ = command("selftest", "--statistics", *arguments)
    assert code == 0
    lines = [line.split() for line in out.splitlines() if "slower," in line or "%" in line]
    assert "Verdicts on copies of numpy" in out
    found = [line for line in lines if line[:3] == ["100", "%", "slower,"]]
    assert found, out
