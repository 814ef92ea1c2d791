"""A fixture of this room: rows of a run."""

import pytest

from cnnbench.results import Row


@pytest.fixture(scope="session")
def row_of():
    """Return a function that makes a row of a timed convolution, changed as asked."""

    def row_of(backend, seconds=1.0, **changed):
        row = Row("digits.conv1", "mb64ic1ih8oc8oh8kh3ph1", "conv2d", "forward", backend, 1, "ok")
        row.seconds, row.samples, row.error_over_bound = seconds, [seconds], 0.25
        row.baseline, row.ratio, row.ratio_low, row.ratio_high = "slow", 2.0, 1.5, 2.25
        row.verdict = "FASTER"
        for name, value in changed.items():
            setattr(row, name, value)
        return row

    return row_of
