"""Work beside other work."""

import threading

import pytest

from cnnbench import background


def test_a_result_or_an_error_waits_in_the_future():
    assert background.start(lambda: 7).result(10) == 7
    with pytest.raises(ZeroDivisionError):
        background.start(lambda: 1 / 0).result(10)


def test_the_thread_does_not_hold_up_the_end_of_the_program():
    ended = threading.Event()
    future = background.start(ended.wait)
    (mine,) = [t for t in threading.enumerate() if t.daemon and t.name.endswith("(run)")]
    assert mine.daemon
    ended.set()
    assert future.result(10)
