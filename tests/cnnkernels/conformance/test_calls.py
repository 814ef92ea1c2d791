"""Kernel calls with their arrays in place."""

import numpy as np
import pytest

from cnnkernels.conformance import Call, filled
from cnnkernels.contract import Needs, directions
from cnnkernels.descriptor import parse

RESULTS = {
    "forward": ("y",),
    "backward_data": ("dx",),
    "backward_weights": ("dw", "db"),
    "backward": ("dx", "dw", "db"),
}
CALLS = pytest.mark.parametrize(
    ("descriptor", "names"),
    [
        ("mb2ic3ih7oc4oh7kh3ph1", {"x", "w", "b", "dy", "y", "dx", "dw", "db"}),
        ("mb2ic3ih7oc4kh3bias0", {"x", "w", "dy", "y", "dx", "dw"}),
        ("mb2ic3ih7oh4kh3sh2ph1", {"x", "dy", "y", "dx"}),
    ],
)
"""Problems, and the arrays that each has."""


def made(backend, descriptor):
    """Return a problem, its expected results, and its call on a backend."""
    problem = parse(descriptor)
    data = filled(problem, "integers")
    return problem, data, Call(backend, problem, data)


def right(data, direction, names):
    """List the expected results of a direction."""
    return [getattr(data, name) for name in RESULTS[direction] if name in names]


@CALLS
def test_what_is_timed_is_a_right_answer_in_every_direction(backend, descriptor, names):
    problem, data, call = made(backend, descriptor)
    _, cache = call.forward()
    for direction in directions(problem):
        once = call.timed(direction, cache)
        for result in (once(), once()):
            arrays = result if isinstance(result, tuple) else (result,)
            if direction == "forward":
                arrays = arrays[:1]
            got = [backend.arrays.get(array) for array in arrays if array is not None]
            np.testing.assert_equal(got, right(data, direction, names))


@CALLS
def test_what_is_timed_from_nchw_gives_the_same_in_numpy(backend, descriptor, names):
    problem, data, call = made(backend, descriptor)
    _, cache = call.forward()
    for direction in directions(problem):
        result = call.timed_from_nchw(direction, cache)()
        arrays = result if isinstance(result, list) else [result]
        assert all(array.flags.c_contiguous for array in arrays)
        np.testing.assert_equal(arrays, right(data, direction, names))


@CALLS
def test_inputs_are_shown_as_they_are_now_and_are_copies_of_the_fill(backend, descriptor, names):
    _, data, call = made(backend, descriptor)
    inputs = call.inputs()
    assert set(inputs) == names & {"x", "w", "b", "dy"}
    for name, array in inputs.items():
        np.testing.assert_array_equal(array, getattr(data, name), strict=True)
        assert not np.may_share_memory(array, getattr(data, name))


def test_gradients_come_by_name_and_only_those_needed(backend):
    _, data, call = made(backend, "mb2ic3ih7oc4oh7kh3ph1")
    _, cache = call.forward()
    gradients = call.backward(cache, Needs(False, True, False))
    np.testing.assert_array_equal(backend.arrays.get(gradients.pop("dw")), data.dw)
    assert gradients == {"dx": None, "db": None}
