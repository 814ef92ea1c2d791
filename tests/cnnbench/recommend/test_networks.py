"""A network as the problems that a step of its training asks of kernels."""

import pytest

from cnnbench import cases
from cnnbench.digits.options import Options
from cnnbench.digits.training import planned
from cnnbench.recommend import networks
from cnnbench.recommend.networks import Call, ModelError
from cnnkernels.contract import BACKWARD, BACKWARD_DATA, BACKWARD_WEIGHTS, FORWARD

CONV = "mb2ic3ih6oc4oh6kh3ph1"
POOL = "mb2ic4ih6oh3kh2sh2ph0"


def test_calls_of_one_problem_are_one_layer_with_all_gradients_that_any_needs():
    calls = [
        Call("first", CONV, dx=False, dw=True),
        Call("pool", POOL, dx=True, dw=False),
        Call("second", CONV, dx=True, dw=False),
    ]
    conv, pool = networks.of_calls("net", calls).layers
    assert (conv.names, conv.backward) == (("first", "second"), BACKWARD)
    assert (pool.names, pool.directions) == (("pool",), (FORWARD, BACKWARD))
    assert (conv.case.name, conv.case.layers) == ("first", 2)


@pytest.mark.parametrize(
    ("descriptor", "dx", "dw", "backward"),
    [
        (CONV, False, True, BACKWARD_WEIGHTS),
        (CONV, True, False, BACKWARD_DATA),
        (CONV, False, False, None),
        (POOL, False, False, None),
    ],
)
def test_only_the_backward_that_training_needs_is_timed(descriptor, dx, dw, backward):
    (layer,) = networks.of_calls("net", [Call("it", descriptor, dx, dw)]).layers
    assert layer.backward == backward
    assert layer.directions == ((FORWARD,) if backward is None else (FORWARD, backward))


def test_an_architecture_needs_no_gradient_of_its_images():
    network = networks.of_architecture(planned(Options(batch_size=4)))
    assert [layer.names for layer in network.layers] == [
        ("conv1",), ("pool1",), ("conv2",), ("pool2",)
    ]  # fmt: skip
    assert [layer.backward for layer in network.layers] == [
        BACKWARD_WEIGHTS, BACKWARD, BACKWARD, BACKWARD
    ]  # fmt: skip
    assert {layer.problem.batch for layer in network.layers} == {4}


def test_case_sets_keep_their_multiplicities_and_need_every_gradient():
    network = networks.of_cases(cases.load(f'{CONV}n"one*3",{POOL}n"two"', None))
    assert [len(layer.names) for layer in network.layers] == [3, 1]
    assert {layer.backward for layer in network.layers} == {BACKWARD}


def test_a_shape_is_read_and_its_batch_replaced():
    assert networks.shape_of("8,3,32,32", None) == [8, 3, 32, 32]
    assert networks.shape_of("8, 3, 32, 32", 4) == [4, 3, 32, 32]
    for text in ("8", "8,x", "", "8,0,3"):
        with pytest.raises(ModelError, match=r"shape such as 8,3,224,224, got"):
            networks.shape_of(text, None)
