"""Operators of PyTorch are told apart by kind."""

import pytest

from cnnbench.recommend import parts


@pytest.mark.parametrize(
    ("operator", "kind"),
    [
        ("native_batch_norm", parts.NORMALIZATION),
        ("native_batch_norm_backward", parts.NORMALIZATION),
        ("native_layer_norm_backward", parts.NORMALIZATION),
        ("relu_", parts.ACTIVATIONS),
        ("threshold_backward", parts.ACTIVATIONS),
        ("_prelu_kernel", parts.OTHERS),
        ("hardswish_backward", parts.ACTIVATIONS),
        ("add_", parts.SUMS),
        ("cat", parts.SUMS),
        ("addmm", parts.PRODUCTS),
        ("mean", parts.OTHERS),
        ("linalg_vector_norm", parts.OTHERS),
    ],
)
def test_an_operator_is_of_its_kind(operator, kind):
    assert parts.kind_of(operator) == kind


def test_parts_of_a_step_are_medians_over_steps(network):
    conv, pool = (str(layer.problem) for layer in network.layers)
    steps = [
        {
            "layers": {conv: [seconds, seconds], pool: [1.0, 0.5]},
            "others": {parts.OPTIMIZER: seconds},
        }
        for seconds in (3.0, 1.0, 50.0)
    ]
    found = parts.of_steps(network, steps)
    assert found == {parts.CONVOLUTIONS: 12.0, parts.POOLINGS: 1.5, parts.OPTIMIZER: 3.0}
    assert list(found) == [parts.CONVOLUTIONS, parts.POOLINGS, parts.OPTIMIZER]
    assert parts.rest(found) == 3.0
