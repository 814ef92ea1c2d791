"""Fixtures of this room: each backend that can run here, and a Python process of one's own."""

import os
import signal
import subprocess
import sys

import pytest

from cnnkernels import Unsupported, registry

MOST_SECONDS = 240
"""A process that takes longer hangs; less than the time that pytest gives a test."""


def _marked(name):
    return pytest.param(name, marks=pytest.mark.cuda if name.endswith("cuda") else ())


@pytest.fixture(params=[_marked(name) for name in registry.names()])
def backend(request):
    """Each registered backend in turn; skip one that cannot run here, with the reason."""
    try:
        return registry.load(request.param)
    except Unsupported as reason:
        pytest.skip(str(reason))


@pytest.fixture
def python(tmp_path):
    """Return a function that runs code in a new process and returns what it printed."""

    def run(code, *, path=None, **environment):
        if path is not None:
            environment["PYTHONPATH"] = str(path)
        with subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code],
            env=os.environ | environment,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        ) as process:
            try:
                printed, errors = process.communicate(timeout=MOST_SECONDS)
            except BaseException:  # processes that it has forked would hold the pipes open
                os.killpg(process.pid, signal.SIGKILL)
                raise
        assert process.returncode == 0, errors
        return printed

    return run


@pytest.fixture
def thread_counts():
    """Return a generator that sets Numba to one thread, two, all, and to no thread pool.

    Without the pool, as in a forked process, loops run in a separately compiled version.
    """
    numba = pytest.importorskip("numba")
    from cnnkernels import parallel

    most = numba.get_num_threads()

    def counts():
        for threads in (1, min(2, most), most):
            numba.set_num_threads(threads)
            yield threads
        parallel._use_pool("dead")
        yield 0

    yield counts
    parallel._use_pool("")  # unknown again; the next loop determines it
    numba.set_num_threads(most)
