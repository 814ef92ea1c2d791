"""Tools that look into a model see converted layers as PyTorch's own, or refuse in a sentence."""

import io

import numpy as np
import pytest

from cnnkernels.contract import Unsupported
from cnnkernels.plan import Plan

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
flop_counter = pytest.importorskip("torch.utils.flop_counter")
nn = torch.nn


@pytest.fixture
def pair(model):
    """A converted model and PyTorch's own, for images of 2 channels and 6x6 pixels."""
    return layers.convert(model(), "numpy"), model()


@pytest.fixture
def x(draw):
    return draw(5, 2, 6, 6, grad=False)


# --------------------------------------------------------------------------------------------
# compilers, for batches of any size


@pytest.mark.slow
def test_one_graph_serves_all_batches(pair, x, close_steps):
    network, plain = pair
    counter = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(network, backend=counter, fullgraph=True)
    first = x.clone()
    torch._dynamo.mark_dynamic(first, 0)
    for images in first, x[:3], x[:4]:
        close_steps(compiled, plain, images)
    assert counter.frame_count == 1


@pytest.mark.slow
@pytest.mark.parametrize("strict", [False, True])
def test_a_graph_is_exported_for_all_batches(strict, pair, x, close):
    network, plain = (net.eval() for net in pair)
    shapes = ({0: torch.export.Dim("images")},)
    exported = torch.export.export(network, (x,), dynamic_shapes=shapes, strict=strict).module()
    for images in x, x[:3], x[:2]:
        close(exported(images), plain(images))


def test_a_plan_is_not_exported_for_all_batches(model, x):
    network = layers.convert(model(), Plan({}, "numpy", torch.get_num_threads()))
    shapes = ({0: torch.export.Dim("images")},)
    with pytest.raises(Unsupported, match="plan chooses backends for batches of one size"):
        torch.export.export(network.eval(), (x,), dynamic_shapes=shapes, strict=False)


# --------------------------------------------------------------------------------------------
# tracers


def test_fx_sees_each_layer_as_one_call(pair, x, close):
    network, plain = (net.eval() for net in pair)
    traced = torch.fx.symbolic_trace(network)
    kinds = {node.op for node in traced.graph.nodes}
    assert kinds == {"placeholder", "call_module", "output"}
    assert type(traced.get_submodule("0")) is layers.Conv2d
    close(traced(x), plain(x))


def test_fx_sees_functions_as_one_call(x, close):
    def pooled(x):
        return layers.max_pool2d(layers.conv2d(x, x[:4], backend="numpy"), 1, backend="numpy")

    traced = torch.fx.symbolic_trace(pooled)
    assert {layers.conv2d, layers.max_pool2d} <= {node.target for node in traced.graph.nodes}
    close(traced(x), pooled(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_traced_model_is_saved(pair, x, close):
    network, plain = (net.eval() for net in pair)
    file = io.BytesIO()
    torch.jit.save(torch.jit.trace(network, (x,)), file)
    file.seek(0)
    close(torch.jit.load(file)(x), plain(x))


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_a_script_is_refused(pair):
    network, _ = pair
    with pytest.raises(Unsupported, match=r"torch\.jit\.script cannot compile Conv2d.*revert"):
        torch.jit.script(network)


# --------------------------------------------------------------------------------------------
# counters and profilers


def test_operations_are_counted_as_pytorchs(pair, x):
    counts = []
    for network in pair:
        with flop_counter.FlopCounterMode(display=False) as counted:
            network(x).sum().backward()
        counts.append(counted.get_total_flops())
    ours, theirs = counts
    assert ours == theirs > 0


def test_profilers_show_operators(pair, x):
    network, _ = pair
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        network(x).sum().backward()
    names = {event.key for event in profile.key_averages()}
    assert {"cnnkernels::conv2d", "cnnkernels::max_pool2d"} <= names


# --------------------------------------------------------------------------------------------
# other dtypes, devices and tensors


def test_autocast_runs_pytorchs_functions(model, x):
    network, plain = layers.convert(model(torch.float32), "numpy"), model(torch.float32)
    x = x.float()
    with torch.autocast("cpu", torch.bfloat16):
        with pytest.warns(layers.ConversionWarning, match=r"torch\.autocast.*PyTorch's own"):
            ours = network(x)
        theirs = plain(x)
    torch.testing.assert_close(ours, theirs)
    for net, y in (network, ours), (plain, theirs):
        y.float().square().sum().backward()
        assert all(p.grad is not None for p in net.parameters())


def test_shapes_are_found_without_data(pair, x):
    network, plain = (net.to("meta") for net in pair)
    assert network(x.to("meta")).shape == plain(x.to("meta")).shape


def test_a_subclass_of_tensors_is_kept(pair, x):
    class Named(torch.Tensor):
        """A subclass that computes as a tensor."""

    network, plain = pair
    ours, theirs = (net(x.as_subclass(Named)) for net in (network, plain))
    assert type(ours) is type(theirs) is Named
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("name", ["numba", "numba-simd"])
def test_misaligned_tensors_are_copied(name, close):
    pytest.importorskip("numba")
    numbers = np.arange(64.0).tobytes()
    x = torch.frombuffer(bytearray(b"\0" + numbers), dtype=torch.float64, offset=1)
    x = x.reshape(1, 1, 8, 8)
    assert x.data_ptr() % 8
    close(layers.max_pool2d(x, 2, backend=name), nn.functional.max_pool2d(x.clone(), 2))


def test_arguments_are_taken_in_pytorchs_forms(x, draw, close):
    w = draw(4, 2, 3, 3, grad=False)
    forms = {"stride": [2], "padding": (1,), "dilation": torch.Size([1])}
    close(layers.conv2d(x, w, **forms, backend="numpy"), nn.functional.conv2d(x, w, **forms))
    stride = np.int64(2)
    close(layers.conv2d(x, w, stride=stride, backend="numpy"), nn.functional.conv2d(x, w, stride=2))
    for window, how in ((2,), {}), ([2, 3], {"stride": []}), (3, {"stride": (2,)}):
        close(
            layers.max_pool2d(x, window, **how, backend="numpy"),
            nn.functional.max_pool2d(x, window, **how),
        )
