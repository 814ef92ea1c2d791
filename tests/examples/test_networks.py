"""The networks of the examples are those of their papers, and learn the same when converted."""

import copy
import re
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torch_model = pytest.importorskip("cnnbench.recommend.torch_model")

import cnnkernels.torch  # noqa: E402

ROOT = Path(__file__).parents[2]

THEIRS = torch.nn.Conv2d, torch.nn.MaxPool2d
OURS = cnnkernels.torch.Conv2d, cnnkernels.torch.MaxPool2d

PARAMETERS = {
    "resnet50": 25_557_032,
    "vgg11_bn": 132_868_840,
    "mobilenet_v3_small": 2_542_856,
    "densenet121": 7_978_856,
    "squeezenet1_1": 1_235_496,
    "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128,
    "unet": 31_037_698,
}
"""Published numbers, except the U-Net's, which is counted."""

LAYERS = {
    "resnet50": (53, 1),
    "vgg11_bn": (8, 5),
    "mobilenet_v3_small": (52, 0),
    "densenet121": (120, 1),
    "squeezenet1_1": (26, 3),
    "efficientnet_b0": (81, 0),
    "convnext_tiny": (22, 0),
    "unet": (19, 4),
}
"""Convolutions and max-poolings of each network."""

SIDE = {"convnext_tiny": 32, "unet": 32}
"""Sides of the images; elsewhere 64, so that batch normalization sees a few pixels everywhere."""

RATE = {
    "resnet50": 3e-6,
    "squeezenet1_1": 0.1,
    "efficientnet_b0": 1e-3,
    "convnext_tiny": 1e-3,
}
"""Learning rates, elsewhere 0.01. The loss falls, and rounding errors grow slowly.

ResNet-50's grow fastest: at 1e-3, from 1e-15 to 1e-9 in four steps, and to 0.1 in ten.
"""


@pytest.fixture
def network(monkeypatch):
    """Return a function from a network's name to a new one, the same each time."""
    monkeypatch.chdir(ROOT)
    monkeypatch.syspath_prepend(ROOT)

    def make(name):
        return torch_model.load(f"examples.networks:{name}")

    return make


def test_there_is_a_command_for_every_network():
    text = (ROOT / "examples/networks.py").read_text("utf-8")
    commands = r"^    cnnbench recommend examples\.networks:(\w+) --input \d+,3,\d+,\d+$"
    assert re.findall(commands, text, re.MULTILINE) == list(PARAMETERS)


@pytest.mark.parametrize("name", PARAMETERS)
def test_a_network_has_the_published_number_of_parameters(name, network):
    with torch.device("meta"):
        made = network(name)
    assert sum(parameter.numel() for parameter in made.parameters()) == PARAMETERS[name]


def batch(name):
    """Return two images and their labels, which are maps for the U-Net."""
    random = torch.Generator().manual_seed(0)
    side = SIDE.get(name, 64)
    images = torch.randn(2, 3, side, side, dtype=torch.float64, generator=random)
    shape, classes = ((2, side, side), 2) if name == "unet" else ((2,), 1000)
    return images, torch.randint(classes, shape, generator=random)


def loss_of(model, images, labels, seed):
    """Return the loss in training, with the dropout of a seed."""
    torch.manual_seed(seed)
    return torch.nn.functional.cross_entropy(model(images), labels)


def learn(model, images, labels, rate, steps=4):
    """Train a model, and return the loss before each step."""
    optimizer = torch.optim.SGD(model.parameters(), rate)
    losses = []
    for step in range(steps):
        loss = loss_of(model, images, labels, step)
        optimizer.zero_grad(set_to_none=False)  # no new memory
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def count(model, *kinds):
    """Return how many layers have exactly each class."""
    return tuple(sum(type(layer) is kind for layer in model.modules()) for kind in kinds)


@pytest.mark.slow
@pytest.mark.parametrize("name", PARAMETERS)
def test_converted_a_network_learns_the_same(name, network):
    theirs = network(name)
    if name == "vgg11_bn":  # without the large layers, whose 124 million weights stay PyTorch's
        head = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(512, 1000)
        theirs = torch.nn.Sequential(*theirs[:-9], *head)
    before = copy.deepcopy(theirs.double().state_dict())
    model = cnnkernels.torch.convert(copy.deepcopy(theirs), "numba-simd")
    assert count(model, *OURS) == LAYERS[name]
    assert count(model, *THEIRS) == (0, 0)

    images, labels = batch(name)
    rate = RATE.get(name, 0.01)
    expected = learn(theirs, images, labels, rate)
    losses = learn(model, images, labels, rate)
    assert min(expected) < 0.99 * expected[0]
    assert losses == pytest.approx(expected, rel=1e-9)

    learned = model.state_dict()
    assert list(learned) == list(before)
    for key, value in theirs.state_dict().items():
        moved, apart = ((value - other[key]).double().norm() for other in (before, learned))
        # A bias before a normalization has no gradient: rounding moves it by 1e-17.
        assert apart <= 1e-6 * moved + 1e-14, key

    assert cnnkernels.torch.revert(model) is model
    assert count(model, *THEIRS) == LAYERS[name]
    model.load_state_dict(before)
    assert loss_of(model, images, labels, 0).item() == pytest.approx(expected[0], rel=1e-12)
