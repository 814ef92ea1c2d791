"""Steps down the gradients are those of PyTorch's optimizers."""

import numpy as np
import pytest

from cnnbench.digits.layers import Parameter
from cnnbench.digits.optimizers import LEARNING_RATES, SGD, Adam

STEPS = 6


def gradients():
    return np.random.default_rng(8).standard_normal((STEPS, 3, 4))


def path(make):
    """Return the weights after each step over the gradients."""
    weights = Parameter("w", np.linspace(-1, 1, 12).reshape(3, 4), decays=True)
    optimizer = make([weights])
    values = []
    for gradient in gradients():
        weights.gradient = gradient
        optimizer.step()
        values.append(weights.value.copy())
    return np.array(values)


def path_of_pytorch(make):
    torch = pytest.importorskip("torch")
    weights = torch.nn.Parameter(torch.linspace(-1, 1, 12, dtype=torch.float64).reshape(3, 4))
    optimizer = make(torch.optim, [weights])
    values = []
    for gradient in gradients():
        weights.grad = torch.asarray(gradient)
        optimizer.step()
        values.append(weights.detach().numpy().copy())
    return np.array(values)


@pytest.mark.parametrize("decay", [0.0, 0.3])
def test_adam_is_pytorchs(decay):
    ours = path(lambda parameters: Adam(parameters, 0.01, decay))
    theirs = path_of_pytorch(
        lambda optim, parameters: optim.Adam(parameters, lr=0.01, weight_decay=decay)
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.3)])
def test_sgd_is_pytorchs(momentum, decay):
    ours = path(lambda parameters: SGD(parameters, 0.01, momentum, decay))
    theirs = path_of_pytorch(
        lambda optim, parameters: optim.SGD(
            parameters, lr=0.01, momentum=momentum, weight_decay=decay
        )
    )
    np.testing.assert_allclose(ours, theirs, rtol=1e-9)


@pytest.mark.parametrize(
    "make", [lambda p: Adam(p, 0.01, 0.5), lambda p: SGD(p, 0.01, 0.9, 0.5)], ids=["adam", "sgd"]
)
def test_what_does_not_decay_is_left_where_it_is_without_a_gradient(make):
    weights, bias = (Parameter(name, np.ones(2), decays=name == "w") for name in ("w", "b"))
    optimizer = make([weights, bias])
    for parameter in (weights, bias):
        parameter.gradient = np.zeros(2)
    optimizer.step()
    assert (weights.value < 1).all()
    assert (bias.value == 1).all()


def test_every_optimizer_has_a_rate_to_begin_with():
    assert LEARNING_RATES == {"sgd": 0.05, "adam": 1e-3}
