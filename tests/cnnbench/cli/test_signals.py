"""Ctrl-C, other signals, and killed commands: what was measured stays, and no process."""

import os
import signal
import time
from pathlib import Path

import pytest

from cnnbench import results
from cnnkernels import conformance

pytestmark = pytest.mark.slow

TINY = "mb2ic3ih6oc4oh6kh3ph1"


def wait_for(condition, running):
    """Wait until something is so, as long as the command is running."""
    while not condition():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_check_keeps_its_rows_says_where_and_leaves_no_process(
    tmp_path, monkeypatch, number, process
):
    path, mark = tmp_path / "out.json", tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    endless = TINY.replace("mb2", "mb5")
    running = process(
        "check", "--backends", "numpy,sleeps", "--cases", f"{TINY},{endless}", "--threads", "1",
        "--json", path, folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in err
    run = results.read(path)
    assert [row.backend for row in run.rows] == ["numpy"] * 4 + ["sleeps"] * 4 + ["numpy"] * 4
    assert run.environment["interrupted"] is True
    (own,) = (tmp_path / ".cnnbench").iterdir()
    assert results.read(own).rows == run.rows
    said = f"interrupted: kept 12 rows in .cnnbench/{own.name}, {path}"
    assert said in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.usefixtures("strangers")
def test_an_interrupted_training_keeps_its_rows_and_leaves_no_process(
    tmp_path, monkeypatch, process
):
    mark = tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "train", "--backends", "numpy,sleeps", "--baseline", "numpy", "--batch", "5", "--epochs",
        "1", "--threads", "1", "--quick", "--json", "out.json", folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + signal.SIGTERM
    assert "interrupted: kept " in err
    assert "Traceback" not in err
    assert results.read(tmp_path / "out.json").environment["interrupted"] is True
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.usefixtures("strangers")
def test_a_command_that_was_told_to_ignore_hangups_goes_on(tmp_path, monkeypatch, process):
    mark = tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "check", "--backends", "sleeps", "--cases", TINY.replace("mb2", "mb5"), "--threads", "1",
        folder=tmp_path, ignored=(signal.SIGHUP,),
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.communicate()


def test_an_interrupted_selftest_says_where_its_rows_are_only_if_they_are_somewhere(
    command, monkeypatch
):
    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conformance, "check", interrupting)
    code, _, err = command("selftest", "--baseline", "numpy")
    assert code == 130
    assert not err.rstrip().endswith(" in")
    code, _, err = command("selftest", "--baseline", "numpy", "--json", "out.json")
    assert code == 130
    assert err.rstrip().endswith("kept 0 rows in out.json")


@pytest.mark.usefixtures("strangers")
def test_a_killed_command_leaves_whole_files_and_no_process(tmp_path, monkeypatch, ends, process):
    path, mark = tmp_path / "out.json", tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "check", "--backends", "sleeps", "--cases", f"{TINY},{TINY.replace('mb2', 'mb5')}",
        "--threads", "1", "--json", path, folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
    finally:
        running.kill()
        running.communicate()
    assert [row.outcome for row in results.read(path).rows] == ["ok"] * 4
    assert Path(path).read_text().endswith("}\n")
    assert ends(int(mark.read_text()))
