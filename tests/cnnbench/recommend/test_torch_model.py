"""A PyTorch model's step: which problems it holds, what is left out, where its time goes."""

import sys
import types

import pytest

from cnnbench.recommend import parts
from cnnbench.recommend.networks import ModelError
from cnnkernels import plan
from cnnkernels.contract import Conv2D
from cnnkernels.plan import Choice, Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
torch_model = pytest.importorskip("cnnbench.recommend.torch_model")
TorchDispatchMode = torch.utils._python_dispatch.TorchDispatchMode
nn, functional = torch.nn, torch.nn.functional

SHAPE = (2, 3, 8, 8)


class Derived(nn.Conv2d):
    pass


class Functions(nn.Module):
    """Calls one convolution as a layer, and everything else as functions."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(3, 3, 3, padding=1)
        self.held = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        x = functional.max_pool2d(self.layer(input=x), 2)
        return functional.conv2d(x, self.held.weight, padding=1)


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x):
        return self.conv(self.conv(x))


def frozen():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3))
    model[0].requires_grad_(False)
    return model


MODELS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    ),
    "others": lambda: nn.Sequential(
        nn.Conv2d(3, 4, 3), Derived(4, 4, 3), nn.ConvTranspose2d(4, 4, 2), nn.AdaptiveMaxPool2d(2)
    ),
    "functions": Functions,
    "twice": Twice,
    "frozen": frozen,
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 2)),
    "nothing": lambda: None,
    "raises": lambda: 1 / 0,
    "untrained": lambda: nn.Sequential(nn.MaxPool2d(2)),
    "narrow": lambda: nn.Sequential(nn.Conv2d(5, 4, 3)),
}


@pytest.fixture(autouse=True)
def module(monkeypatch):
    """A module of a person's own, with a function for each model."""
    found = types.ModuleType("persons_own")
    for name, make in MODELS.items():
        setattr(found, name, make)
    monkeypatch.setitem(sys.modules, "persons_own", found)
    monkeypatch.setattr(sys, "path", [*sys.path])


def training(name, **how):
    return torch_model.Training(f"persons_own:{name}", SHAPE, **how)


def test_layers_are_captured_as_they_occur_with_the_gradients_they_need():
    calls, left = training("plain").capture()
    assert left == []
    assert [(call.name, call.dx, call.dw) for call in calls] == [
        ("0", False, True),
        ("2", True, False),
    ]
    assert calls[0].problem == str(Conv2D(2, 3, 8, 8, 4, 3, padding=1))
    calls, _ = training("frozen").capture()
    assert [(call.dx, call.dw) for call in calls] == [(False, False), (False, True)]


def test_a_layer_called_twice_is_there_twice():
    calls, _ = training("twice").capture()
    assert [(call.name, call.dx) for call in calls] == [("conv", False), ("conv", True)]
    assert len({call.problem for call in calls}) == 1


def test_layers_that_no_backend_computes_are_listed_with_their_reasons():
    calls, left = training("others").capture()
    assert [call.name for call in calls] == ["0"]
    assert [name for name, _ in left] == ["1", "2", "3"]
    assert left[0][1].endswith("Derived is derived from torch.nn.Conv2d")


def test_convolutions_and_poolings_called_as_functions_are_listed():
    calls, left = training("functions").capture()
    assert [call.name for call in calls] == ["layer"]
    assert [(name, reason.split(":")[0]) for name, reason in left] == [
        ("the model", "a max-pooling called as a function"),
        ("the model", "a convolution called as a function"),
    ]


def test_the_watch_is_gone_when_a_step_is_over():
    taken = training("functions")
    taken.capture()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in taken.model.modules())


class Slow(TorchDispatchMode):
    """Lets a convolution of large images take 5 s of a clock that stands still, another one 3 s."""

    now = 0.0

    def __torch_dispatch__(self, function, _, given=(), named=None):
        name = function.overloadpacket.__name__
        if "convolution" in name:
            images = given[name.endswith("backward")]
            self.now += 5.0 if images.shape[-1] == 8 else 3.0
        return function(*given, **(named or {}))


def test_a_watched_step_tells_layers_from_what_is_left(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(torch_model.time, "perf_counter", lambda: slow.now)
    taken = training("functions")
    problem = str(Conv2D(2, 3, 8, 8, 3, 3, padding=1))
    with slow:
        of_layers, others = taken.watch()
    assert of_layers == {problem: [5.0, 5.0]}
    assert {kind: seconds for kind, seconds in others.items() if seconds} == {parts.LEFT: 2 * 3.0}


def test_layers_of_one_problem_share_its_time(monkeypatch):
    slow = Slow()
    monkeypatch.setattr(torch_model.time, "perf_counter", lambda: slow.now)
    taken = training("twice")
    with slow:
        of_layers, others = taken.watch()
    assert list(of_layers.values()) == [[5.0, 5.0]]
    assert parts.LEFT not in others


def test_every_operator_is_of_a_kind_and_no_time_is_negative():
    of_layers, others = training("plain").watch()
    assert set(others) == {
        parts.ACTIVATIONS, parts.SUMS, parts.OPTIMIZER, parts.OTHERS, parts.BETWEEN
    }  # fmt: skip
    assert all(seconds >= 0 for seconds in others.values())
    assert len(of_layers) == 2
    assert all(seconds > 0 for passes in of_layers.values() for seconds in passes)


def test_layers_of_a_converted_model_are_watched_too():
    plain = training("plain")
    problems = {call.problem for call in plain.capture()[0]}
    choices = {plan.descriptor.parse(problem): Choice("numpy") for problem in problems}
    before = plan.use(Plan(choices, "numpy", torch.get_num_threads()))
    try:
        of_layers, others = training("plain", converted=True).watch()
    finally:
        plan.use(before)
    assert set(of_layers) == problems
    assert parts.LEFT not in others


def test_what_watching_takes_is_no_part_of_a_step(monkeypatch):
    slow, keep = Slow(), torch_model._Watch._keep

    def keeping(*given):
        slow.now += 100.0
        keep(*given)

    monkeypatch.setattr(torch_model.time, "perf_counter", lambda: slow.now)
    monkeypatch.setattr(torch_model._Watch, "_keep", keeping)
    with slow:
        _, others = training("plain").watch()
    assert others[parts.BETWEEN] == 0


@pytest.mark.parametrize("how", ["autocast", "compiled"])
def test_other_ways_of_pytorch_take_steps(how, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model: lambda x: model(x) * 2)
    taken = training("plain", **{how: True})
    before = taken.model[0].weight.detach().clone()
    taken.step()
    assert not torch.equal(taken.model[0].weight, before)


def test_a_converted_model_trains_as_the_plain_one_does():
    plain = training("plain")
    calls, _ = plain.capture()
    choices = {plan.descriptor.parse(call.problem): Choice("numpy") for call in calls}
    before = plan.use(Plan(choices, "numpy", torch.get_num_threads()))
    try:
        ours = training("plain", converted=True)
        ours.step()
    finally:
        plan.use(before)
    assert type(ours.model[0]).__module__ == "cnnkernels.torch"
    for one, other in zip(ours.model.parameters(), plain.model.parameters(), strict=True):
        torch.testing.assert_close(one, other)


def test_channels_last_is_a_layout_of_model_and_images():
    taken = training("plain", channels_last=True)
    assert taken.model[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert taken._images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("none_such", "persons_own has no function 'none_such'"),
        ("nothing", r"expected nothing\(\) to return a torch.nn.Module, got NoneType"),
        ("raises", r"raises\(\) raised ZeroDivisionError"),
        ("untrained", "has no trainable parameter"),
    ],
)
def test_what_is_no_model_to_train_is_said(name, words):
    with pytest.raises(ModelError, match=words):
        training(name)


def test_images_that_do_not_fit_are_said():
    with pytest.raises(ModelError, match=r"a training step on images of 2,3,8,8 raised"):
        training("narrow").step()


def test_a_module_that_cannot_be_imported_is_said():
    with pytest.raises(ModelError, match=r"no_such_module cannot be imported: ModuleNotFound"):
        torch_model.load("no_such_module:net")
