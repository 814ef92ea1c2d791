"""Numbers as text: three significant digits, with a unit."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any


def seconds(value: float | None) -> str:
    """Return a time with its unit: '81.3 us', '4.05 ms', '1.20 s'."""
    if value is None or math.isnan(value):
        return "-"
    value = _rounded(value)
    for unit, scale in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)):
        if value >= scale:
            return f"{significant(value / scale)} {unit}"
    return f"{significant(value / 1e-9)} ns"


def significant(value: float) -> str:
    """Return a number with at least three significant digits and no exponent."""
    if value == 0:
        return "0"
    if abs(value) >= 999.5:
        return f"{value:.0f}"
    rounded = _rounded(value)
    digits = max(0, 2 - math.floor(math.log10(abs(rounded)) + 1e-9))
    return f"{rounded:.{digits}f}"


def _rounded(value: float) -> float:
    """Return a number rounded to three significant digits: 9.996 becomes 10.0."""
    return float(f"{value:.2e}")


def quantity(value: float | None) -> str:
    """Return a number with three significant digits, or '-'."""
    return "-" if value is None else significant(value)


def percent(value: float | None) -> str:
    """Return a fraction in percent, or '-'."""
    return "-" if value is None else f"{100 * value:.0f}%"


def floor(value: float | None) -> str:
    """Return an A/A floor in percent, or '(not measured)'."""
    return "(not measured)" if value is None or math.isnan(value) else f"{100 * value:.1f} %"


def of_bound(value: float | None) -> str:
    """Return an error in units of its bound, or '-'."""
    if value is None:
        return "-"
    if value >= 9.9995:
        return (
            f"{value:.1f}" if value < 99.95 else f"{value:.0f}" if value < 1e5 else f"{value:.0e}"
        )
    return "0" if value == 0 else f"{value:.3f}" if value >= 0.0005 else f"{value:.0e}"


def interval(value: float | None, low: float | None, high: float | None) -> str:
    """Return a ratio and its interval in one notation.

    Examples: '1.84x [1.79, 1.90]', '1/234 [1/248, 1/217]', '2.00x [?]'.
    """
    if value is None:
        return "-"
    fraction = value < 0.1 and (high is None or high < 1)
    times = _fraction if fraction else _decimal
    unit = "" if fraction else "x"
    if low is None or high is None:
        return f"{times(value)}{unit} [?]"
    return f"{times(value)}{unit} [{times(low)}, {times(high)}]"


def ratio(value: float | None) -> str:
    """Return a ratio alone: '1.84x', '1/234', '-'."""
    if value is None:
        return "-"
    return _fraction(value) if value < 0.1 else f"{_decimal(value)}x"


def _fraction(value: float) -> str:
    return f"1/{1 / value:.0f}"


def _decimal(value: float) -> str:
    return f"{value:.2f}" if 0.1 <= value < 1 else significant(value)


def bytes_(value: float | None) -> str:
    """Return a size with its unit: '0', '12.5 KiB', '96.0 MiB'."""
    if value is None:
        return "-"
    if value < 1024:
        return f"{value:.0f}"
    for unit, scale in (("KiB", 2**10), ("MiB", 2**20), ("GiB", 2**30)):
        if value < 1024 * scale or unit == "GiB":
            return f"{significant(value / scale)} {unit}"
    raise AssertionError("the last unit takes all")


def cores(environment: Mapping[str, Any]) -> str:
    """Return a run's cores: '2 cores', or '1 core (2 visible, a quota leaves the time of 1.5)'."""
    count = environment.get("cores")
    text = f"{count} core{'' if count == 1 else 's'}"
    visible, quota = environment.get("visible_cores"), environment.get("cpu_quota")
    if visible is None or quota is None or quota >= visible:  # older runs have neither
        return text
    return f"{text} ({visible} visible, a quota leaves the time of {quota:g})"
