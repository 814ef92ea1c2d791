"""What all tests share: threads that don't spin while they wait, and a pipe with a reader."""

import os

import pytest

# Two test processes share two cores. OpenMP threads spin while they wait for one another, and take
# the core from the thread they wait for. Processes that tests start inherit this.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

# OpenBLAS's threads spin whatever they are told: beside another process, the matrix products of an
# expected result took ten times as long on two threads. Workers set their own number.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


@pytest.fixture
def pipe(tmp_path):
    """Return a named pipe, and a function that returns what was written since its last call.

    A reader is open from the beginning, so that no writer waits for one.
    """
    path = tmp_path / "pipe"
    os.mkfifo(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def got():
        return b"".join(iter(lambda: os.read(reader, 4096), b""))

    yield path, got
    os.close(reader)
