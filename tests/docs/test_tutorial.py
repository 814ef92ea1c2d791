"""The tutorial runs from its first cell to its last, and is a notebook."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "docs/tutorial/tutorial.py"


@pytest.mark.slow
def test_it_runs_in_quick_mode_and_says_what_its_text_says(tmp_path):
    pytest.importorskip("plotly")
    ran = subprocess.run(
        [sys.executable, SCRIPT],
        env=os.environ | {"CNNBENCH_QUICK": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stderr
    charts = re.findall(r"^chart: (.+)$", ran.stdout, re.MULTILINE)
    assert len(charts) >= 5
    assert all((tmp_path / chart).is_file() for chart in charts)
    by_hand = re.findall(r"difference from the library ([\d.e+-]+)", ran.stdout)
    assert len(by_hand) == 2
    assert max(map(float, by_hand)) < 1e-5
    by_im2col = re.findall(r"d[wb] by hand: largest difference ([\d.e+-]+)", ran.stdout)
    assert len(by_im2col) == 2
    assert max(map(float, by_im2col)) < 1e-12
    slopes = re.findall(r"(d[xwb])\[.*\]: gradient +([\d.-]+), slope +([\d.-]+)", ran.stdout)
    assert [name for name, *_ in slopes] == ["dx"] * 3 + ["dw"] * 3 + ["db"] * 3
    for _, gradient, slope in slopes:
        assert float(gradient) == pytest.approx(float(slope), abs=1e-4)
    losses = re.findall(r"loss ([\d.]+), [\d.]+ % of the test images right", ran.stdout)
    assert len(losses) >= 1
    assert len(set(losses)) == 1
    by_autograd = re.findall(r"autograd with .*, last loss ([\d.]+)", ran.stdout)
    if importlib.util.find_spec("torch"):
        assert len(by_autograd) == 1 + ("numba-simd" in ran.stdout.split("autograd")[0])
    for loss in by_autograd:
        assert float(loss) == pytest.approx(float(losses[0]), rel=1e-4)
    assert len(re.findall(r"% of the peak", ran.stdout)) in (0, 3 * len(losses))
    assert re.search(r"numpy is [\d.]+ times as fast as numpy \[[\d.]+, [\d.]+\]", ran.stdout)


def test_it_becomes_a_notebook_with_text_and_code():
    jupytext = pytest.importorskip("jupytext")
    kinds = [cell["cell_type"] for cell in jupytext.read(SCRIPT)["cells"]]
    assert kinds.count("markdown") >= 10
    assert kinds.count("code") >= 10
