"""Timed calls on changing inputs: correct results pass, results of earlier inputs fail."""

import dataclasses

import numpy as np
import pytest

from cnnkernels import registry
from cnnkernels.conformance import Call, ChangingCall, WrongResult, real_inputs, spots
from cnnkernels.contract import directions
from cnnkernels.descriptor import parse

DESCRIPTORS = ("mb2ic3ih7oc4oh7kh3ph1", "mb2ic3ih7oc4kh3bias0f64", "mb2ic3ih7oh4kh3sh2ph1")
PROBLEMS = pytest.mark.parametrize("descriptor", DESCRIPTORS)


def changing(backend, descriptor):
    """Yield the call, and its changing call for each direction, with and without conversion."""
    problem = parse(descriptor)
    accuracy = backend.accuracy(problem)
    call = Call(backend, problem, real_inputs(problem))
    _, cache = call.forward()
    for direction in directions(problem):
        for from_nchw in (False, True):
            right = spots(problem, accuracy=accuracy)
            yield call, ChangingCall(call, direction, cache, right, from_nchw)


def held(call):
    """Copy the call's inputs, on the device and on the host."""
    copies = [*call.inputs().values(), *call._arrays(on_host=True).values()]
    return [np.array(array) for array in copies]


@PROBLEMS
def test_results_of_inputs_that_change_are_right(backend, descriptor):
    for call, timed in changing(backend, descriptor):
        before = held(call)
        for _ in range(2):
            with timed.scaled():
                function = timed.function()
                timed.change()
                function()
                timed.restore()
                timed.require_right(function())
        timed.require_right(timed.function()())
        np.testing.assert_equal(held(call), before)


@PROBLEMS
def test_results_of_earlier_inputs_are_wrong(backend, descriptor):
    for _, timed in changing(backend, descriptor):
        earlier = timed.function()()
        with timed.scaled():
            with pytest.raises(WrongResult, match=r"^a timed call gave .* as an element of (y|d)"):
                timed.require_right(earlier)
            scaled = timed.function()()
        with pytest.raises(WrongResult):
            timed.require_right(scaled)


@PROBLEMS
def test_a_change_changes_the_result_and_each_is_another(backend, descriptor):
    for call, timed in changing(backend, descriptor):
        function, seen = timed.function(), set()
        for _ in range(3):
            timed.change()
            arrays = call.results(timed._direction, function(), timed._from_nchw)
            seen.add(b"".join(array.tobytes() for array in arrays.values()))
        assert len(seen) == 3


class Immutable(np.ndarray):
    """An immutable array, like those of some libraries."""

    def __setitem__(self, *_):
        raise TypeError("immutable")

    def __imul__(self, factor):
        return (np.asarray(self) * factor).astype(self.dtype).view(Immutable)


class ImmutableArrays:
    layout, device = "NCHW", "cpu"

    def put(self, array):
        return np.array(array).view(Immutable)

    def get(self, array):
        return np.asarray(array)

    def synchronize(self):
        pass


@PROBLEMS
def test_arrays_that_never_change_are_replaced(descriptor):
    backend = dataclasses.replace(registry.load("numpy"), arrays=ImmutableArrays())
    for call, timed in changing(backend, descriptor):
        before = held(call)
        earlier = timed.function()()
        with timed.scaled():
            timed.change()
            timed.restore()
            timed.require_right(timed.function()())
            with pytest.raises(WrongResult):
                timed.require_right(earlier)
        np.testing.assert_equal(held(call), before)


def test_no_images_change_nothing():
    for _, timed in changing(registry.load("numpy"), "mb0ic3ih7oc4oh7kh3ph1"):
        with timed.scaled():
            timed.change()
            timed.restore()
            timed.require_right(timed.function()())
