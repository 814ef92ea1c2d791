"""The example workflow: it parses, and its commands do what it says."""

import os
import stat
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAMP = ".venv/.installed-torch-yes"
"""What says that everything is installed: a test must not install it again."""

WORKFLOW = ROOT / "examples" / "regress.yml"


def steps():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    (job,) = yaml.safe_load(WORKFLOW.read_text("utf-8"))["jobs"].values()
    return job["steps"]


def test_the_whole_history_is_checked_out():
    first, *_ = steps()
    assert first["uses"].startswith("actions/checkout@")
    assert first["with"] == {"fetch-depth": 0}


@pytest.mark.skipif(not (ROOT / STAMP).exists(), reason="there is no .venv with PyTorch")
@pytest.mark.parametrize("code", [0, 1])
def test_its_commands_compare_with_the_target_branch_and_write_the_summary(tmp_path, code):
    """They run as they are, with a program in Python's place that says what it is asked."""
    program = tmp_path / "python"
    program.write_text(f'#!/bin/sh\necho "$@" > "{tmp_path}/asked"\nexit {code}\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    summary = tmp_path / "summary.md"
    known = {"GITHUB_BASE_REF": "main", "GITHUB_STEP_SUMMARY": str(summary)}
    _, install, compare = steps()
    assert install["run"] == "make .venv"
    done = subprocess.run(
        ["bash", "-e", "-c", compare["run"].replace("make ", f"make BIN={tmp_path} -o {STAMP} ")],
        cwd=ROOT,
        env={**os.environ, **known},
        capture_output=True,
        check=False,
    )
    assert bool(done.returncode) == bool(code)
    asked = (tmp_path / "asked").read_text().split()
    assert asked == ["-m", "cnnbench.history.regress", "--base", "origin/main",
                     "--markdown", str(summary)]  # fmt: skip
