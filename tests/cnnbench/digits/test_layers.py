"""Gradients are those of the loss: finite differences of the whole network say so, in float64."""

import numpy as np
import pytest

from cnnbench.digits.layers import (
    BatchNorm,
    Convolution,
    Flatten,
    MaxPool,
    Parameter,
    ReLU,
    softmax_cross_entropy,
)
from cnnbench.digits.network import ARCHITECTURES, Network, initial_state, plan
from cnnkernels import Conv2D, MaxPool2D, Unsupported, registry

EPSILON = 1e-6


@pytest.fixture(
    params=[
        "numpy",
        pytest.param("naive", marks=pytest.mark.slow),
        pytest.param("numba", marks=pytest.mark.slow),
        pytest.param("torch-cpu", marks=pytest.mark.slow),
    ]
)
def backend(request):
    try:
        return registry.load(request.param)
    except Unsupported as reason:
        pytest.skip(str(reason))


def network_of(backend, dtype, seed, architecture="digits", *, batchnorm=False):
    planned = plan(architecture, (1, 8, 8), 10, 64, dtype, batchnorm=batchnorm)
    return Network(planned, backend, initial_state(planned, np.random.default_rng(seed)))


def batch_of(backend, images, dtype="float64"):
    """Return random images and the one-hot labels wanted, where the backend computes."""
    random = np.random.default_rng(7)
    wanted = np.eye(10, dtype=dtype)[random.integers(10, size=images)]
    put = backend.arrays.put
    return put(random.random((images, 1, 8, 8)).astype(dtype)), put(wanted)


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_parameter_has_the_gradient_that_finite_differences_have(
    backend, architecture, batchnorm
):
    network = network_of(backend, "float64", 1, architecture, batchnorm=batchnorm)
    images, wanted = batch_of(backend, 2)
    put, get = backend.arrays.put, backend.arrays.get
    biases = np.random.default_rng(2)
    for parameter in network.parameters:  # away from where ReLU has a corner
        shift = 0.1 * biases.standard_normal(tuple(parameter.value.shape))
        parameter.value = parameter.value + put(shift)

    def loss():
        return float(softmax_cross_entropy(network.forward(images), wanted)[0])

    network.backward(softmax_cross_entropy(network.forward(images), wanted)[1])
    gradients = [get(parameter.gradient).copy() for parameter in network.parameters]
    assert [gradient.shape for gradient in gradients] == [
        tuple(parameter.value.shape) for parameter in network.parameters
    ]
    random = np.random.default_rng(3)
    for parameter, gradient in zip(network.parameters, gradients, strict=True):
        start = get(parameter.value).copy()
        direction = random.standard_normal(start.shape)  # no mistake is across it
        either = []
        for step in (EPSILON, -EPSILON):
            parameter.value = put(start + step * direction)
            either.append(loss())
        parameter.value = put(start)
        slope = (either[0] - either[1]) / (2 * EPSILON)
        assert (gradient * direction).sum() == pytest.approx(slope, rel=1e-5, abs=1e-8)
        assert np.abs(gradient).max() > 1e-5


def test_initial_weights_are_he_normals_and_the_same_everywhere(backend):
    random = np.random.default_rng(42)
    network = network_of(backend, "float32", 42)
    shapes = ((8, 1, 3, 3), (8,), (16, 8, 3, 3), (16,), (64, 10), (10,))
    fans = (9, None, 72, None, 64, None)
    for parameter, shape, fan_in in zip(network.parameters, shapes, fans, strict=True):
        value = backend.arrays.get(parameter.value)
        assert value.dtype == "float32"
        assert parameter.decays == (fan_in is not None)
        if fan_in is None:
            np.testing.assert_array_equal(value, np.zeros(shape))
        else:
            expected = random.standard_normal(shape) * (2 / fan_in) ** 0.5
            np.testing.assert_allclose(value, expected, rtol=1e-6)


def test_the_same_weights_are_drawn_for_both_dtypes():
    single, double = (
        network_of(registry.load("numpy"), dtype, 5).parameters for dtype in ("float32", "float64")
    )
    for one, other in zip(single, double, strict=True):
        assert other.value.dtype == "float64"
        np.testing.assert_allclose(one.value, other.value, rtol=1e-7)


def test_the_first_layer_does_not_compute_what_nobody_needs():
    numpy = registry.load("numpy")
    weights, bias = Parameter("weight", np.ones((2, 1, 3, 3))), Parameter("bias", np.zeros(2))
    problem = Conv2D(64, 1, 8, 8, 2, 3, padding=1, bias=True, dtype="float64")
    images, _ = batch_of(numpy, 2)
    for first in (True, False):
        layer = Convolution(numpy, problem, weights, bias, first=first)
        y = layer.forward(images)
        assert y.shape == (2, 2, 8, 8)
        assert (layer.backward(np.ones_like(y)) is None) == first
        assert all(parameter.gradient is not None for parameter in layer.parameters)


def test_relu_flatten_and_max_pool_pass_gradients_to_where_they_came_from():
    numpy = registry.load("numpy")
    x = np.array([[[[-1.0, 2.0], [0.0, 4.0]]]])
    windows = MaxPool2D(9, 1, 2, 2, 2, dtype="float64")
    relu, pool, flatten = ReLU(), MaxPool(numpy, windows), Flatten()
    assert relu.forward(x).tolist() == [[[[0, 2], [0, 4]]]]
    assert relu.backward(np.full_like(x, 3)).tolist() == [[[[0, 3], [0, 3]]]]
    assert pool.forward(x).tolist() == [[[[4]]]]
    assert pool.backward(np.full((1, 1, 1, 1), 5.0)).tolist() == [[[[0, 0], [0, 5]]]]
    assert flatten.forward(x).tolist() == [[-1, 2, 0, 4]]
    assert flatten.backward(np.arange(4.0)[None]).tolist() == [[[[0, 1], [2, 3]]]]


def norm_of(channels):
    starts = {"weight": 2.0, "bias": 3.0, "mean": 0.0, "variance": 1.0}
    return BatchNorm(*(Parameter(name, np.full(channels, at)) for name, at in starts.items()))


def test_batch_normalisation_is_that_of_the_batch_in_training_and_of_all_batches_after_it():
    norm = norm_of(2)
    batches = np.random.default_rng(3).normal(5, 4, (40, 8, 2, 3, 3))
    for x in batches:
        y = norm.forward(x)
        np.testing.assert_allclose(y.mean(axis=(0, 2, 3)), 3)
        np.testing.assert_allclose(y.std(axis=(0, 2, 3)), 2, rtol=1e-5)
    mean, variance = (part.value for part in norm.statistics)
    np.testing.assert_allclose(mean, 5, rtol=0.1)
    np.testing.assert_allclose(variance, 16, rtol=0.2)
    norm.training = False
    x = batches[0]
    normal = (x - mean[None, :, None, None]) / np.sqrt(variance + 1e-5)[None, :, None, None]
    np.testing.assert_allclose(norm.forward(x), 3 + 2 * normal)
    np.testing.assert_array_equal(mean, norm.statistics[0].value)


def test_batch_normalisation_is_pytorchs():
    torch = pytest.importorskip("torch")
    ours, theirs = norm_of(3), torch.nn.BatchNorm2d(3, dtype=torch.float64)
    torch.nn.init.constant_(theirs.weight, 2.0)
    torch.nn.init.constant_(theirs.bias, 3.0)
    for x in np.random.default_rng(4).normal(1, 2, (3, 4, 3, 5, 5)):
        np.testing.assert_allclose(ours.forward(x), theirs(torch.asarray(x)).detach().numpy())
    ours.training = False
    np.testing.assert_allclose(
        ours.forward(x), theirs.eval()(torch.asarray(x)).detach().numpy(), rtol=1e-6
    )


def test_cross_entropy_is_worked_out_by_hand():
    logits = np.log(np.array([[1.0, 3.0], [4.0, 1.0]]))
    loss, gradient = softmax_cross_entropy(logits, np.eye(2))
    assert float(loss) == pytest.approx(-(np.log(1 / 4) + np.log(1 / 5)) / 2)
    np.testing.assert_allclose(gradient, [[-3 / 8, 3 / 8], [4 / 10, -4 / 10]])


def test_cross_entropy_stays_finite_where_exponentials_do_not():
    logits = np.array([[1e4, -1e4], [-1e4, 1e4]], np.float32)
    loss, gradient = softmax_cross_entropy(logits, np.eye(2, dtype=np.float32)[::-1])
    assert np.isfinite(loss)
    assert loss > 20
    np.testing.assert_array_equal(gradient, [[0.5, -0.5], [-0.5, 0.5]])
