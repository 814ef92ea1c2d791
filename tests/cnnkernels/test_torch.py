"""Converted layers are PyTorch's, but for who computes: values, gradients, state, refusals."""

import warnings

import pytest

from cnnkernels import host, plan, registry
from cnnkernels.contract import Conv2D, MaxPool2D, Unsupported
from cnnkernels.plan import Choice, Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn

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
        (torch.ones(1, 1, 4, 4, device="meta"), torch.ones(1, 1, 3, 3), ValueError, "on the CPU"),
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
    assert [str(one.message).split()[0] for one in said] == ["special", "indices"]
    kinds = {name: type(layer) for name, layer in network.items()}
    assert kinds["plain"] is layers.Conv2d
    assert kinds["kept"] is nn.Conv2d
    with pytest.raises(Unsupported, match="return_indices"):
        layers.MaxPool2d(2, return_indices=True, backend="numpy")


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
# plans


FIRST = Conv2D(3, 2, 6, 6, 4, 3, padding=1, dtype="float64")
POOL = MaxPool2D(3, 4, 6, 6, 2, dtype="float64")


def planned(**choices):
    return Plan(
        {FIRST: Choice("numba-simd"), POOL: Choice("torch-cpu"), **choices},
        fallback="numpy",
        threads=torch.get_num_threads(),
    )


def test_a_model_follows_a_plan(monkeypatch):
    followed = planned()
    followed.unmeasured = "fall back"
    network = layers.convert(model(), followed)
    used = []
    load = followed.backend_for
    monkeypatch.setattr(
        followed, "backend_for", lambda problem, **how: used.append(problem) or load(problem, **how)
    )
    x = draw(3, 2, 6, 6, grad=False)
    close(network(x), model()(x))
    assert {str(FIRST), str(POOL)} <= set(map(str, used))
    assert followed.choices[used[-1]].why == "not measured: the fallback"


def test_a_plan_that_chose_torch_leaves_pytorchs_layer(monkeypatch):
    followed = Plan({FIRST: Choice("torch-cpu")}, "torch-cpu", torch.get_num_threads())
    network = layers.convert(nn.Conv2d(2, 4, 3, padding=1).double(), followed)
    monkeypatch.setattr(layers, "_conv2d", None)
    close(network(x := draw(3, 2, 6, 6)), layers.revert(network)(x))


def test_auto_needs_a_plan_in_force(monkeypatch):
    monkeypatch.delenv(plan.VARIABLE, raising=False)
    x, w = draw(3, 2, 6, 6), draw(4, 2, 3, 3)
    with pytest.raises(Unsupported, match="no plan is in force"):
        layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
    before = plan.use(planned())
    try:
        ours = layers.conv2d(x, w, torch.zeros(4).double(), padding=1)
        close(ours, nn.functional.conv2d(x, w, padding=1))
    finally:
        plan.use(before)


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
    pytest.importorskip("numba")
    before = torch.get_num_threads()
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            with warnings.catch_warnings(record=True):
                layers.conv2d(x, w, backend="numba-simd").sum().backward()
            assert torch.get_num_threads() == count
            assert layers.threads() == {"torch": count, "numba": min(count, host.cores())}
    finally:
        torch.set_num_threads(before)
