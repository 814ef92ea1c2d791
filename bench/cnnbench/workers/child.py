"""Run a module in its own Python process, with a channel to it; no child outlives its parent.

The parent's `Child` starts ``python -m cnnbench.workers.child``, which imports the module and calls
its ``main`` with a `Channel`. Messages are lines of JSON over a separate socket, so a library's
output is never mistaken for an answer. Standard input is empty, and standard output and error go to
a file. Nothing is imported from the current folder, where a ``statistics.py`` may lie.

The child also holds the reading end of a pipe that is never written to. When the parent ends, in
any way, the pipe closes, and the child ends with every process it has started.
"""

from __future__ import annotations

import contextlib
import fcntl
import importlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from typing import Any

from cnnbench.workers import affinity


class ChildError(RuntimeError):
    """The child no longer answers; the message is the reason."""


class Channel:
    """One end of a socket that carries JSON values, one a line."""

    def __init__(self, end: socket.socket) -> None:
        self._file = end.makefile("rwb")
        self._socket = end

    def send(self, message: Any) -> None:
        """Send a message.

        Raises
        ------
        OSError
            If the other end is closed.
        """
        self._file.write(json.dumps(message).encode() + b"\n")
        self._file.flush()

    def receive(self) -> Any:
        """Wait for a message and return it.

        Raises
        ------
        EOFError
            If the other end is closed instead.
        """
        line = self._file.readline()
        if not line:
            raise EOFError
        return json.loads(line)

    def waits(self, seconds: float | None) -> bool:
        """Return whether a message arrives, or the other end is closed, within the time."""
        # Not epoll: it waits forever if another thread closes this end.
        with selectors.PollSelector() as selector:
            selector.register(self._socket, selectors.EVENT_READ)
            return bool(selector.select(seconds))

    def close(self) -> None:
        """Close this end."""
        with contextlib.suppress(OSError):
            self._file.close()
        self._socket.close()


# --------------------------------------------------------------------------------------------
# the parent


class Child:
    """The parent's end of a module that runs in its own process.

    Parameters
    ----------
    module : str
        Its function ``main`` takes the child's `Channel`.
    environment : mapping of str to str
        All environment variables of the process.
    """

    def __init__(self, module: str, environment: Mapping[str, str]) -> None:
        self._output = tempfile.TemporaryFile()  # noqa: SIM115  # lives as long as the process
        mine, theirs = socket.socketpair()
        alive, self._alive = os.pipe()
        self._channel = Channel(mine)
        try:
            self._process = subprocess.Popen(
                # -P: import nothing from the current folder
                [sys.executable, "-P", "-m", __name__, module, str(theirs.fileno()), str(alive)],
                stdin=subprocess.DEVNULL,
                stdout=self._output,
                stderr=self._output,
                env=environment,
                pass_fds=(theirs.fileno(), alive),
                start_new_session=True,  # Ctrl-C reaches only the parent
            )
        finally:
            theirs.close()
            os.close(alive)

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def alive(self) -> bool:
        """Whether the process is running."""
        return self._process.poll() is None

    def pin(self, cores: set[int] | None) -> None:
        """Keep the process on these cores; None means all."""
        affinity.pin(self._process.pid, cores)

    def ask(self, message: Any, timeout: float | None = None) -> Any:
        """Send a message, and return the answer.

        An interrupt stops the child: a late answer would be mistaken for the next one.

        Raises
        ------
        ChildError
            If the child ends, was stopped before, or does not answer within `timeout` seconds and
            is stopped.
        """
        if self._output.closed:
            raise ChildError("the worker was stopped before")
        try:
            self._channel.send(message)
            if not self._channel.waits(timeout):
                self.close()
                raise ChildError(f"no answer within {timeout:.0f} s; stopped")
            return self._channel.receive()
        except (OSError, EOFError, ValueError):  # ValueError: another thread has closed the file
            raise ChildError(self._cause_of_death()) from None
        except KeyboardInterrupt:
            self.close()
            raise

    def close(self) -> None:
        """Kill the process and all processes it has started."""
        if self._process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        if not self._output.closed:
            self._channel.close()
            os.close(self._alive)
            self._output.close()

    def _cause_of_death(self) -> str:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
        code = self._process.poll()
        if code is None:
            return "the worker closed its channel without an answer"
        if code < 0:
            named = signal.Signals(-code).name
            hint = "; out of memory?" if -code == signal.SIGKILL else ""
            cause = f"the worker was killed by {named}{hint}"
        else:
            cause = f"the worker ended with exit code {code}"
        with contextlib.suppress(ValueError):  # closed
            self._output.seek(0)
            printed = self._output.read().decode(errors="replace").strip().splitlines()
            return f"{cause}: {printed[-1]}" if printed else cause
        return cause


# --------------------------------------------------------------------------------------------
# the child


def _end_with_parent(alive: int) -> None:
    """End this process and its children when a pipe closes, which happens when the parent ends.

    On Linux the kernel sends the signal, even while code holds Python's lock; elsewhere a thread
    that reads the pipe sends it. PR_SET_PDEATHSIG would fire too early: when the thread that
    started the child ends.
    """
    group = os.getpgrp()
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(alive, fcntl.F_SETSIG, signal.SIGKILL)
        fcntl.fcntl(alive, fcntl.F_SETOWN, -group)
        fcntl.fcntl(alive, fcntl.F_SETFL, fcntl.fcntl(alive, fcntl.F_GETFL) | os.O_ASYNC)

    def watch() -> None:
        os.read(alive, 1)
        os.killpg(group, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()


def main(module: str, channel: int, alive: int) -> None:
    """Run a module's ``main`` with the channel, a socket with this file descriptor."""
    for end in (channel, alive):
        os.set_inheritable(end, False)
    _end_with_parent(alive)
    importlib.import_module(module).main(Channel(socket.socket(fileno=channel)))


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
