"""The models of the examples are found as their documents say, and all of their layers taken."""

import re
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torch_model = pytest.importorskip("cnnbench.recommend.torch_model")

ROOT = Path(__file__).parents[2]

CONVOLUTIONS = {"resnet_digits": 11, "resnet18_cifar": 20, "vgg_cifar": 8}
POOLINGS = {"resnet_digits": 1, "resnet18_cifar": 0, "vgg_cifar": 5}

COMMANDS = re.findall(
    r"^    cnnbench recommend (\S+:(\w+)) --input \d+,(\S+)$",
    (ROOT / "examples/models.py").read_text("utf-8"),
    re.MULTILINE,
)


def test_there_is_a_command_for_every_model():
    assert [name for _, name, _ in COMMANDS] == list(CONVOLUTIONS)


@pytest.mark.parametrize(("place", "name", "image"), COMMANDS)
def test_every_layer_of_a_model_is_captured(place, name, image, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(sys, "path", sys.path.copy())
    training = torch_model.Training(place, [2, *map(int, image.split(","))])
    calls, left = training.capture()
    assert not left
    assert sum(call.dw for call in calls) == CONVOLUTIONS[name]
    assert sum(not call.dw for call in calls) == POOLINGS[name]
