"""Counts in words."""

from cnnbench.digits.options import Options, describe
from cnnbench.words import counted


def test_one_is_singular():
    assert [counted(count, "thread") for count in (0, 1, 2)] == [
        "0 threads", "1 thread", "2 threads",
    ]  # fmt: skip
    assert ", 1 epoch, " in describe(Options(epochs=1))
