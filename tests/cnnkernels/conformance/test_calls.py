"""Kernel calls with their arrays in place."""

import numpy as np
import pytest

from cnnkernels.conformance import Call, filled
from cnnkernels.conformance.fills import absent
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
    data = filled(problem, "integers", accuracy=backend.accuracy(problem))
    return problem, data, Call(backend, problem, data)


def require_right(got, data, direction, names):
    """Compare a direction's results, but those that an algorithm has no exact ones of here."""
    results = [name for name in RESULTS[direction] if name in names]
    assert len(got) == len(results)
    for name, array in zip(results, got, strict=True):
        if not absent(getattr(data, name)):
            np.testing.assert_equal(array, getattr(data, name), err_msg=name)


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
            require_right(got, data, direction, names)


@CALLS
def test_what_is_timed_from_nchw_gives_the_same_in_numpy(backend, descriptor, names):
    problem, data, call = made(backend, descriptor)
    _, cache = call.forward()
    for direction in directions(problem):
        result = call.timed_from_nchw(direction, cache)()
        arrays = result if isinstance(result, list) else [result]
        assert all(array.flags.c_contiguous for array in arrays)
        require_right(arrays, data, direction, names)


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
    gradients = call.backward(cache, Needs(True, False, False))
    np.testing.assert_array_equal(backend.arrays.get(gradients.pop("dx")), data.dx)
    assert gradients == {"dw": None, "db": None}
