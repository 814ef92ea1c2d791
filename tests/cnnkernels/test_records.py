"""Compiled code reads named tuples by name; a record keeps its address between calls."""

from typing import NamedTuple

import numpy as np
import pytest

pytest.importorskip("numba")
parallel = pytest.importorskip("cnnkernels.parallel")
records = pytest.importorskip("cnnkernels.records")


class Sizes(NamedTuple):
    count: int
    step: int
    numbers: np.ndarray


class Call(NamedTuple):
    x: np.ndarray
    y: np.ndarray
    sizes: int


@parallel.ParallelKernel
def fill(number, words, like):
    """Set y[i] to number + x[i] * step + numbers[i]."""
    call = records.read(Call, words)
    sizes = records.read(Sizes, call.sizes)
    x = records.array_at(call.x, like, (sizes.count,))
    y = records.array_at(call.y, like, (2, sizes.count))
    numbers = records.array_at(sizes.numbers, words, (sizes.count,))
    for i in range(sizes.count):
        y[number, i] = number + x[i] * sizes.step + numbers[i]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_kernel_reads_its_call_and_a_record_by_name(dtype):
    sizes = records.record(Sizes(count=3, step=-2, numbers=np.array([100, 2**40, -(2**40)])))
    x, y = np.arange(3, dtype=dtype), np.zeros((2, 3), dtype)
    fill(2, dtype, Call(x=x, y=y, sizes=sizes.address))
    expected = np.add.outer([0, 1], [100, 2**40 - 2, -(2**40) - 4])
    np.testing.assert_array_equal(y, expected.astype(dtype))


def test_words_are_integers_as_they_are_and_arrays_as_addresses():
    array = np.zeros((2, 3))
    assert records.words((1, -(2**62), array[1:], True)).tolist() == [
        1,
        -(2**62),
        array[1:].ctypes.data,
        1,
    ]


def test_a_record_keeps_its_arrays_and_says_where_it_stands():
    numbers = np.arange(3)
    sizes = records.record(Sizes(3, 1, numbers))
    assert sizes.fields.numbers is numbers
    assert sizes.words.tolist() == [3, 1, numbers.ctypes.data]
    assert sizes.address == sizes.words.ctypes.data
