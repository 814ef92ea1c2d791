"""Functions return the same through operators and directly; double backward is rejected."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
differentiable = pytest.importorskip("cnnkernels.torch.differentiable")
nn = torch.nn


class Seen(torch.utils._python_dispatch.TorchDispatchMode):
    """Records the dispatched operators."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, operator, types, args=(), kwargs=None):
        self.names.append(operator.name())
        return operator(*args, **kwargs or {})


def test_those_who_follow_operators_see_ours(draw):
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
def test_with_operators_and_without_it_is_the_same(followed, monkeypatch, draw, close):
    x, w, b = draw(2, 2, 6, 6), draw(3, 2, 3, 3), draw(3)
    expected = nn.functional.max_pool2d(nn.functional.conv2d(x, w, b), 2)
    right = torch.autograd.grad(expected.square().sum(), (x, w, b))
    monkeypatch.setattr(differentiable, "followed", lambda: followed)
    y = layers.max_pool2d(layers.conv2d(x, w, b, backend="numpy"), 2, backend="numpy")
    close(y, expected)
    for mine, theirs in zip(torch.autograd.grad(y.square().sum(), (x, w, b)), right, strict=True):
        close(mine, theirs)


def test_double_backward_is_refused(draw):
    x, w = draw(1, 1, 4, 4), draw(1, 1, 3, 3)
    for y in (layers.conv2d(x, w, backend="numpy"), layers.max_pool2d(x, 2, backend="numpy")):
        (slope,) = torch.autograd.grad((y * y).sum(), x, create_graph=True)
        with pytest.raises(NotImplementedError, match="double backward"):
            slope.sum().backward()
