"""The arguments of PyTorch's functions become problems, or are refused by name."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")


@pytest.mark.parametrize("number", [2**63, -(2**63) - 1, 2**64 + 1])
def test_numbers_that_no_kernel_can_compute_with_are_refused(backend, number):
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 1, 1)
    for what in ("stride", "padding", "dilation", "groups"):
        with pytest.raises(ValueError, match=rf"^{what}: expected at (most|least) \d+, got"):
            layers.conv2d(x, w, **{what: number}, backend=backend)
    for what in ("stride", "padding", "dilation", "kernel_size"):
        window = {"kernel_size": 1} | {what: number}
        with pytest.raises(ValueError, match=rf"^{what}: expected at (most|least) \d+, got"):
            layers.max_pool2d(x, **window, backend=backend)


def test_words_for_padding():
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match="'same', 'valid' or numbers"):
        layers.conv2d(x, w, padding="full", backend="numpy")
    with pytest.raises(ValueError, match="stride 1"):
        layers.conv2d(x, w, padding="same", stride=2, backend="numpy")
