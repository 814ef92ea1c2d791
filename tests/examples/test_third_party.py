"""The example of a stranger's package installs, passes its tests, trains, and stays short."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnkernels.conformance import CORNER

PACKAGE = Path(__file__).parents[2] / "examples/third_party"

STEP = """
import torch
from torch import nn

import cnnkernels.torch


def network():
    torch.manual_seed(0)
    first = nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)
    return nn.Sequential(*first, nn.Conv2d(4, 4, 3, 2), nn.Flatten(), nn.Linear(4, 2))


theirs, ours = network(), cnnkernels.torch.convert(network(), "my-backend")
for one in theirs, ours:
    torch.manual_seed(1)
    images, labels = torch.randn(5, 1, 8, 8), torch.tensor([0, 1, 0, 1, 1])
    optimizer = torch.optim.SGD(one.parameters(), lr=1)
    nn.functional.cross_entropy(one(images), labels).backward()
    optimizer.step()
assert ours[0].backend == ours[2].backend == ours[3].backend == "my-backend"
for mine, right, start in zip(*(n.parameters() for n in (ours, theirs, network())), strict=True):
    torch.testing.assert_close(mine, right)
    assert not torch.equal(mine, start)
"""
"""A step of a converted network, which PyTorch's layers would have taken too."""


def run(*arguments, **how):
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=False, **how
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """Install the package into a folder of its own; return how processes find it there."""
    pytest.importorskip("setuptools", reason="setuptools, which builds the package, is missing")
    folder = tmp_path_factory.mktemp("third_party")
    source = shutil.copytree(PACKAGE, folder / "source")
    pip = "pip", "install", "--no-index", "--no-deps", "--no-build-isolation"
    run("-m", *pip, "--target", folder / "site", source)
    path = os.pathsep.join(filter(None, [str(folder / "site"), os.environ.get("PYTHONPATH")]))
    return {"cwd": folder, "env": os.environ | {"PYTHONPATH": path}}


@pytest.mark.slow
def test_it_passes_its_own_conformance_tests(installed):
    told = run("-m", "pytest", "-q", "-rs", "source", **installed)
    grouped = sum(descriptor.startswith("g") for descriptor in CORNER)
    assert f"{len(CORNER) - grouped} passed, {grouped} skipped" in told
    assert "groups of channels" in told


@pytest.mark.slow
def test_a_converted_network_takes_a_step_with_it(installed):
    pytest.importorskip("torch", reason="PyTorch is not installed")
    run("-c", STEP, **installed)


def test_backend_and_tests_together_are_under_40_lines():
    lines = [line for path in PACKAGE.glob("*.py") for line in path.read_text("utf-8").splitlines()]
    assert sum(bool(line.strip()) for line in lines) < 40
