"""Converted layers are PyTorch's, but for who computes: values, gradients, state, refusals."""

import copy
import dataclasses
import os
import shutil
import warnings

import pytest

from cnnkernels import host, plan, registry
from cnnkernels.contract import Conv2D, MaxPool2D, Unsupported
from cnnkernels.plan import Choice, Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn
parametrizations, parametrize = nn.utils.parametrizations, nn.utils.parametrize
prune = pytest.importorskip("torch.nn.utils.prune")

BACKENDS = ("naive", "numpy", "numba", "numba-simd", "torch-cpu", "torch-cpu-nhwc")

CONVOLUTIONS = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    "strided": ((2, 4, 7, 6), (6, 2, 3, 2), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
    "dilated": ((1, 2, 8, 8), (2, 2, 3, 3), {"dilation": 2, "padding": "same"}),
    "depthwise": ((2, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "pointwise": ((2, 5, 4, 4), (3, 5, 1, 1), {}),
}

POOLINGS = {
    "plain": ((2, 3, 6, 6), 2, {}),
    "overlapping": ((2, 3, 7, 9), 3, {"stride": 2, "padding": 1}),
    "ceil": ((1, 2, 6, 7), (3, 2), {"stride": (2, 3), "ceil_mode": True}),
}


@pytest.fixture(params=BACKENDS)
def backend(request):
    return request.param


def draw(*shape, dtype=torch.float64, grad=True):
    return torch.randn(shape, dtype=dtype, generator=GENERATOR).requires_grad_(grad)


GENERATOR = torch.Generator().manual_seed(7)


def close(ours, theirs):
    assert ours.dtype == theirs.dtype
    rtol, atol = (1e-10, 1e-12) if ours.dtype == torch.float64 else (1e-4, 1e-5)
    torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)


# --------------------------------------------------------------------------------------------
# operators


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_pytorchs(backend, name, bias):
    x_shape, w_shape, how = CONVOLUTIONS[name]
    x, w = draw(*x_shape), draw(*w_shape)
    b = draw(w_shape[0]) if bias else None
    ours = layers.conv2d(x, w, b, **how, backend=backend)
    theirs = nn.functional.conv2d(x, w, b, **how)
    close(ours, theirs)
    given = [tensor for tensor in (x, w, b) if tensor is not None]
    dy = torch.randn_like(theirs)
    for mine, right in zip(
        torch.autograd.grad(ours, given, dy), torch.autograd.grad(theirs, given, dy), strict=True
    ):
        close(mine, right)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_is_pytorchs(backend, name):
    shape, kernel, how = POOLINGS[name]
    x = draw(*shape)
    ours = layers.max_pool2d(x, kernel, **how, backend=backend)
    theirs = nn.functional.max_pool2d(x, kernel, **how)
    close(ours, theirs)
    dy = torch.randn_like(theirs)
    close(torch.autograd.grad(ours, x, dy)[0], torch.autograd.grad(theirs, x, dy)[0])


def test_gradients_are_slopes(backend):
    x, w, b = draw(2, 2, 4, 4), draw(2, 2, 3, 3), draw(2)
    assert torch.autograd.gradcheck(
        lambda *given: layers.conv2d(*given, padding=1, backend=backend), (x, w, b)
    )
    distinct = torch.arange(2 * 2 * 4 * 4, dtype=torch.float64).flip(0).reshape(2, 2, 4, 4)
    assert torch.autograd.gradcheck(
        lambda x: layers.max_pool2d(x, 2, backend=backend), distinct.requires_grad_()
    )


@pytest.mark.slow
def test_pytorch_accepts_the_operators(backend):
    x, w, b = draw(2, 2, 5, 5), draw(3, 2, 3, 3), draw(3)
    geometry = [1, 1, 1, 1, 1, 1, 1, 1, 1]
    torch.library.opcheck(layers._conv2d, (x, w, b, geometry, backend))
    torch.library.opcheck(layers._conv2d, (x, w.detach(), None, geometry, backend))
    window = [2, 2, 2, 2, 0, 0, 1, 1]
    torch.library.opcheck(layers._max_pool2d, (x, window, False, backend))
    with torch.no_grad():
        y, cache = layers._conv2d(x, w, b, geometry, backend)
        maxima, winners = layers._max_pool2d(x, window, False, backend)
    torch.library.opcheck(
        layers._conv2d_backward,
        (y, x.detach(), w.detach(), cache, True, geometry, backend, [True, False, True]),
    )
    torch.library.opcheck(
        layers._max_pool2d_backward, (maxima, winners, [2, 2, 5, 5], window, False, backend)
    )


def follow(how, followed):
    """Return what conv2d and max_pool2d take to follow a plan: itself, or 'auto'."""
    if how == "auto":
        plan.use(followed)
        return "auto"
    return followed


@pytest.fixture
def in_force(monkeypatch):
    monkeypatch.delenv(plan.VARIABLE, raising=False)
    before = plan.use(None)
    yield
    plan.use(before)


def two_backends():
    """Return a plan of two problems, each with another backend, and what they are computed of."""
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
def test_gradients_of_a_plan_are_slopes(how):
    followed, given, distinct = two_backends()
    backend = follow(how, followed)
    assert torch.autograd.gradcheck(
        lambda *given: layers.conv2d(*given, padding=1, backend=backend), given
    )
    assert torch.autograd.gradcheck(lambda x: layers.max_pool2d(x, 2, backend=backend), (distinct,))


@pytest.mark.slow
@pytest.mark.usefixtures("in_force")
@pytest.mark.parametrize("how", ["auto", "a plan"])
def test_pytorch_accepts_the_operators_that_a_plan_calls(how, monkeypatch):
    called = []

    def recorded(operator, has_gradients):
        def call(*arguments):
            tensors = [
                a if has_gradients or not torch.is_tensor(a) else a.detach() for a in arguments
            ]
            called.append((operator, tensors))
            return operator(*arguments)

        return call

    for name in ("_conv2d", "_conv2d_backward", "_max_pool2d", "_max_pool2d_backward"):
        operator = recorded(getattr(layers, name), not name.endswith("backward"))
        monkeypatch.setattr(layers, name, operator)
    monkeypatch.setattr(layers, "_followed", lambda: True)
    followed, given, distinct = two_backends()
    backend = follow(how, followed)
    layers.conv2d(*given, padding=1, backend=backend).sum().backward()
    layers.max_pool2d(distinct, 2, backend=backend).sum().backward()
    told = [text for _, arguments in called for text in arguments if isinstance(text, str)]
    assert told == ["numba-simd"] * 2 + ["numpy"] * 2
    for operator, arguments in called:
        torch.library.opcheck(operator, tuple(arguments))


def test_images_without_a_batch(backend):
    x, w = draw(3, 6, 6, grad=False), draw(2, 3, 3, 3)
    close(layers.conv2d(x, w, backend=backend), nn.functional.conv2d(x, w))
    close(layers.max_pool2d(x, 2, backend=backend), nn.functional.max_pool2d(x, 2))


def test_only_needed_gradients_are_computed(monkeypatch):
    asked = []
    kernel = registry.load("numpy").convolution
    backward = kernel.backward

    def recording(*arguments):
        asked.append(arguments[-1])
        return backward(*arguments)

    monkeypatch.setattr(kernel, "backward", recording)
    x, w, b = draw(1, 2, 4, 4, grad=False), draw(2, 2, 3, 3), draw(2, grad=False)
    layers.conv2d(x, w, b, backend="numpy").sum().backward()
    assert asked == [(False, True, False)]
    x, w = draw(1, 2, 4, 4), draw(2, 2, 3, 3, grad=False)
    layers.conv2d(x, w, b, backend="numpy").sum().backward()
    assert asked[1:] == [(True, False, False)]
    with torch.no_grad():
        assert not layers.conv2d(x, w, b, backend="numpy").requires_grad
    assert len(asked) == 2


def test_channels_last_images(backend):
    x = draw(2, 3, 6, 6, grad=False).to(memory_format=torch.channels_last).requires_grad_()
    w = draw(4, 3, 3, 3, grad=False).to(memory_format=torch.channels_last).requires_grad_()
    y = layers.conv2d(x, w, backend=backend)
    assert y.is_contiguous()
    close(y, nn.functional.conv2d(x, w))
    dy = torch.randn_like(y).to(memory_format=torch.channels_last)
    theirs = torch.autograd.grad(nn.functional.conv2d(x, w), (x, w), dy)
    for mine, right in zip(torch.autograd.grad(y, (x, w), dy), theirs, strict=True):
        close(mine, right)
    close(layers.max_pool2d(x, 2, backend=backend), nn.functional.max_pool2d(x, 2))


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes which operators are dispatched."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **kwargs or {})


def test_those_who_follow_operators_see_ours():
    x, w = draw(1, 2, 5, 5), draw(2, 2, 3, 3)
    with Seen() as seen:
        pooled = layers.max_pool2d(layers.conv2d(x, w, backend="numpy"), 2, backend="numpy")
        pooled.sum().backward()
    assert [name for name in seen.names if name.startswith("cnnkernels::")] == [
        "cnnkernels::conv2d",
        "cnnkernels::max_pool2d",
        "cnnkernels::max_pool2d_backward",
        "cnnkernels::conv2d_backward",
    ]


@pytest.mark.parametrize("followed", [False, True], ids=["directly", "as operators"])
def test_with_operators_and_without_it_is_the_same(followed, monkeypatch):
    x, w, b = draw(2, 2, 6, 6), draw(3, 2, 3, 3), draw(3)
    expected = nn.functional.max_pool2d(nn.functional.conv2d(x, w, b), 2)
    right = torch.autograd.grad(expected.square().sum(), (x, w, b))
    monkeypatch.setattr(layers, "_followed", lambda: followed)
    y = layers.max_pool2d(layers.conv2d(x, w, b, backend="numpy"), 2, backend="numpy")
    close(y, expected)
    for mine, theirs in zip(torch.autograd.grad(y.square().sum(), (x, w, b)), right, strict=True):
        close(mine, theirs)


def test_double_backward_is_refused():
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    for y in (layers.conv2d(x, w, backend="numpy"), layers.max_pool2d(x, 2, backend="numpy")):
        (slope,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="double backward"):
            slope.sum().backward()


@pytest.mark.parametrize(
    ("x", "w", "error", "words"),
    [
        (
            torch.ones(1, 1, 4, 4, dtype=torch.float16),
            torch.ones(1, 1, 3, 3),
            TypeError,
            "autocast",
        ),
        (
            torch.ones(1, 1, 4, 4, device="meta"),
            torch.ones(1, 1, 3, 3),
            ValueError,
            "w: .* on meta",
        ),
        (
            torch.ones(1, 1, 4, 4, device="meta"),
            torch.ones(1, 1, 3, 3, device="meta"),
            ValueError,
            r"on the CPU, where numpy computes, got one on meta; .*'torch-cuda'.*revert",
        ),
        (torch.ones(4, 4), torch.ones(1, 1, 3, 3), ValueError, "images"),
        (torch.ones(1, 2, 4, 4), torch.ones(1, 1, 3, 3), ValueError, "w: expected shape"),
        (torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3).double(), TypeError, "dtype of x"),
        ([[1.0]], torch.ones(1, 1, 3, 3), TypeError, "expected a Tensor"),
    ],
)
def test_what_does_not_fit_is_said(x, w, error, words):
    with pytest.raises(error, match=words):
        layers.conv2d(x, w, backend="numpy")


def test_unknown_backends():
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match="did you mean 'numba'"):
        layers.conv2d(x, w, backend="nmba")
    with pytest.raises(TypeError, match="name or a Plan"):
        layers.conv2d(x, w, backend=3)
    with pytest.raises(ValueError, match="'same', 'valid' or numbers"):
        layers.conv2d(x, w, padding="full", backend="numpy")
    with pytest.raises(ValueError, match="stride 1"):
        layers.conv2d(x, w, padding="same", stride=2, backend="numpy")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64 + 1])
def test_numbers_that_no_kernel_can_compute_with_are_refused(backend, number):
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    for what in ("stride", "padding", "dilation", "groups"):
        with pytest.raises(ValueError, match=rf"^{what}: expected at (most|least) \d+, got"):
            layers.conv2d(x, w, **{what: number}, backend=backend)
    for what in ("stride", "padding", "dilation", "kernel_size"):
        window = {"kernel_size": 1} | {what: number}
        with pytest.raises(ValueError, match=rf"^{what}: expected at (most|least) \d+, got"):
            layers.max_pool2d(x, **window, backend=backend)


# --------------------------------------------------------------------------------------------
# models


def model(dtype=torch.float64):
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect", groups=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.Flatten(),
        nn.Linear(4 * 2 * 2, 3),
    ).to(dtype)


def step(network, x):
    network.zero_grad()
    loss = network(x).square().sum()
    loss.backward()
    return loss.detach(), [parameter.grad.clone() for parameter in network.parameters()]


def test_a_converted_model_computes_the_same(backend):
    x = draw(3, 2, 6, 6, grad=False)
    plain, converted = model(), layers.convert(model(), backend)
    assert [type(layer) for layer in converted if isinstance(layer, nn.Conv2d)] == [
        layers.Conv2d
    ] * 2
    (loss, gradients), (right, right_gradients) = step(converted, x), step(plain, x)
    close(loss, right)
    for mine, theirs in zip(gradients, right_gradients, strict=True):
        close(mine, theirs)


def test_state_goes_both_ways():
    plain, converted = model(), layers.convert(model(), "numpy")
    assert list(plain.state_dict()) == list(converted.state_dict())
    converted.load_state_dict(plain.state_dict())
    plain.load_state_dict(converted.state_dict())


def test_conversion_keeps_layers_hooks_and_parameters():
    network = model()
    called = []
    network[0].register_forward_hook(lambda *_: called.append(1))
    before = list(network), list(network.parameters())
    assert layers.convert(network, "numpy") is network
    assert all(a is b for a, b in zip(before[0], network, strict=True))
    assert all(a is b for a, b in zip(before[1], network.parameters(), strict=True))
    network(draw(1, 2, 6, 6))
    assert called == [1]
    assert "backend='numpy'" in repr(network)


def test_revert_gives_pytorchs_layers_back():
    network = layers.convert(model(), "numpy")
    layers.convert(network, "naive")
    assert network[0].backend == "naive"
    layers.revert(network)
    assert {type(layer) for layer in network if isinstance(layer, nn.Conv2d)} == {nn.Conv2d}
    assert repr(network) == repr(model())
    close(network(x := draw(2, 2, 6, 6)), model()(x))


def test_what_cannot_be_converted_is_left_and_said():
    class Special(nn.Conv2d):
        pass

    network = nn.ModuleDict(
        {
            "special": Special(1, 1, 3),
            "indices": nn.MaxPool2d(2, return_indices=True),
            "plain": nn.Conv2d(1, 1, 3),
            "kept": nn.Conv2d(1, 1, 3),
        }
    )
    with pytest.warns(layers.ConversionWarning) as said:
        layers.convert(network, "numpy", keep=lambda name, _: name == "kept")
    reasons = {str(one.message).split()[0]: str(one.message) for one in said}
    assert list(reasons) == ["special", "indices"]
    assert reasons["special"].endswith("<locals>.Special is derived from torch.nn.Conv2d")
    assert "stays PyTorch's: return_indices" in reasons["indices"]
    kinds = {name: type(layer) for name, layer in network.items()}
    assert kinds["plain"] is layers.Conv2d
    assert kinds["kept"] is nn.Conv2d
    with pytest.raises(Unsupported, match="return_indices"):
        layers.MaxPool2d(2, return_indices=True, backend="numpy")


def test_layers_to_keep_stay_as_they_are():
    class Special(nn.Conv2d):
        pass

    network = nn.ModuleDict({"a": nn.Conv2d(1, 1, 3), "b": nn.Conv2d(1, 1, 3)})
    network["special"] = Special(1, 1, 3)
    layers.convert(network, "numpy", keep=lambda name, _: name == "special")
    layers.convert(network, "naive", keep=lambda name, _: name != "b")
    assert [network[name].backend for name in "ab"] == ["numpy", "naive"]
    assert type(network["special"]) is Special


def test_a_class_derived_from_ours_takes_the_backend_and_stays():
    class Ours(layers.Conv2d):
        pass

    network = nn.ModuleList([Ours(2, 3, 3, backend="numpy"), Ours(2, 3, 3, backend="numpy")])
    parametrizations.weight_norm(network[1])
    kinds = [type(layer) for layer in network]
    layers.convert(network, "naive")
    assert [layer.backend for layer in network] == ["naive"] * 2
    x = torch.zeros(1, 2, 6, 6)
    assert layers.problem_of(network[0], x) == layers.problem_of(nn.Conv2d(2, 3, 3), x)
    with pytest.warns(layers.ConversionWarning, match="stays cnnkernels'.*Ours is derived") as said:
        layers.revert(network)
    assert len(said) == 2
    assert [type(layer) for layer in network] == kinds


@pytest.mark.filterwarnings("ignore:Lazy modules:UserWarning")
def test_a_lazy_layer_is_converted_once_it_has_weights():
    network = nn.Sequential(nn.LazyConv2d(3, 3))
    with pytest.warns(layers.ConversionWarning, match="0 stays PyTorch's: LazyConv2d has no weig"):
        layers.convert(network, "numpy")
    right = network(x := torch.ones(1, 2, 5, 5))
    close(layers.convert(network, "numpy")(x), right)
    assert type(network[0]) is layers.Conv2d


def test_a_converted_model_may_become_float64():
    network = layers.convert(model(torch.float32), "numpy").double()
    x = draw(3, 2, 6, 6)
    (loss, gradients), (right, right_gradients) = step(network, x), step(model(), x)
    close(loss, right)
    for mine, theirs in zip(gradients, right_gradients, strict=True):
        close(mine, theirs)
    with pytest.raises(TypeError, match=r"w: expected torch\.float32, the dtype of x, got"):
        network(x.float())


def test_layers_after_ours_may_write_in_place():
    network = layers.convert(model(), "numpy")
    network.insert(1, nn.ReLU(inplace=True))
    network.insert(5, nn.ReLU(inplace=True))
    theirs = layers.revert(copy.deepcopy(network))
    x = draw(3, 2, 6, 6)
    for mine, right in zip(step(network, x)[1], step(theirs, x)[1], strict=True):
        close(mine, right)


def test_new_layers_of_ours():
    convolution = layers.Conv2d(2, 3, 3, padding="same", backend="numpy")
    theirs = nn.Conv2d(2, 3, 3, padding="same")
    theirs.load_state_dict(convolution.state_dict())
    x = draw(1, 2, 5, 5, dtype=torch.float32)
    close(convolution(x), theirs(x))
    close(layers.MaxPool2d(2, backend="numpy")(x), nn.MaxPool2d(2)(x))


@pytest.mark.slow
def test_torch_compile():
    network = layers.convert(model(torch.float32), "numba-simd")
    x = draw(3, 2, 6, 6, dtype=torch.float32, grad=False)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    (loss, gradients), (right, right_gradients) = step(compiled, x), step(model(torch.float32), x)
    close(loss, right)
    for mine, theirs in zip(gradients, right_gradients, strict=True):
        close(mine, theirs)


# --------------------------------------------------------------------------------------------
# layers that PyTorch has changed


REPARAMETRIZATIONS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "a bias": lambda layer: parametrize.register_parametrization(layer, "bias", nn.Tanh()),
    "hooks of weight_norm": nn.utils.weight_norm,
    "hooks of prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
}


def reparametrized(network, how):
    torch.manual_seed(4)
    for layer in network[0], network[4]:
        REPARAMETRIZATIONS[how](layer)
    return network


def train(network, x):
    """Return the losses of three steps, and the last gradients."""
    optimizer = torch.optim.SGD(network.parameters(), 0.01)
    losses = []
    for _ in range(3):
        loss, gradients = step(network, x)
        optimizer.step()
        losses.append(loss)
    return torch.stack(losses), gradients


def trains_as(ours, theirs, x):
    (losses, gradients), (right, right_gradients) = train(ours, x), train(theirs, x)
    close(losses, right)
    for mine, gradient in zip(gradients, right_gradients, strict=True):
        close(mine, gradient)


@pytest.mark.filterwarnings("ignore:.torch.nn.utils.weight_norm:FutureWarning")
@pytest.mark.parametrize("order", ["before", "after"])
@pytest.mark.parametrize("how", REPARAMETRIZATIONS)
def test_reparametrized_layers_convert_and_revert(how, order):
    theirs = reparametrized(model(), how)
    if order == "before":
        ours = layers.convert(reparametrized(model(), how), "numpy")
    else:
        ours = reparametrized(layers.convert(model(), "numpy"), how)
    x = draw(3, 2, 6, 6, grad=False)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict())
    for backend in ("numpy", "naive"):
        layers.convert(ours, backend)
        assert isinstance(ours[0], layers.Conv2d)
        assert ours[0].backend == backend
        trains_as(ours, theirs, x)
    layers.revert(ours)
    assert not isinstance(ours[0], layers.Conv2d)
    assert repr(ours) == repr(theirs)
    trains_as(ours, theirs, x)


@pytest.mark.parametrize(("convert_last", "kind"), [(True, layers.Conv2d), (False, nn.Conv2d)])
def test_removing_parametrizations_restores_the_class_that_computes(convert_last, kind):
    layer = layers.convert(nn.Conv2d(2, 3, 3), "numpy")
    parametrizations.weight_norm(layer)
    parametrizations.spectral_norm(layer)
    layers.revert(layer)
    if convert_last:
        layers.convert(layer, "numpy")
    right = layer.eval()(x := torch.ones(1, 2, 4, 4))
    parametrize.remove_parametrizations(layer, "weight")
    assert type(layer) is kind
    close(layer(x), right)


def test_copies_of_parametrized_layers_are_converted_each_alone():
    theirs = parametrizations.weight_norm(nn.Conv2d(2, 3, 3))
    ours = layers.convert(copy.deepcopy(theirs), "numpy")
    other = layers.revert(copy.deepcopy(ours))
    assert [isinstance(one, layers.Conv2d) for one in (theirs, ours, other)] == [False, True, False]
    assert copy.deepcopy(ours).backend == "numpy"
    parametrize.remove_parametrizations(ours, "weight")
    x = torch.ones(1, 2, 4, 4)
    for one in (ours, other):
        close(one(x), theirs(x))


def test_problems_of_parametrized_layers_are_found_without_changing_them():
    layer = parametrizations.spectral_norm(nn.Conv2d(2, 4, 3, padding=1).double())
    before = copy.deepcopy(layer.state_dict())
    for one in (layer, layers.convert(layer, "numpy")):
        assert layers.problem_of(one, torch.zeros(3, 2, 6, 6, dtype=torch.float64)) == FIRST
    for name, tensor in layer.state_dict().items():
        assert torch.equal(tensor, before[name])


@pytest.fixture
def quantization():
    return pytest.importorskip("torch.ao.quantization")


of_torch_ao = pytest.mark.filterwarnings(
    "ignore:torch.ao.quantization is deprecated:DeprecationWarning",
    "ignore:Please use quant_min and quant_max:UserWarning",
    "ignore:torch.quantize_per_tensor:UserWarning",
)


def to_quantize(quantization):
    network = model(torch.float32).train()
    network.qconfig = quantization.get_default_qat_qconfig("x86")
    return network


@of_torch_ao
@pytest.mark.parametrize("prepare", ["prepare_qat", "prepare"])
@pytest.mark.parametrize("kept", ["Conv2d", "MaxPool2d", "nothing"])
def test_converted_layers_refuse_to_be_quantized(quantization, prepare, kept):
    prepare = getattr(quantization, prepare)
    network = to_quantize(quantization)
    layers.convert(network, "numpy", keep=lambda _, layer: type(layer).__name__ == kept)
    with pytest.raises(Unsupported, match=r"qconfig: .*cnnkernels\.torch\.revert\(model\)"):
        prepare(network)
    right = repr(prepare(to_quantize(quantization)))
    assert repr(prepare(layers.revert(network))) == right != repr(network)


@of_torch_ao
def test_layers_that_are_kept_from_quantization_stay_converted(quantization):
    network = layers.convert(to_quantize(quantization), "numpy")
    for layer in network:
        layer.qconfig = None
    network[-1].qconfig = network.qconfig
    prepared = quantization.prepare_qat(network)
    assert type(prepared[-1]) is torch.ao.nn.qat.Linear
    assert type(prepared[0]) is layers.Conv2d
    plain = layers.convert(model(torch.float32), "numpy")
    dynamic = quantization.quantize_dynamic(plain)
    assert type(dynamic[-1]) is torch.ao.nn.quantized.dynamic.Linear
    assert type(dynamic[0]) is layers.Conv2d


@of_torch_ao
def test_layers_marked_for_quantization_stay_pytorchs(quantization):
    observed = quantization.prepare(to_quantize(quantization))
    before = [type(layer) for layer in observed]
    with pytest.warns(layers.ConversionWarning, match="stays PyTorch's: its qconfig marks") as said:
        layers.convert(observed, "numpy")
    assert len(said) == 4
    assert [type(layer) for layer in observed] == before
    trained = quantization.prepare_qat(to_quantize(quantization))
    with pytest.warns(layers.ConversionWarning, match=r"0 stays.*torch\.ao\..* is derived from"):
        layers.convert(trained, "numpy", keep=lambda name, _: name != "0")
    with pytest.raises(Unsupported, match="qconfig"):
        layers.problem_of(observed[0], torch.zeros(3, 2, 6, 6))


def test_symbolic_tracing_is_told_to_revert():
    with pytest.raises(TypeError, match=r"got Proxy; .*cnnkernels\.torch\.revert\(model\)"):
        torch.fx.symbolic_trace(layers.convert(model(), "numpy"))


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
def test_a_model_on_a_gpu_is_pytorchs_with_torch_cuda():
    network, plain = (net(torch.float32).to("cuda") for net in (model, model))
    layers.convert(network, "torch-cuda")
    x = draw(3, 2, 6, 6, dtype=torch.float32, grad=False).to("cuda")
    (loss, gradients), (right, right_gradients) = step(network, x), step(plain, x)
    close(loss, right)
    for mine, theirs in zip(gradients, right_gradients, strict=True):
        close(mine, theirs)
    with pytest.raises(ValueError, match="expected a tensor on a GPU, where torch-cuda computes"):
        network.to("cpu")(x.to("cpu"))
    layers.convert(network.to("cuda"), "numpy")
    with pytest.raises(ValueError, match="expected a tensor on the CPU, where numpy computes"):
        network(x)


def test_without_a_gpu_torch_cuda_says_why():
    try:
        registry.load("torch-cuda")
    except Unsupported as reason:
        with pytest.raises(Unsupported, match=f"^{reason}$".replace("+", r"\+")):
            layers.convert(model(), "torch-cuda")
    else:
        pytest.skip("there is one")


def test_backends_of_other_devices_are_refused(monkeypatch):
    numpy = registry.load("numpy")
    elsewhere = type("Elsewhere", (type(numpy.arrays),), {"device": "tpu"})()
    other = dataclasses.replace(numpy, arrays=elsewhere)
    monkeypatch.setattr(registry, "load", lambda name: other if name == "numpy" else None)
    with pytest.raises(Unsupported, match="numpy computes on tpu; layers take"):
        layers.convert(model(), "numpy")
    with pytest.raises(Unsupported, match="numpy computes on tpu; layers take"):
        layers.max_pool2d(draw(1, 1, 4, 4), 2, backend="numpy")


# --------------------------------------------------------------------------------------------
# plans


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


def test_a_model_follows_a_plan(monkeypatch):
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


def test_a_plan_that_cannot_be_followed_is_refused_at_once(monkeypatch):
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
def test_backward_is_who_went_forward():
    x = draw(3, 4, 6, 6)
    theirs = torch.autograd.grad(nn.functional.max_pool2d(x, 2).sum(), x)
    plan.use(Plan({POOL: Choice("numpy")}, "numpy", 1))
    ours = layers.max_pool2d(x, 2).sum()
    plan.use(Plan({POOL: Choice("naive")}, "naive", 1))
    close(torch.autograd.grad(ours, x)[0], theirs[0])


def test_a_copied_model_follows_a_copy_of_the_plan():
    network = layers.convert(model(), planned())
    other = copy.deepcopy(network)
    assert other[0].backend is other[3].backend
    assert other[0].backend is not network[0].backend
    close(other(x := draw(3, 2, 6, 6)), network(x))


@pytest.mark.slow
def test_a_saved_model_follows_its_plan_in_another_process(python, tmp_path):
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


def test_a_plan_that_chose_torch_leaves_pytorchs_layer(monkeypatch):
    followed = Plan({FIRST: Choice("torch-cpu")}, "torch-cpu", torch.get_num_threads())
    network = layers.convert(nn.Conv2d(2, 4, 3, padding=1).double(), followed)
    monkeypatch.setattr(layers, "_conv2d", None)
    close(network(x := draw(3, 2, 6, 6)), layers.revert(network)(x))


@pytest.mark.usefixtures("in_force")
def test_auto_needs_a_plan_in_force():
    x, w = draw(3, 2, 6, 6), draw(4, 2, 3, 3)
    with pytest.raises(Unsupported, match="no plan is in force"):
        layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
    plan.use(planned())
    ours = layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
    close(ours, nn.functional.conv2d(x, w, padding=1))


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
def test_torch_compile_follows_a_plan(compiled_by):
    measured = []

    def measure(problem):
        assert type(torch.ones(1) + 1) is torch.Tensor  # not what a tracer computes with
        measured.append(problem)
        return Choice("numba-simd")

    followed = planned(unmeasured=measure)
    network = layers.convert(model(), followed)
    x = draw(3, 2, 6, 6, grad=False)
    compiled = torch.compile(network, backend=compiled_by, fullgraph=True)
    (loss, gradients), (right, right_gradients) = step(compiled, x), step(model(), x)
    close(loss, right)
    for mine, theirs in zip(gradients, right_gradients, strict=True):
        close(mine, theirs)
    assert list(followed.choices) == [FIRST, POOL, *measured]
    assert len(measured) == 2


def test_what_is_exported_names_backends():
    measured = planned(unmeasured=lambda problem: pytest.fail(f"{problem} measured in a trace"))
    network = layers.convert(nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d(3)).double(), measured)
    with pytest.warns(plan.PlanWarning, match="numpy computes it, unmeasured"):
        graph = torch.export.export(network, (draw(3, 4, 6, 6, grad=False),), strict=False).graph
    assert "aten.max_pool2d" in str(graph)
    assert "cnnkernels.max_pool2d" in str(graph)
    assert list(measured.choices) == [FIRST, POOL]


def test_a_plan_of_other_threads_warns():
    other = Plan({}, "numpy", torch.get_num_threads() + 1, host.fingerprint())
    with pytest.warns(plan.PlanWarning, match="threads"):
        layers.convert(model(), other)


def test_problems_of_layers():
    x = torch.zeros(3, 2, 6, 6, dtype=torch.float64)
    assert layers.problem_of(nn.Conv2d(2, 4, 3, padding=1).double(), x) == FIRST
    assert layers.problem_of(nn.MaxPool2d(2), x.expand(3, 2, 6, 6)) == MaxPool2D(
        3, 2, 6, 6, 2, dtype="float64"
    )
    for layer, images, why in (
        (nn.Linear(2, 2), x, "neither"),
        (nn.MaxPool2d(2, return_indices=True), x, "return_indices"),
        (nn.MaxPool2d(2), x.to(torch.bfloat16), "bfloat16"),
    ):
        with pytest.raises(Unsupported, match=why):
            layers.problem_of(layer, images)


# --------------------------------------------------------------------------------------------
# threads


def test_threads_follow_pytorchs():
    most = pytest.importorskip("numba").config.NUMBA_NUM_THREADS
    before = torch.get_num_threads()
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with warnings.catch_warnings(record=True):
                layers.conv2d(x, w, backend="numba-simd").sum().backward()
            assert torch.get_num_threads() == count
            assert layers.threads() == {"torch": count, "numba": min(count, most)}
    finally:
        torch.set_num_threads(before)


def test_threads_stay_where_a_backend_fails_to_load(monkeypatch):
    before = torch.get_num_threads()

    def failing(name):
        torch.set_num_threads(before + 1)
        raise Unsupported(f"{name} cannot run here")

    monkeypatch.setattr(registry, "load", failing)
    try:
        with pytest.raises(Unsupported, match="cannot run here"):
            layers.max_pool2d(draw(1, 1, 4, 4), 2, backend="numpy")
        assert torch.get_num_threads() == before
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("processes", "environment", "expected"),
    [(None, None, 5), (None, "2", 2), (None, "9", 1), (1, "2", 5), (3, None, 1)],
)
def test_a_process_has_its_share_of_the_cores(monkeypatch, processes, environment, expected):
    monkeypatch.setattr(host, "cores", lambda: 5)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    if environment is not None:
        monkeypatch.setenv("LOCAL_WORLD_SIZE", environment)
    before = torch.get_num_threads()
    try:
        assert layers.set_threads(processes) == expected
        assert layers.threads()["torch"] == torch.get_num_threads() == expected
    finally:
        torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "count"), [(1, 4), (2, 2)])
def test_threads_are_as_set_after_the_first_step(python, processes, count):
    pytest.importorskip("numba")
    told = python(
        "import torch\n"
        "from torch import nn\n"
        "import cnnkernels.torch as layers\n"
        "from cnnkernels import host\n"
        "host.cores = lambda: 4\n"
        f"assert layers.set_threads({processes}) == {count}\n"
        "print(layers.threads())\n"
        "network = layers.convert(nn.MaxPool2d(2), 'numba')\n"
        "network(torch.ones(2, 4, 4, 4, requires_grad=True)).sum().backward()\n"
        "print(layers.threads())",
        NUMBA_NUM_THREADS="3",
    )
    assert told.splitlines() == [str({"torch": count, "numba": min(3, count)})] * 2


def test_a_share_of_no_processes_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="processes: expected 1 or more, got 0"):
        layers.set_threads(0)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "two")
    with pytest.raises(ValueError, match="LOCAL_WORLD_SIZE: expected a number, got 'two'"):
        layers.set_threads()
