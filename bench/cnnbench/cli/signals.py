"""Make other ending signals act like Ctrl-C."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator


class _Stopped(KeyboardInterrupt):
    """An ending signal, handled like Ctrl-C; the argument is its number."""


_ENDING = (signal.SIGTERM, signal.SIGHUP)


@contextlib.contextmanager
def stopping() -> Iterator[None]:
    """Make ending signals interrupt the block, like Ctrl-C.

    Ignored signals stay ignored: nohup relies on it.
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
    for other in _ENDING:  # a closing terminal may send several
        signal.signal(other, signal.SIG_IGN)
    raise _Stopped(number)


def ignore() -> None:
    """Ignore further signals while a command ends."""
    for number in (signal.SIGINT, *_ENDING):
        signal.signal(number, signal.SIG_IGN)


def number_of(interrupt: KeyboardInterrupt) -> int:
    """Return the number of the signal behind an interrupt."""
    return int(interrupt.args[0]) if isinstance(interrupt, _Stopped) else signal.SIGINT
