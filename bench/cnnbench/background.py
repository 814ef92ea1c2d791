"""Work beside other work, which an interrupt need not wait for."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

Result = TypeVar("Result")


def start(function: Callable[[], Result]) -> Future[Result]:
    """Run a function in a daemon thread, and return its future.

    An executor's threads would hold up the end of the program until they are done.
    """
    future: Future[Result] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future
