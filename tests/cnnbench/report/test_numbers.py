"""Three significant digits and a unit; a dash where there is no number."""

import math

import pytest

from cnnbench.report import numbers


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (math.nan, "-"),
        (2e-10, "0.200 ns"),
        (7.5e-9, "7.50 ns"),
        (81.3e-6, "81.3 us"),
        (999.4e-6, "999 us"),
        (999.6e-6, "1.00 ms"),
        (4.05e-3, "4.05 ms"),
        (0.9994, "999 ms"),
        (0.9996, "1.00 s"),
        (1.2, "1.20 s"),
        (3600.0, "3600 s"),
    ],
)
def test_a_time_has_the_unit_that_leaves_it_three_digits(value, expected):
    assert numbers.seconds(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0.0, "0"),
        (1.0, "1.00"),
        (-2.345, "-2.35"),
        (10.0, "10.0"),
        (12.34, "12.3"),
        (9.996, "10.0"),
        (99.96, "100"),
        (0.9996, "1.00"),
        (1000.0, "1000"),
        (123456.0, "123456"),
        (0.00123456, "0.00123"),
    ],
)
def test_a_quantity_has_three_significant_digits(value, expected):
    assert numbers.significant(value) == expected
    assert numbers.quantity(value) == expected
    assert numbers.quantity(None) == "-"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, "-"), (0.0, "0%"), (0.126, "13%"), (1.0, "100%"), (12.0, "1200%")],
)
def test_a_fraction_is_in_percent(value, expected):
    assert numbers.percent(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0.0, "0"),
        (0.123456, "0.123"),
        (0.0005, "0.001"),
        (0.0004, "4e-04"),
        (9.9994, "9.999"),
        (25.247, "25.2"),
        (1187.2, "1187"),
        (3e7, "3e+07"),
    ],
)  # fmt: skip
def test_an_error_is_in_units_of_its_bound_and_zero_only_if_it_is(value, expected):
    assert numbers.of_bound(value) == expected


@pytest.mark.parametrize(
    ("ratio", "expected"),
    [
        ((None, None, None), "-"),
        ((1.84, 1.79, 1.9), "1.84x [1.79, 1.90]"),
        ((0.5, 0.123, 1.5), "0.50x [0.12, 1.50]"),
        ((1 / 234, 1 / 248, 1 / 217), "1/234 [1/248, 1/217]"),
        ((0.1, 0.09, 12.34), "0.10x [0.0900, 12.3]"),
        ((0.48, 1 / 17, 15.3), "0.48x [0.0588, 15.3]"),
        ((0.05, 0.01, 2.0), "0.0500x [0.0100, 2.00]"),
        ((2.0, None, None), "2.00x [?]"),
        ((2.0, 1.0, None), "2.00x [?]"),
        ((1234.0, 1200.0, 1300.0), "1234x [1200, 1300]"),
    ],
)
def test_a_ratio_stands_with_its_interval_or_a_question_mark(ratio, expected):
    assert numbers.interval(*ratio) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, "-"),
        (0, "0"),
        (1023, "1023"),
        (1024, "1.00 KiB"),
        (12.5 * 1024, "12.5 KiB"),
        (96 * 2**20, "96.0 MiB"),
        (2**30, "1.00 GiB"),
        (5000 * 2**30, "5000 GiB"),
    ],
)
def test_a_size_is_in_binary_units(value, expected):
    assert numbers.bytes_(value) == expected


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"cores": 2}, "2 cores"),
        ({"cores": 2, "visible_cores": 2, "cpu_quota": None}, "2 cores"),
        ({"cores": 2, "visible_cores": 2, "cpu_quota": 2.5}, "2 cores"),
        ({"cores": 1, "visible_cores": 1, "cpu_quota": None}, "1 core"),
        (
            {"cores": 1, "visible_cores": 1, "cpu_quota": 0.5},
            "1 core (1 visible, a quota leaves the time of 0.5)",
        ),
        (
            {"cores": 1, "visible_cores": 2, "cpu_quota": 1.5},
            "1 core (2 visible, a quota leaves the time of 1.5)",
        ),
        (
            {"cores": 7, "visible_cores": 64, "cpu_quota": 7.9999},
            "7 cores (64 visible, a quota leaves the time of 7.9999)",
        ),
    ],
)
def test_cores_are_those_that_are_left_and_it_is_said(environment, expected):
    assert numbers.cores(environment) == expected
