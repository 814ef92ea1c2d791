"""Fixtures of this room: backends, random tensors, and a model with a step of its training."""

import pytest

BACKENDS = ("naive", "numpy", "numba", "numba-simd", "torch-cpu", "torch-cpu-nhwc")


@pytest.fixture(params=BACKENDS)
def backend(request):
    """The name of each backend that computes on the CPU."""
    return request.param


@pytest.fixture
def draw():
    """Return a function that draws random tensors, different in each call."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(7)

    def draw(*shape, dtype=torch.float64, grad=True):
        return torch.randn(shape, dtype=dtype, generator=generator).requires_grad_(grad)

    return draw


@pytest.fixture(scope="session")
def close():
    """Return a function that asserts that two tensors are equal up to rounding."""
    torch = pytest.importorskip("torch")

    def close(ours, theirs):
        assert ours.dtype == theirs.dtype
        rtol, atol = (1e-10, 1e-12) if ours.dtype == torch.float64 else (1e-4, 1e-5)
        torch.testing.assert_close(ours, theirs, rtol=rtol, atol=atol)

    return close


@pytest.fixture(scope="session")
def model():
    """Return a function that creates a model, with the same weights in each call."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

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

    return model


@pytest.fixture(scope="session")
def step():
    """Return a function that returns the loss of a model on images, and the gradients."""

    def step(network, x):
        network.zero_grad()
        loss = network(x).square().sum()
        loss.backward()
        return loss.detach(), [parameter.grad.clone() for parameter in network.parameters()]

    return step


@pytest.fixture(scope="session")
def close_steps(close, step):
    """Return a function that asserts that models take the same step, up to rounding."""

    def close_steps(ours, theirs, x):
        (loss, gradients), (right, right_gradients) = step(ours, x), step(theirs, x)
        close(loss, right)
        for mine, gradient in zip(gradients, right_gradients, strict=True):
            close(mine, gradient)

    return close_steps
