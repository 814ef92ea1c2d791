"""The architectures are their case sets, and have the parameters one counts by hand."""

import numpy as np
import pytest

from cnnbench import cases
from cnnbench.digits.data import DataError
from cnnbench.digits.network import ARCHITECTURES, Network, initial_state, plan
from cnnkernels import registry


@pytest.mark.parametrize("name", ["digits", "digits-deep"])
def test_an_architectures_layers_are_the_cases_of_its_name(name):
    ours = [str(case) for case in plan(name, (1, 8, 8), 10, 64).cases]
    assert [str(case) for case in cases.load(name)[0].cases] == ours


@pytest.mark.parametrize(
    ("architecture", "parameters"),
    [
        ("digits", 8 * 10 + 16 * 73 + 64 * 10 + 10),
        ("digits-deep", 8 * 10 + 16 * 73 + 32 * 145 + 128 * 10 + 10),
        ("digits-strided", 8 * 10 + 8 * 73 + 16 * 73 + 16 * 145 + 64 * 10 + 10),
    ],
)
def test_parameters_are_as_many_as_by_hand(architecture, parameters):
    state = initial_state(plan(architecture, (1, 8, 8), 10, 64), np.random.default_rng(0))
    assert sum(value.size for value in state.values()) == parameters


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("shape", [(1, 8, 8), (3, 13, 17), (2, 5, 4)])
def test_any_images_become_logits(architecture, batchnorm, shape):
    planned = plan(architecture, shape, 7, 4, batchnorm=batchnorm)
    state = initial_state(planned, np.random.default_rng(0))
    network = Network(planned, registry.load("numpy"), state)
    network.train(False)
    assert network.forward(np.ones((3, *shape), np.float32)).shape == (3, 7)
    found = network.state
    assert list(found) == list(state)
    for name, value in state.items():
        np.testing.assert_array_equal(found[name], value)


def test_images_too_small_to_pool_are_refused():
    with pytest.raises(DataError, match="at least 4x4 pixels for digits, got 3x9"):
        plan("digits", (1, 3, 9), 10, 64)
