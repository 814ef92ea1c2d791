"""Converted models under torch.func are like PyTorch's own: vmap, grad, Jacobians, ensembles."""

import copy
import dataclasses

import pytest

from cnnkernels import registry

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn, func = torch.nn, torch.func


@pytest.fixture
def model():
    """Return a function that creates a model for images of 7x7, with the same weights each time."""

    def model():
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(2, 4, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(4, 4, 3, padding=1, groups=2),
            nn.MaxPool2d(2, ceil_mode=True),
        ).double()

    return model


@pytest.fixture(params=["numba-simd", "numpy", "torch-cpu-nhwc"])
def pair(request, model):
    """A converted model and PyTorch's own; numpy's convolutions have a cache."""
    if request.param.startswith("numba"):
        pytest.importorskip("numba")
    return layers.convert(model(), request.param), model()


@pytest.fixture
def batches(draw):
    """Five batches of three images, on the first axis."""
    return draw(5, 3, 2, 7, 7, grad=False)


def loss(network, parameters, x):
    return func.functional_call(network, parameters, (x,)).square().sum()


def per_sample_gradients(network, x):
    one = func.grad(lambda parameters, image: loss(network, parameters, image[None]))
    return func.vmap(one, in_dims=(None, 0))(dict(network.named_parameters()), x)


def vjp(network, x):
    y, slopes = func.vjp(network, x)
    return slopes(torch.ones_like(y))


@pytest.mark.parametrize(
    "transform",
    [
        pytest.param(lambda net, x: func.vmap(net)(x), id="vmap"),
        pytest.param(lambda net, x: func.vmap(net)(x[:, 0]), id="vmap over single images"),
        pytest.param(lambda net, x: func.vmap(net, in_dims=1)(x), id="vmap along axis 1"),
        pytest.param(lambda net, x: func.vmap(func.vmap(net))(x), id="vmap of vmap"),
        pytest.param(lambda net, x: per_sample_gradients(net, x[:, 0]), id="gradients per sample"),
        pytest.param(
            lambda net, x: func.vmap(func.grad(lambda x: net(x).square().sum()))(x),
            id="vmap of grad",
        ),
        pytest.param(lambda net, x: vjp(net, x[0]), id="vjp"),
        pytest.param(lambda net, x: func.jacrev(net)(x[0]), id="jacrev"),
        pytest.param(lambda net, x: func.functionalize(net)(x[0]), id="functionalize"),
        pytest.param(
            lambda net, x: torch.autograd.grad(
                func.vmap(net)(x).square().sum(), tuple(net.parameters())
            ),
            id="autograd of vmap",
        ),
    ],
)
def test_transforms_agree(transform, pair, batches):
    ours, theirs = (transform(network, batches) for network in pair)
    torch.testing.assert_close(ours, theirs)


def test_an_ensemble_has_weights_for_each_element(model, batches):
    def computed(convert):
        networks = [convert(model()) for _ in range(3)]
        with torch.no_grad():
            for number, network in enumerate(networks):
                for parameter in network.parameters():
                    parameter += 0.1 * number
        weights, _ = func.stack_module_state(networks)
        base = copy.deepcopy(networks[0]).to("meta")
        slopes = func.vmap(func.grad(lambda w, x: loss(base, w, x)), in_dims=(0, None))
        each = func.vmap(lambda w, x: loss(base, w, x))(weights, batches[:3])
        return each, slopes(weights, batches[0])

    torch.testing.assert_close(
        computed(lambda network: layers.convert(network, "numpy")), computed(lambda net: net)
    )


def test_a_batch_is_folded_into_the_images(monkeypatch, pair, batches):
    def images(problem, *_):
        seen.append(problem.batch)

    seen = []
    network, _ = pair
    backend = registry.load(network[0].backend)
    for kernel in backend.convolution, backend.pooling:
        forward = kernel.forward
        monkeypatch.setattr(
            kernel, "forward", lambda *given, f=forward: (images(*given), f(*given))[1]
        )
    func.vmap(network)(batches)
    assert seen == [15] * 4


def test_caches_that_are_not_by_image_are_not_folded(monkeypatch, model, batches):
    numpy = registry.load("numpy")

    class Other:
        """A pooling kernel with one cache for all images."""

        unsupported = staticmethod(numpy.pooling.unsupported)

        def cache_spec(self, problem):
            return (((1, *problem.shapes.y), "uint8"),)

        def forward(self, problem, x):
            y, (winners,) = numpy.pooling.forward(problem, x)
            return y, (winners[None],)

        def backward(self, problem, dy, cache):
            return numpy.pooling.backward(problem, dy, (cache[0][0],))

    other = dataclasses.replace(numpy, pooling=Other())
    load = registry.load
    monkeypatch.setattr(registry, "load", lambda name: other if name == "numpy" else load(name))
    ours = per_sample_gradients(layers.convert(model(), "numpy"), batches[:, 0])
    torch.testing.assert_close(ours, per_sample_gradients(model(), batches[:, 0]))


def test_the_gradient_of_a_gradient_is_refused(pair, batches):
    network, _ = pair

    def slope(x):
        return func.grad(lambda x: network(x).square().sum())(x).sum()

    with pytest.raises(NotImplementedError, match=r"double backward.*revert"):
        func.grad(slope)(batches[0])


@pytest.mark.slow
def test_compiling_a_transform_is_refused(pair, batches):
    network, _ = pair
    slope = func.grad(lambda x: network(x).square().sum())
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"cnnkernels\.torch\.revert"):
        torch.compile(slope, fullgraph=True, backend="aot_eager")(batches[0])
