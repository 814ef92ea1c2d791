"""A command line in a process of its own, which ends with the sweep's worker that started it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from cnnbench import cli
from cnnbench.cli import runs
from cnnbench.workers.child import Channel


def main(channel: Channel) -> None:
    """Receive arguments of `cnnbench`, run it with these, and send its exit code.

    The message has ``arguments``; ``folder``, where the command leaves its files; and ``said``, the
    file to which it prints.
    """
    asked = channel.receive()
    said = os.open(asked["said"], os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
        os.dup2(said, stream.fileno())
    runs.OWN_FOLDER = Path(asked["folder"])  # the rows go home, not to a folder of the machine
    sys.argv = ["cnnbench", *asked["arguments"]]
    code: object = 0
    try:
        cli.main()
    except SystemExit as end:
        code = end.code
    sys.stdout.flush()
    channel.send(code if isinstance(code, int) else 0 if code is None else 1)
