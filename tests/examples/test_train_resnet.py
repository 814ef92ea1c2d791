"""The ResNet of the examples learns the same, converted or not."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

SCRIPT = Path(__file__).parents[2] / "examples/train_resnet.py"


@pytest.mark.slow
def test_converted_it_has_pytorchs_losses(tmp_path):
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--epochs", "2"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stderr
    assert "converted: 11 convolutions and 1 max-pooling" in ran.stdout
    losses = re.findall(r"^ +(\d) +([\d.]+) +([\d.]+)$", ran.stdout, re.MULTILINE)
    assert [epoch for epoch, _, _ in losses] == ["1", "2"]
    for _, theirs, ours in losses:  # rounding grows from step to step: 0.01 in the second epoch
        assert float(ours) == pytest.approx(float(theirs), rel=0.05)
    assert float(losses[1][2]) < float(losses[0][2])
