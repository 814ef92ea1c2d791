"""Runs command lines, in this process or in one of their own."""

import signal
import subprocess
import sys

import pytest

from cnnbench import cli
from cnnbench.judging import limits


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cnnbench", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def nothing_measured(monkeypatch):
    """See to it that nothing is measured."""

    def measuring(*_, **__):
        raise AssertionError("something is being measured")

    monkeypatch.setattr("cnnbench.workers.worker.Worker.__init__", measuring)
    monkeypatch.setattr(limits, "measure_ceilings", measuring)


@pytest.fixture
def process():
    """Return a function that starts a command line in a process of its own."""

    def start(*words, folder, ignored=()):
        """Start it; it ignores some signals from its start."""

        def set_signals():
            # Else a shell that started us in the background would have it ignore Ctrl-C.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            for number in ignored:
                signal.signal(number, signal.SIG_IGN)

        return subprocess.Popen(
            [sys.executable, "-W", "error", "-m", "cnnbench.cli", *map(str, words)],
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=set_signals,
        )

    return start


@pytest.fixture
def ended(process):
    """Return a function that runs a command line in a process: exit code, output, errors."""

    def run(*words, folder):
        running = process(*words, folder=folder)
        out, err = running.communicate(timeout=250)
        return running.returncode, out, err

    return run
