"""The ResNet of the examples learns the same, converted or not."""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from cnnbench.report import curves

torch = pytest.importorskip("torch", reason="PyTorch is not installed")

SCRIPT = Path(__file__).parents[2] / "examples/train_resnet.py"


@pytest.mark.slow
def test_converted_it_has_pytorchs_losses(tmp_path):
    ran = subprocess.run(
        [sys.executable, SCRIPT, "--epochs", "1", "--reach", "0.5", "--csv", "curves.csv"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=250,
    )
    assert ran.returncode == 0, ran.stderr
    assert "converted: 11 convolutions and 1 max-pooling" in ran.stdout
    ((theirs, ours),) = re.findall(
        r"^ +1 +([\d.]+) +[\d.]+ % +([\d.]+) +[\d.]+ %$", ran.stdout, re.MULTILINE
    )
    assert float(theirs) < 1  # by chance 2.3
    # Rounding grows from step to step: 1e-4 in this epoch; gradients that lack a tap make 0.04.
    assert float(ours) == pytest.approx(float(theirs), rel=5e-3)
    assert len(re.findall(r": 50 % after epoch 1, [\d.]+ s$", ran.stdout, re.MULTILINE)) == 2
    drawn = curves.read(tmp_path / "curves.csv")
    assert list(drawn) == ["PyTorch", "numba-simd"]
    assert all(point.accuracy > 0.5 for points in drawn.values() for point in points)


def test_made_up_images_are_the_same_each_time(monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)
    train_resnet = importlib.import_module("train_resnet")
    one, other = (train_resnet.textures(number=8, tests=4) for _ in range(2))
    assert one.train[0].shape == (8, 3, 32, 32)
    assert one.test[1].shape == (4,)
    for (images, labels), (same, same_labels) in zip(one[:2], other[:2], strict=True):
        assert torch.equal(images, same)
        assert torch.equal(labels, same_labels)
