"""Poisoned memory between fences."""

import numpy as np
import pytest

from cnnkernels import arrays
from cnnkernels.conformance.fences import Fences


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64", "int32", "uint8"])
@pytest.mark.parametrize("shape", [(2, 3, 4), (1,), (0, 5)])
def test_memory_that_nothing_was_written_to_is_full_of_poison(shape, dtype):
    array = Fences()(shape, dtype)
    assert (array.shape, array.dtype.name) == (shape, dtype)
    assert array.flags.c_contiguous
    assert array.flags.writeable
    poison = np.isnan(array) if array.dtype.kind == "f" else array == np.iinfo(dtype).max
    assert poison.all()


@pytest.mark.parametrize("dtype", ["float32", "int64"])
@pytest.mark.parametrize(
    ("place", "trodden"),
    [
        (-64, "wrote before an array of 6 elements"),
        (-1, "wrote before an array of 6 elements"),
        (0, None),
        (5, None),
        (6, "wrote beyond an array of 6 elements"),
        (69, "wrote beyond an array of 6 elements"),
    ],
)
def test_who_writes_beside_an_array_treads_on_a_fence(dtype, place, trodden):
    fences = Fences()
    fences((4,), dtype)
    array = fences((2, 3), dtype)
    memory = array.base
    first = (memory.size - array.size) // 2
    assert np.shares_memory(memory[first : first + 1], array[:1, :1])
    memory[first + place] = 0
    assert fences.trodden() == trodden


def test_an_array_that_is_filled_to_the_brim_treads_on_no_fence():
    fences = Fences()
    with arrays.allocating(fences):
        arrays.empty((3, 5), "float64")[...] = 1
        arrays.empty((0,), "float32")[...] = 1
    assert fences.trodden() is None


def test_fences_are_compared_bit_by_bit_so_that_another_nan_is_noticed():
    fences = Fences()
    fences((4,), "float32").base[0] = -np.float32("nan")
    assert fences.trodden() is not None
