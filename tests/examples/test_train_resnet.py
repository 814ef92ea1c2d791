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
        [sys.executable, SCRIPT, "--epochs", "1"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stderr
    assert "converted: 11 convolutions and 1 max-pooling" in ran.stdout
    ((theirs, ours),) = re.findall(r"^ +1 +([\d.]+) +([\d.]+)$", ran.stdout, re.MULTILINE)
    assert float(theirs) < 1  # by chance 2.3
    # Rounding grows from step to step: 1e-4 in this epoch; gradients that lack a tap make 0.04.
    assert float(ours) == pytest.approx(float(theirs), rel=5e-3)
