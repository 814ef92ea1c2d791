"""Pages of saved runs and of the history."""

import os
import re
from html import unescape
from pathlib import Path

import pytest

from cnnbench.results import Row, Run

ROOT = Path(__file__).parents[3]
TINY = "mb2ic3ih6oc4oh6kh3ph1"


def test_report_writes_a_saved_run_beside_another_as_a_page(command, tmp_path):
    pytest.importorskip("plotly")
    files = []
    for name, seconds in (("this", 1.0), ("the other", 3.0)):
        row = Row("a", TINY, "conv2d", "forward", "numpy", 1, "ok", "", 0.25, seconds, [seconds])
        files.append(tmp_path / f"{name}.json")
        Run({"cpu": "Some CPU"}, [row], [files[-1]]).write()
    code, out, err = command(
        "report", "--from", files[0], "--against", files[1], "--output", "deep/page.html"
    )
    assert (code, err) == (0, "")
    assert out == f"deep/page.html: 1 row of {files[0]}\n"
    text = unescape((tmp_path / "deep/page.html").read_text("utf-8"))
    assert "Right of the line, this run was faster than the other" in text
    assert "3.00x" in text
    words = f"report --from {files[0]} --against '{files[1]}' --output deep/page.html"
    assert f"Command for this page: cnnbench {words}" in text


def test_a_run_whose_name_is_not_utf_8_is_reported_and_named(command, tmp_path):
    pytest.importorskip("plotly")
    source = os.fsdecode(b"caf\xe9.json")
    Run({"command": ["cnnbench", source]}, [], [tmp_path / source]).write()
    code, out, err = command("report", "--from", source)
    assert (code, err) == (0, "")
    assert out == "report.html: 0 rows of caf\\udce9.json\n"
    text = unescape((tmp_path / "report.html").read_text("utf-8"))
    assert (
        "Command for this page: cnnbench report --from 'caf\N{REPLACEMENT CHARACTER}.json'" in text
    )


def test_a_page_goes_where_a_link_leads(command, tmp_path):
    pytest.importorskip("plotly")
    Run({}, [], [tmp_path / "run.json"]).write()
    (tmp_path / "report.html").symlink_to("deep/page.html")
    assert command("report", "--from", "run.json")[0] == 0
    assert (tmp_path / "report.html").is_symlink()
    assert "0 of 0 checks passed" in (tmp_path / "deep/page.html").read_text("utf-8")


def test_report_takes_the_newest_run_and_says_so_where_there_is_none(command, tmp_path):
    pytest.importorskip("plotly")
    code, out, err = command("report")
    assert (code, out) == (2, "")
    assert "no run in .cnnbench: measure one with cnnbench compare, or give one with --from" in err
    (tmp_path / ".cnnbench").mkdir()
    run = Run({}, [], [tmp_path / ".cnnbench/check.json"])
    run.write()
    assert command("report")[0] == 2  # it was interrupted before its first row
    run.add([Row("a", "mb1", "conv2d", "forward", "numpy", 1, "ok")])
    code, out, _ = command("report")
    assert (code, out) == (0, "report.html: 1 row of .cnnbench/check.json\n")


@pytest.mark.slow
def test_history_writes_a_page_and_says_what_is_on_it(command, tmp_path, monkeypatch):
    pytest.importorskip("asv")
    pytest.importorskip("plotly")
    monkeypatch.chdir(ROOT)
    code, out, err = command("history", "--output", tmp_path / "page.html")
    assert code == 0, err
    assert re.search(r"page\.html: \d+ curves over \d+ commits, \d+ steps", out)
    assert (tmp_path / "page.html").stat().st_size < 7e6


def test_history_outside_a_checkout_says_where_to_go(command):
    code, out, err = command("history")
    assert (code, out) == (2, "")
    assert "expected asv.conf.json" in err
    assert "run this in a checkout" in err


def test_history_refuses_a_folder_as_its_page(command, tmp_path):
    code, _, err = command("history", "--output", tmp_path)
    assert code == 2
    assert "expected a file" in err
