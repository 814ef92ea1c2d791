"""Operators pass PyTorch's own checks, and compute only the needed gradients."""

import pytest

from cnnkernels import registry

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
operators = pytest.importorskip("cnnkernels.torch.operators")


def test_gradients_are_slopes(backend, draw):
    x, w, b = draw(2, 2, 4, 4), draw(2, 2, 3, 3), draw(2)
    assert torch.autograd.gradcheck(
        lambda *given: layers.conv2d(*given, padding=1, backend=backend), (x, w, b)
    )
    distinct = torch.arange(2 * 2 * 4 * 4, dtype=torch.float64).flip(0).reshape(2, 2, 4, 4)
    assert torch.autograd.gradcheck(
        lambda x: layers.max_pool2d(x, 2, backend=backend), distinct.requires_grad_()
    )


@pytest.mark.slow
def test_pytorch_accepts_the_operators(backend, draw):
    x, w, b = draw(2, 2, 5, 5), draw(3, 2, 3, 3), draw(3)
    geometry = [1, 1, 1, 1, 1, 1, 1, 1, 1]
    torch.library.opcheck(operators.conv2d.operator, (x, w, b, geometry, backend))
    torch.library.opcheck(operators.conv2d.operator, (x, w.detach(), None, geometry, backend))
    window = [2, 2, 2, 2, 0, 0, 1, 1]
    torch.library.opcheck(operators.max_pool2d.operator, (x, window, False, backend))
    with torch.no_grad():
        y, cache = operators.conv2d.operator(x, w, b, geometry, backend)
        maxima, winners = operators.max_pool2d.operator(x, window, False, backend)
    torch.library.opcheck(
        operators.conv2d.backward_operator,
        (y, x.detach(), w.detach(), True, geometry, backend, [True, False, True], cache),
    )
    torch.library.opcheck(
        operators.max_pool2d.backward_operator,
        (maxima, [2, 2, 5, 5], window, False, backend, winners),
    )


def test_only_needed_gradients_are_computed(monkeypatch, draw):
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
