"""Allocated arrays are aligned to cache lines; unsuitable arrays are rejected."""

import numpy as np
import pytest

from cnnkernels import arrays


@pytest.mark.parametrize(
    ("array", "error", "expected", "came"),
    [
        ([1.0, 2.0], TypeError, "expected a NumPy array", "got list"),
        (None, TypeError, "expected a NumPy array", "got NoneType"),
        (np.zeros((2, 3)), TypeError, "expected dtype float32", "got float64"),
        (np.zeros((3, 2), "f4"), ValueError, "expected shape (2, 3)", "got (3, 2)"),
        (np.zeros((1, 2, 3), "f4"), ValueError, "expected shape (2, 3)", "got (1, 2, 3)"),
        (np.zeros((3, 2), "f4").T, ValueError, "C-contiguous", "ascontiguousarray"),
        (np.zeros((2, 6), "f4")[:, ::2], ValueError, "C-contiguous", "ascontiguousarray"),
        (np.zeros((2, 3), ">f4"), ValueError, "native byte order", "ascontiguousarray"),
        (
            np.frombuffer(bytes(25), "f4", 6, offset=1).reshape(2, 3),
            ValueError,
            "aligned",
            "ascontiguousarray",
        ),
    ],
)
def test_require_refuses_arrays_that_compiled_code_would_misread(array, error, expected, came):
    with pytest.raises(error, match=r"^x: ") as caught:
        arrays.require("x", array, (2, 3), "float32")
    assert expected in str(caught.value)
    assert came in str(caught.value)


def test_require_accepts_what_fits_even_if_read_only():
    array = np.zeros((2, 3), "f4")
    array.flags.writeable = False
    arrays.require("x", array, (2, 3), "float32")


@pytest.mark.parametrize("shape", [(), (0,), (1,), (0, 3), (3, 5, 7, 1)])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_new_arrays_begin_with_a_cache_line_and_have_room_for_all_elements(shape, dtype):
    for _ in range(20):
        array = arrays.empty(shape, dtype)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.ctypes.data % arrays.LINE == 0 or not array.size
        memory = array if array.base is None else array.base
        assert array.ctypes.data + array.nbytes <= memory.ctypes.data + memory.nbytes


def test_the_address_of_an_array_is_that_of_its_first_element():
    array = np.arange(24.0).reshape(2, 3, 4)
    read_only = array[:1]
    read_only.flags.writeable = False
    for view in (array, array[1:, 1:, ::2], array.T, read_only, array[:0], np.array(1.0)):
        assert arrays.address_of(view) == view.ctypes.data


def test_allocating_lends_empty_another_allocator_and_takes_it_back():
    asked = []

    def zeros(shape, dtype):
        asked.append((shape, dtype))
        return np.zeros(shape, dtype)

    with arrays.allocating(zeros), arrays.allocating(np.ones):
        assert arrays.empty((3,), "int64").all()
    assert not asked
    with arrays.allocating(zeros):
        assert not arrays.empty((2, 2), "float64").any()
    fresh = arrays.empty((4, 5), "float32")
    assert asked == [((2, 2), "float64")]
    assert (fresh.shape, fresh.dtype, fresh.flags.c_contiguous) == ((4, 5), np.float32, True)


def test_allocating_takes_its_allocator_back_after_an_error():
    def exhausted(*_):
        raise MemoryError

    with pytest.raises(MemoryError), arrays.allocating(exhausted):
        arrays.empty((2,), "float32")
    assert arrays.empty((2,), "float32").shape == (2,)
