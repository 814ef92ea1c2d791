"""A converted BatchNorm2d is PyTorch's in all that can be seen but its speed."""

import copy

import numpy as np
import pytest

from cnnkernels.contract import Unsupported

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn

OPTIONS = [
    {},
    {"affine": False},
    {"momentum": None},
    {"momentum": 0.5, "eps": 0.1},
    {"track_running_stats": False},
]


@pytest.fixture
def ours(monkeypatch):
    """How often this package's statistics were computed, as a list."""
    calls = []
    kernel = layers.layers.normalization._kernel
    monkeypatch.setattr(layers.layers.normalization, "_kernel", lambda: calls.append(1) or kernel())
    return calls


def pair(channels=5, dtype=torch.float64, **options):
    """Return a converted layer and PyTorch's own, with the same weights of any value."""
    torch.manual_seed(4)
    plain = nn.BatchNorm2d(channels, **options).to(dtype)
    for weights in plain.parameters():
        nn.init.normal_(weights)
    return layers.convert(copy.deepcopy(plain), "numpy"), plain


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_steps_and_running_statistics_are_pytorchs(options, dtype, draw, close, ours):
    mine, plain = pair(dtype=dtype, **options)
    assert type(mine) is layers.BatchNorm2d
    for shape in (4, 5, 7, 6), (2, 5, 1, 1), (1, 5, 3, 1):
        x = draw(*shape, dtype=dtype)
        weights = torch.cos(torch.arange(x.numel(), dtype=dtype)).reshape(shape)
        found = []
        for layer in mine, plain:
            x.grad = None
            layer.zero_grad()
            y = layer(x)
            (weights * y).sum().backward()
            found.append([y, x.grad, *(p.grad for p in layer.parameters()), *layer.buffers()])
        for one, other in zip(*found, strict=True):
            if one.is_floating_point():
                close(one, other)
            else:
                assert one == other
    assert len(ours) == 3
    x = draw(2, 5, 3, 3, dtype=dtype)
    close(mine.eval()(x), plain.eval()(x))
    assert len(ours) == 3


@pytest.mark.parametrize("needs", [(True, False), (False, True)], ids=str)
def test_only_what_is_needed_gets_gradients(needs, draw, close):
    mine, plain = pair()
    of_x, of_weights = needs
    x = draw(3, 5, 4, 4, grad=of_x)
    found = []
    for layer in mine, plain:
        layer.requires_grad_(of_weights)
        x.grad = None
        layer(x).square().sum().backward()
        found.append(x.grad if of_x else layer.weight.grad)
        assert (x.grad is None, layer.weight.grad is None) == (not of_x, not of_weights)
    close(*found)


def test_gradients_of_gradients_are_pytorchs(draw, close):
    x = draw(3, 5, 4, 4)
    found = []
    for layer in pair():
        (slope,) = torch.autograd.grad(layer(x).sin().sum(), x, create_graph=True)
        found.append(torch.autograd.grad(slope.square().sum(), [x, layer.weight]))
    for one, other in zip(*found, strict=True):
        close(one, other)


def test_what_pytorch_refuses_is_refused(draw):
    mine, plain = pair()
    for x in draw(1, 5, 1, 1), draw(2, 4, 3, 3), draw(2, 5):
        messages = []
        for layer in mine, plain:
            with pytest.raises((ValueError, RuntimeError)) as error:
                layer(x)
            messages.append(str(error.value))
        assert messages[0] == messages[1]


@pytest.mark.parametrize(
    "changed",
    [
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3),
        lambda x: x.half(),
        lambda x: x[:0],
        lambda x: x.to("meta"),
    ],
    ids=["channels_last", "transposed", "float16", "no images", "meta"],
)
def test_other_images_are_pytorchs(changed, draw, ours):
    mine, plain = pair(dtype=torch.float32)
    x = changed(draw(2, 5, 4, 6, dtype=torch.float32, grad=False))
    if x.device.type == "meta":
        mine, plain = mine.to("meta"), plain.to("meta")
    y, right = mine(x), plain(x)
    assert (y.shape, y.stride(), y.dtype, y.device) == (
        right.shape, right.stride(), right.dtype, right.device
    )  # fmt: skip
    if x.device.type != "meta":
        torch.testing.assert_close(y, right, rtol=0, atol=0)
    assert not ours


def test_images_at_an_odd_address_are_normalized(draw, close):
    mine, plain = pair(dtype=torch.float32)
    memory = np.zeros(4 * 2 * 5 * 9 + 1, np.uint8)
    x = torch.from_numpy(memory[1:].view(np.float32)).reshape(2, 5, 3, 3)
    x.copy_(draw(2, 5, 3, 3, dtype=torch.float32, grad=False))
    close(mine(x), plain(x))


# --------------------------------------------------------------------------------------------
# compilers, tracers and transforms


@pytest.mark.slow
def test_a_compiled_layer_is_pytorchs(draw, close, ours):
    mine, plain = pair()
    x = draw(3, 5, 4, 4)
    compiled = torch.compile(mine, backend="aot_eager", fullgraph=True)
    close(compiled(x), plain(x))
    close(mine.running_var, plain.running_var)
    assert not ours


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_transforms_are_pytorchs(draw, close, ours):
    mine, plain = pair(track_running_stats=False)
    x = draw(2, 3, 5, 4, 4, grad=False)

    def loss(layer):
        return lambda x: layer(x).sin().sum()

    close(torch.func.vmap(mine)(x), torch.func.vmap(plain)(x))
    close(torch.func.grad(loss(mine))(x[0]), torch.func.grad(loss(plain))(x[0]))
    along = draw(3, 5, 4, 4, grad=False)
    for one, other in zip(
        *(torch.func.jvp(loss(layer), (x[0],), (along,)) for layer in (mine, plain)), strict=True
    ):
        close(one, other)
    assert not ours


@pytest.mark.filterwarnings(
    "ignore:.torch.jit:DeprecationWarning", "ignore::torch.jit.TracerWarning"
)
def test_a_trace_in_training_is_pytorchs(draw, close, ours):
    mine, plain = pair()
    x = draw(2, 5, 4, 4, grad=False)
    close(torch.jit.trace(mine, (x,), check_trace=False)(x), plain(x))
    assert not ours


def test_fx_sees_one_call(draw, close):
    mine, plain = pair()
    traced = torch.fx.symbolic_trace(nn.Sequential(mine))
    assert [node.op for node in traced.graph.nodes] == ["placeholder", "call_module", "output"]
    x = draw(2, 5, 4, 4)
    close(traced(x), plain(x))


def test_dispatch_modes_see_operators(draw, close, ours):
    class Names(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            seen.append(function.overloadpacket.__name__)
            return function(*args, **(kwargs or {}))

    seen = []
    mine, plain = pair()
    x = draw(2, 5, 4, 4)
    with Names():
        y = mine(x)
        y.sum().backward()
    close(y, plain(x))
    assert {"batch_norm_statistics", "native_batch_norm", "native_batch_norm_backward"} <= {*seen}
    assert len(ours) == 1


def test_a_checkpointed_layer_is_computed_twice(draw, close, ours):
    mine, plain = pair()
    x = draw(2, 5, 4, 4)
    found = []
    for layer in mine, plain:
        x.grad = None
        torch.utils.checkpoint.checkpoint(layer, x, use_reentrant=False).sin().sum().backward()
        found.append((x.grad, layer.running_mean))
    for one, other in zip(*found, strict=True):
        close(one, other)
    assert len(ours) == 2


def test_relu_in_place_follows(draw, close):
    x = draw(2, 5, 4, 4)
    found = []
    for layer in pair():
        x.grad = None
        nn.Sequential(layer, nn.ReLU(inplace=True))(x).square().sum().backward()
        found.append(x.grad)
    close(*found)


# --------------------------------------------------------------------------------------------
# conversion


def test_revert_gives_pytorchs_layer_back():
    mine, plain = pair()
    assert list(mine.state_dict()) == list(plain.state_dict())
    assert type(layers.revert(mine)) is nn.BatchNorm2d
    assert repr(mine) == repr(plain)
    assert vars(mine).keys() == vars(plain).keys()


@pytest.mark.filterwarnings("error")
def test_layers_that_are_not_simply_batch_norm_stay_without_a_word():
    class Special(nn.BatchNorm2d):
        pass

    kept = nn.Sequential(Special(2), nn.LazyBatchNorm2d(), nn.BatchNorm2d(2), nn.BatchNorm1d(2))
    kinds = [type(layer) for layer in kept]
    layers.convert(kept, "numpy", keep=lambda name, _: name == "2")
    assert [type(layer) for layer in kept] == kinds


def test_problems_are_of_convolutions_and_poolings_alone(draw):
    for layer in pair():
        with pytest.raises(Unsupported, match="neither Conv2d nor MaxPool2d"):
            layers.problem_of(layer, draw(2, 5, 4, 4))
