"""Invalid problems are rejected; the message states what was expected, and what it got."""

import numpy as np
import pytest
from hypothesis import settings

from cnnkernels.contract import Conv2D, MaxPool2D

a_while = settings(deadline=None, max_examples=60)

CONVOLUTION = {
    "batch": 2,
    "in_channels": 4,
    "height": 8,
    "width": 9,
    "out_channels": 6,
    "kernel_size": 3,
}
POOLING = {"batch": 2, "channels": 4, "height": 8, "width": 9, "kernel_size": 3}


def convolution(**changes):
    return Conv2D(**CONVOLUTION | changes)


def pooling(**changes):
    return MaxPool2D(**POOLING | changes)


BAD_WINDOWS = (
    # changed arguments, the error, the expectation in the message, and the value it got
    ({"batch": -1}, ValueError, "batch: expected at least 0", "got -1"),
    ({"batch": 2.0}, TypeError, "batch: expected an integer", "got 2.0 of type float"),
    ({"batch": True}, TypeError, "batch: expected an integer", "got True"),
    ({"batch": np.True_}, TypeError, "batch: expected an integer", "True"),
    ({"batch": "2"}, TypeError, "batch: expected an integer", "got '2' of type str"),
    ({"batch": None}, TypeError, "batch: expected an integer", "got None of type NoneType"),
    ({"height": 0}, ValueError, "height: expected at least 1", "got 0"),
    ({"height": -8}, ValueError, "height: expected at least 1", "got -8"),
    ({"width": 0}, ValueError, "width: expected at least 1", "got 0"),
    ({"width": 9.5}, TypeError, "width: expected an integer", "got 9.5 of type float"),
    ({"kernel_size": 0}, ValueError, "kernel_size: expected at least 1", "got 0"),
    ({"kernel_size": (3, -1)}, ValueError, "kernel_size: expected at least 1", "got -1"),
    ({"kernel_size": (3,)}, ValueError, "kernel_size: expected an integer or a pair", "(3,)"),
    ({"kernel_size": (3, True)}, TypeError, "kernel_size: expected an integer", "got True"),
    ({"kernel_size": "33"}, TypeError, "kernel_size: expected an integer", "got '33'"),
    (
        {"kernel_size": b"\x03\x03"},
        TypeError,
        "kernel_size: expected an integer",
        "got b'",
    ),
    ({"stride": 0}, ValueError, "stride: expected at least 1", "got 0"),
    ({"stride": (1, 2, 3)}, ValueError, "stride: expected an integer or a pair", "(1, 2, 3)"),
    ({"stride": 1.0}, TypeError, "stride: expected an integer", "got 1.0 of type float"),
    ({"dilation": 0}, ValueError, "dilation: expected at least 1", "got 0"),
    ({"dilation": False}, TypeError, "dilation: expected an integer", "got False"),
    ({"padding": -1}, ValueError, "padding: expected at least 0", "got -1"),
    ({"padding": ((0, 0), (0, -2))}, ValueError, "padding: expected at least 0", "got -2"),
    ({"padding": 0.5}, TypeError, "padding: expected an integer", "got 0.5 of type float"),
    ({"padding": None}, TypeError, "padding: expected an integer", "got None"),
    ({"padding": (1, 2, 3)}, ValueError, "padding: expected an integer or a pair", "(1, 2, 3)"),
    ({"padding": ((1, 1), 1)}, ValueError, "expected ((top, bottom), (left, right))", "1), 1)"),
    ({"padding": (1, (1, 1))}, TypeError, "padding: expected an integer", "got (1, 1)"),
    ({"padding": "full"}, ValueError, "padding: expected 'same' or 'valid'", "got 'full'"),
    ({"padding": "same", "stride": 2}, ValueError, "'same' needs stride 1", "got stride (2, 2)"),
    ({"dtype": "float16"}, TypeError, "dtype: expected float32 or float64", "got float16"),
    ({"dtype": int}, TypeError, "dtype: expected float32 or float64", "got int64"),
    ({"dtype": "bfloat7"}, TypeError, "dtype: expected float32 or float64", "got 'bfloat7'"),
    (
        {"dtype": None},
        TypeError,
        "dtype: expected float32 or float64",
        "got None",
    ),
    *(
        (
            {name: number},
            ValueError,
            f"{name}: expected at most 281474976710656",
            f"got {number}",
        )
        for name in ("batch", "height", "width", "kernel_size", "stride", "padding", "dilation")
        for number in (2**48 + 1, 2**63, 2**64 + 1)
    ),
    ({"stride": 10**5000}, ValueError, "stride: expected at most", "an integer of 16610 bits"),
    ({"stride": -(10**5000)}, ValueError, "stride: expected at least", "an integer of 16610 bits"),
    ({"padding": (0, 10**5000, 0)}, ValueError, "padding: expected an integer or a pair", "tuple"),
    ({"padding": 2**63, "stride": 2**63}, ValueError, "expected at most", f"got {2**63}"),
    (
        {"padding": 2**40, "stride": 2**40},
        ValueError,
        "height, width, padding: expected at most 281474976710656 pixels in a padded image",
        f"got {2**41 + 3} x {2**41 + 3}",
    ),
    (
        {"height": 2**40, "width": 2**40},
        ValueError,
        "height, width, padding: expected at most",
        f"got {2**40} x {2**40}",
    ),
    (
        {"height": 2**40, "batch": 2**10},
        ValueError,
        "x: expected an array of at most 281474976710656 bytes",
        f"got shape (1024, 4, {2**40}, 9) of float32",
    ),
    (
        {"height": 2**43, "batch": 0},  # one image would be too large
        ValueError,
        "x: expected an array of at most",
        f"got shape (0, 4, {2**43}, 9) of float32",
    ),
    ({"kernel_size": 9}, ValueError, "the kernel is 9 pixels high", "image, 8 pixels high"),
    (
        {"kernel_size": 4, "dilation": 3, "padding": ((1, 1), (0, 0))},
        ValueError,
        "the kernel is 10 pixels wide (size 4, dilation 3)",
        "image, 9 pixels wide",
    ),
)
BAD_CONVOLUTIONS = (
    ({"in_channels": 0}, ValueError, "in_channels: expected at least 1", "got 0"),
    ({"in_channels": True}, TypeError, "in_channels: expected an integer", "got True"),
    ({"out_channels": 0}, ValueError, "out_channels: expected at least 1", "got 0"),
    ({"out_channels": 6.0}, TypeError, "out_channels: expected an integer", "got 6.0"),
    ({"groups": 0}, ValueError, "groups: expected at least 1", "got 0"),
    ({"groups": True}, TypeError, "groups: expected an integer", "got True"),
    ({"groups": 3}, ValueError, "in_channels: expected a multiple of groups=3", "got 4"),
    ({"groups": 4}, ValueError, "out_channels: expected a multiple of groups=4", "got 6"),
    ({"in_channels": 2**63}, ValueError, "in_channels: expected at most", f"got {2**63}"),
    ({"out_channels": 2**63}, ValueError, "out_channels: expected at most", f"got {2**63}"),
    ({"groups": 2**63}, ValueError, "groups: expected at most", f"got {2**63}"),
    (
        {"in_channels": 2**24, "out_channels": 2**24},
        ValueError,
        "w: expected an array of at most 281474976710656 bytes",
        "got shape (16777216, 16777216, 3, 3) of float32",
    ),
    (
        {"height": 1, "width": 1, "kernel_size": 1, "padding": 2**22, "batch": 2**5},
        ValueError,
        "y: expected an array of at most",
        f"{2**23 + 1}, {2**23 + 1}) of float32",
    ),
    ({"bias": 1}, TypeError, "bias: expected True or False", "got 1"),
    ({"bias": 10**5000}, TypeError, "bias: expected True or False", "an integer of 16610 bits"),
    ({"bias": None}, TypeError, "bias: expected True or False", "got None"),
)
BAD_POOLINGS = (
    ({"channels": 0}, ValueError, "channels: expected at least 1", "got 0"),
    ({"channels": 2.5}, TypeError, "channels: expected an integer", "got 2.5"),
    ({"channels": 2**63}, ValueError, "channels: expected at most", f"got {2**63}"),
    (
        {"padding": 2**63, "ceil_mode": True},
        ValueError,
        "padding: expected at most 281474976710656",
        f"got {2**63}",
    ),
    (  # far more taps than could be tried one by one
        {"kernel_size": (2**40, 3), "padding": (2**40, 0)},
        ValueError,
        "window row 0 of 2 lies wholly in the padding",
        "would see no pixel",
    ),
    (
        {"padding": ((3, 0), (0, 0))},
        ValueError,
        "window row 0 of 3 lies wholly in the padding (3, 0)",
        "would see no pixel",
    ),
    (
        {"padding": ((0, 0), (0, 3))},
        ValueError,
        "window column 3 of 4 lies wholly in the padding (0, 3)",
        "would see no pixel",
    ),
    (  # the window straddles the one row, and its two taps miss it
        {"height": 1, "kernel_size": (2, 1), "dilation": (3, 1), "padding": ((2, 2), (0, 0))},
        ValueError,
        "window row 0 of 1",
        "would see no pixel",
    ),
    ({"ceil_mode": True, "height": 0}, ValueError, "height: expected at least 1", "got 0"),
    ({"ceil_mode": True, "stride": 0}, ValueError, "stride: expected at least 1", "got 0"),
    (
        {"ceil_mode": True, "kernel_size": 13, "stride": 2},
        ValueError,
        "the kernel is 13 pixels high",
        "image, 8 pixels high",
    ),
    (
        {"ceil_mode": "no"},
        TypeError,
        "ceil_mode: expected True or False",
        "got 'no'",
    ),
)


def assert_refused(make, changes, error, expected, came):
    with pytest.raises(error) as caught:
        make(**changes)
    assert expected in str(caught.value)
    assert came in str(caught.value)


@pytest.mark.parametrize("make", [convolution, pooling])
@pytest.mark.parametrize(("changes", "error", "expected", "came"), BAD_WINDOWS)
def test_bad_windows_are_refused_with_what_was_expected_and_what_came(
    make, changes, error, expected, came
):
    assert_refused(make, changes, error, expected, came)


@pytest.mark.parametrize(("changes", "error", "expected", "came"), BAD_CONVOLUTIONS)
def test_bad_channels_groups_and_bias_are_refused(changes, error, expected, came):
    assert_refused(convolution, changes, error, expected, came)


@pytest.mark.parametrize(("changes", "error", "expected", "came"), BAD_POOLINGS)
def test_bad_poolings_are_refused(changes, error, expected, came):
    assert_refused(pooling, changes, error, expected, came)
