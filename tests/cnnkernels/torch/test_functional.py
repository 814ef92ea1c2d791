"""The functions match PyTorch's in values and gradients; invalid arguments are rejected."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn

CONVOLUTIONS = {
    "plain": ((2, 3, 6, 5), (4, 3, 3, 3), {}),
    "strided": ((2, 4, 7, 6), (6, 2, 3, 2), {"stride": (2, 1), "padding": (2, 1), "groups": 2}),
    "dilated": ((1, 2, 8, 8), (2, 2, 3, 3), {"dilation": 2, "padding": "same"}),
    "depthwise": ((2, 3, 5, 5), (3, 1, 3, 3), {"groups": 3, "padding": 1}),
    "pointwise": ((2, 5, 4, 4), (3, 5, 1, 1), {}),
}

POOLINGS = {
    "plain": ((2, 3, 6, 6), 2, {}),
    "overlapping": ((2, 3, 7, 9), 3, {"stride": 2, "padding": 1}),
    "ceil": ((1, 2, 6, 7), (3, 2), {"stride": (2, 3), "ceil_mode": True}),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("bias", [True, False])
def test_a_convolution_is_pytorchs(backend, name, bias, draw, close):
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
def test_a_pooling_is_pytorchs(backend, name, draw, close):
    shape, kernel, how = POOLINGS[name]
    x = draw(*shape)
    ours = layers.max_pool2d(x, kernel, **how, backend=backend)
    theirs = nn.functional.max_pool2d(x, kernel, **how)
    close(ours, theirs)
    dy = torch.randn_like(theirs)
    close(torch.autograd.grad(ours, x, dy)[0], torch.autograd.grad(theirs, x, dy)[0])


def test_images_without_a_batch(backend, draw, close):
    x, w = draw(3, 6, 6, grad=False), draw(2, 3, 3, 3)
    close(layers.conv2d(x, w, backend=backend), nn.functional.conv2d(x, w))
    close(layers.max_pool2d(x, 2, backend=backend), nn.functional.max_pool2d(x, 2))


def test_channels_last_images(backend, draw, close):
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


@pytest.mark.parametrize(
    ("x", "w", "error", "words"),
    [
        (
            torch.ones(1, 1, 4, 4, dtype=torch.float16),
            torch.ones(1, 1, 3, 3),
            TypeError,
            r"in other dtypes use PyTorch's own layers: .*revert",
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
