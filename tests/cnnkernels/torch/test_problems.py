"""PyTorch's arguments become problems; invalid ones are rejected by name."""

import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed")
layers = pytest.importorskip("cnnkernels.torch")
nn = torch.nn


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


@pytest.mark.parametrize("number", [2, torch.tensor(2), (2, 1), [2, 1], torch.Size([2, 1])])
def test_numbers_of_any_type_are_integers_of_rows_and_columns(number, draw, close):
    x, w = draw(1, 2, 9, 8), draw(2, 2, 3, 2)
    plain = tuple(map(int, number)) if isinstance(number, list | tuple) else int(number)
    for what in ("stride", "padding", "dilation"):
        how, theirs = {what: number}, {what: plain}
        close(layers.conv2d(x, w, **how, backend="numpy"), nn.functional.conv2d(x, w, **theirs))
        ours = layers.max_pool2d(x, 4, **how, backend="numpy")
        close(ours, nn.functional.max_pool2d(x, 4, **theirs))


@pytest.mark.parametrize(
    ("value", "error", "words"),
    [
        (
            (1, 2, 3),
            ValueError,
            r"expected an integer or a pair \(height, width\), got \(1, 2, 3\)",
        ),
        ((), ValueError, r"expected an integer or a pair \(height, width\), got \(\)"),
        (1.5, TypeError, "expected an integer, got 1.5 of type float"),
        ((1.5, 2), TypeError, "expected an integer, got 1.5 of type float"),
        (True, TypeError, "expected an integer, got True"),
        (((1, 1), (1, 1)), TypeError, r"expected an integer, got \(1, 1\) of type tuple"),
    ],
)
def test_what_is_no_pair_of_integers_is_refused_by_name(value, error, words):
    x, w = torch.ones(1, 1, 8, 8), torch.ones(1, 1, 3, 3)
    for what in ("stride", "padding", "dilation"):
        with pytest.raises(error, match=f"^{what}: {words}"):
            layers.conv2d(x, w, **{what: value}, backend="numpy")
    for what in ("kernel_size", "stride", "padding", "dilation"):
        with pytest.raises(error, match=f"^{what}: {words}"):
            layers.max_pool2d(x, **{"kernel_size": 3} | {what: value}, backend="numpy")


def test_words_for_padding():
    x, w = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match="padding: expected 'same' or 'valid', got 'full'"):
        layers.conv2d(x, w, padding="full", backend="numpy")
    with pytest.raises(ValueError, match="padding='same' needs stride 1, got stride"):
        layers.conv2d(x, w, padding="same", stride=2, backend="numpy")
