"""This package's layers work beside PyTorch's, and under torch.compile."""

import copy

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn


def test_new_layers_of_ours(draw, close):
    convolution = layers.Conv2d(2, 3, 3, padding="same", backend="numpy")
    theirs = nn.Conv2d(2, 3, 3, padding="same")
    theirs.load_state_dict(convolution.state_dict())
    x = draw(1, 2, 5, 5, dtype=torch.float32)
    close(convolution(x), theirs(x))
    close(layers.MaxPool2d(2, backend="numpy")(x), nn.MaxPool2d(2)(x))


def test_layers_after_ours_may_write_in_place(draw, close_steps, model):
    network = layers.convert(model(), "numpy")
    network.insert(1, nn.ReLU(inplace=True))
    network.insert(5, nn.ReLU(inplace=True))
    theirs = layers.revert(copy.deepcopy(network))
    x = draw(3, 2, 6, 6)
    close_steps(network, theirs, x)


@pytest.mark.slow
def test_torch_compile(draw, model, close_steps):
    network = layers.convert(model(torch.float32), "numba-simd")
    x = draw(3, 2, 6, 6, dtype=torch.float32, grad=False)
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    close_steps(compiled, model(torch.float32), x)
