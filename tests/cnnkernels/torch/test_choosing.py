"""Layers run on the named backend, or on those of a plan."""

import copy
import dataclasses
import os
import shutil

import pytest

from cnnkernels import host, plan, registry
from cnnkernels.contract import Conv2D, MaxPool2D, Unsupported
from cnnkernels.plan import Choice, Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
differentiable = pytest.importorskip("cnnkernels.torch.differentiable")
operators = pytest.importorskip("cnnkernels.torch.operators")
nn = torch.nn

FIRST = Conv2D(3, 2, 6, 6, 4, 3, padding=1, dtype="float64")
POOL = MaxPool2D(3, 4, 6, 6, 2, dtype="float64")


def planned(*, unmeasured="fall back", **others):
    return Plan(
        {FIRST: Choice("numba-simd"), POOL: Choice("torch-cpu")},
        fallback="numpy",
        threads=torch.get_num_threads(),
        unmeasured=unmeasured,
        **others,
    )


@pytest.fixture
def in_force(monkeypatch):
    monkeypatch.delenv(plan.VARIABLE, raising=False)
    before = plan.use(None)
    yield
    plan.use(before)


def follow(how, followed):
    """Return the backend argument that follows a plan: the plan itself, or 'auto'."""
    if how == "auto":
        plan.use(followed)
        return "auto"
    return followed


@pytest.fixture
def two_backends(draw):
    """Return a plan of two problems with different backends, and their inputs."""
    pytest.importorskip("numba")
    chosen = {
        Conv2D(2, 2, 4, 4, 2, 3, padding=1, dtype="float64"): Choice("numba-simd"),
        MaxPool2D(2, 2, 4, 4, 2, dtype="float64"): Choice("numpy"),
    }
    followed = Plan(chosen, "naive", torch.get_num_threads(), unmeasured="refuse")
    distinct = torch.arange(2 * 2 * 4 * 4, dtype=torch.float64).flip(0).reshape(2, 2, 4, 4)
    return followed, (draw(2, 2, 4, 4), draw(2, 2, 3, 3), draw(2)), distinct.requires_grad_()


@pytest.mark.usefixtures("in_force")
@pytest.mark.parametrize("how", ["auto", "a plan"])
def test_gradients_of_a_plan_are_slopes(how, two_backends):
    followed, given, distinct = two_backends
    backend = follow(how, followed)
    assert torch.autograd.gradcheck(
        lambda *given: layers.conv2d(*given, padding=1, backend=backend), given
    )
    assert torch.autograd.gradcheck(lambda x: layers.max_pool2d(x, 2, backend=backend), (distinct,))


@pytest.mark.slow
@pytest.mark.usefixtures("in_force")
@pytest.mark.parametrize("how", ["auto", "a plan"])
def test_pytorch_accepts_the_operators_that_a_plan_calls(how, monkeypatch, two_backends):
    called = []

    def recorded(operator, has_gradients):
        def call(*arguments):
            tensors = [
                a if has_gradients or not torch.is_tensor(a) else a.detach() for a in arguments
            ]
            called.append((operator, tensors))
            return operator(*arguments)

        return call

    for one in operators.conv2d, operators.max_pool2d:
        monkeypatch.setattr(one, "operator", recorded(one.operator, True))
        monkeypatch.setattr(one, "backward_operator", recorded(one.backward_operator, False))
    monkeypatch.setattr(differentiable, "followed", lambda: True)
    followed, given, distinct = two_backends
    backend = follow(how, followed)
    layers.conv2d(*given, padding=1, backend=backend).sum().backward()
    layers.max_pool2d(distinct, 2, backend=backend).sum().backward()
    told = [text for _, arguments in called for text in arguments if isinstance(text, str)]
    assert told == ["numba-simd"] * 2 + ["numpy"] * 2
    for operator, arguments in called:
        torch.library.opcheck(operator, tuple(arguments))


def test_a_model_follows_a_plan(monkeypatch, draw, close, model):
    followed = planned()
    network = layers.convert(model(), followed)
    assert "backend=a plan of 2 problems" in repr(network)
    found = []
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name: found.append(name) or load(name))
    x = draw(3, 2, 6, 6, grad=False)
    close(network(x), model()(x))
    assert {"numba-simd", "torch-cpu", "numpy"} == set(found)
    assert list(followed.choices) == [FIRST, POOL]


def test_a_plan_that_cannot_be_followed_is_refused_at_once(monkeypatch, model):
    load = registry.load

    def without_numba(name):
        if name.startswith("numba"):
            raise Unsupported("Numba is not installed here")
        return load(name)

    monkeypatch.setattr(registry, "load", without_numba)
    network = model()
    with pytest.raises(Unsupported, match="plan has chosen numba-simd: Numba is not installed"):
        layers.convert(network, planned())
    assert type(network[0]) is nn.Conv2d


@pytest.mark.usefixtures("in_force")
def test_backward_is_computed_by_the_backend_of_forward(draw, close):
    x = draw(3, 4, 6, 6)
    theirs = torch.autograd.grad(nn.functional.max_pool2d(x, 2).sum(), x)
    plan.use(Plan({POOL: Choice("numpy")}, "numpy", 1))
    ours = layers.max_pool2d(x, 2).sum()
    plan.use(Plan({POOL: Choice("naive")}, "naive", 1))
    close(torch.autograd.grad(ours, x)[0], theirs[0])


def test_a_copied_model_follows_a_copy_of_the_plan(draw, close, model):
    network = layers.convert(model(), planned())
    other = copy.deepcopy(network)
    assert other[0].backend is other[3].backend
    assert other[0].backend is not network[0].backend
    close(other(x := draw(3, 2, 6, 6)), network(x))


@pytest.mark.slow
def test_a_saved_model_follows_its_plan_in_another_process(python, tmp_path, draw, close, model):
    network = layers.convert(model(), planned())
    x = draw(3, 2, 6, 6, grad=False)
    torch.save((network, x), tmp_path / "model.pt")
    told = python(
        "import torch\n"
        f"network, x = torch.load({str(tmp_path / 'model.pt')!r}, weights_only=False)\n"
        f"torch.save(network(x), {str(tmp_path / 'y.pt')!r})\n"
        "print(*(choice.backend for choice in network[0].backend.choices.values()))"
    )
    assert told.split() == ["numba-simd", "torch-cpu"]
    close(torch.load(tmp_path / "y.pt"), network(x))


def test_a_plan_that_chose_torch_leaves_pytorchs_layer(monkeypatch, draw, close):
    followed = Plan({FIRST: Choice("torch-cpu")}, "torch-cpu", torch.get_num_threads())
    network = layers.convert(nn.Conv2d(2, 4, 3, padding=1).double(), followed)
    monkeypatch.setattr(operators, "conv2d", None)
    close(network(x := draw(3, 2, 6, 6)), layers.revert(network)(x))


@pytest.mark.usefixtures("in_force")
def test_auto_needs_a_plan_in_force(draw, close):
    x, w = draw(3, 2, 6, 6), draw(4, 2, 3, 3)
    with pytest.raises(Unsupported, match="no plan is active"):
        layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
    plan.use(planned())
    ours = layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
    close(ours, nn.functional.conv2d(x, w, padding=1))


def test_a_plan_of_other_threads_warns(model):
    other = Plan({}, "numpy", torch.get_num_threads() + 1, host.fingerprint())
    with pytest.warns(plan.PlanWarning, match="threads"):
        layers.convert(model(), other)


# --------------------------------------------------------------------------------------------
# compilers


def compiler():
    return shutil.which(os.environ.get("CXX", "g++"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of PyTorch's own code
@pytest.mark.parametrize(
    "compiled_by",
    [
        "aot_eager",
        pytest.param(
            "inductor",
            marks=pytest.mark.skipif(compiler() is None, reason="there is no C++ compiler"),
        ),
    ],
)
def test_torch_compile_follows_a_plan(compiled_by, draw, model, close_steps):
    measured = []

    def measure(problem):
        assert type(torch.ones(1) + 1) is torch.Tensor  # not what a tracer computes with
        measured.append(problem)
        return Choice("numba-simd")

    followed = planned(unmeasured=measure)
    network = layers.convert(model(), followed)
    x = draw(3, 2, 6, 6, grad=False)
    compiled = torch.compile(network, backend=compiled_by, fullgraph=True)
    close_steps(compiled, model(), x)
    assert list(followed.choices) == [FIRST, POOL, *measured]
    assert len(measured) == 2


def test_what_is_exported_names_backends(draw):
    measured = planned(unmeasured=lambda problem: pytest.fail(f"{problem} measured in a trace"))
    network = layers.convert(nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3)).double(), measured)
    with pytest.warns(plan.PlanWarning, match="numpy computes it, unmeasured"):
        graph = torch.export.export(network, (draw(3, 4, 6, 6, grad=False),), strict=False).graph
    assert "aten.max_pool2d" in str(graph)
    assert "cnnkernels.max_pool2d" in str(graph)
    assert list(measured.choices) == [FIRST, POOL]


# --------------------------------------------------------------------------------------------
# a GPU


@pytest.fixture
def cuda():
    try:
        registry.load("torch-cuda")
    except Unsupported as reason:
        pytest.skip(str(reason))


@pytest.mark.cuda
@pytest.mark.usefixtures("cuda")
def test_a_model_on_a_gpu_is_pytorchs_with_torch_cuda(draw, model, close_steps):
    network, plain = (net(torch.float32).to("cuda") for net in (model, model))
    layers.convert(network, "torch-cuda")
    x = draw(3, 2, 6, 6, dtype=torch.float32, grad=False).to("cuda")
    close_steps(network, plain, x)
    with pytest.raises(ValueError, match="expected a tensor on a GPU, where torch-cuda computes"):
        network.to("cpu")(x.to("cpu"))
    layers.convert(network.to("cuda"), "numpy")
    with pytest.raises(ValueError, match="expected a tensor on the CPU, where numpy computes"):
        network(x)


def test_without_a_gpu_torch_cuda_says_why(model):
    try:
        registry.load("torch-cuda")
    except Unsupported as reason:
        with pytest.raises(Unsupported, match=f"^{reason}$".replace("+", r"\+")):
            layers.convert(model(), "torch-cuda")
    else:
        pytest.skip("there is one")


def test_backends_of_other_devices_are_refused(monkeypatch, draw, model):
    numpy = registry.load("numpy")
    elsewhere = type("Elsewhere", (type(numpy.arrays),), {"device": "tpu"})()
    other = dataclasses.replace(numpy, arrays=elsewhere)
    monkeypatch.setattr(registry, "load", lambda name: other if name == "numpy" else None)
    with pytest.raises(Unsupported, match="numpy computes on tpu; layers support"):
        layers.convert(model(), "numpy")
    with pytest.raises(Unsupported, match="numpy computes on tpu; layers support"):
        layers.max_pool2d(draw(1, 1, 4, 4), 2, backend="numpy")
