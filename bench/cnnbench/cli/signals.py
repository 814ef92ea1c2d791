"""Signals that end a command as Ctrl-C does."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class _Stopped(KeyboardInterrupt):
    """A signal that ends a command as Ctrl-C does; its argument is the signal's number."""


_ENDING = (signal.SIGTERM, signal.SIGHUP)
"""Signals that end a command as Ctrl-C does."""


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Let signals that would end the process interrupt the block, as Ctrl-C does.

    One that is ignored stays ignored: nohup and its like start a command so.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *_ENDING)}
    for number in _ENDING:
        if before[number] is signal.SIG_DFL:
            signal.signal(number, _stop)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _: object) -> None:
    for other in _ENDING:  # one is enough: the end of a terminal may send several
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


def ignore() -> None:
    """Ignore further signals: a command is ending."""
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def number_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal that an interrupt stands for."""
    return int(interrupt.args[0]) if isinstance(interrupt, _Stopped) else signal.SIGINT
