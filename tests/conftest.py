"""A fixture of all rooms: a pipe that somebody reads."""

import os

import pytest


@pytest.fixture
def pipe(tmp_path):
    """Return a named pipe, and a function that returns what was written to it since it was asked.

    Its reader is there from the beginning, so that nobody waits for it.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def got():
        return b"".join(iter(lambda: os.read(reader, 4096), b""))

    yield path, got
    os.close(reader)
