"""Fixtures of this room: each backend that can run here, and a Python process of one's own."""

import os
import subprocess
import sys

import pytest

from cnnkernels import Unsupported, registry


def _marked(name):
    return pytest.param(name, marks=pytest.mark.cuda if name.endswith("cuda") else ())


@pytest.fixture(params=[_marked(name) for name in registry.names()])
def backend(request):
    """Each registered backend in turn; one that cannot run here is skipped, with its reason."""
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
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", code],
            env=os.environ | environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


@pytest.fixture
def thread_counts():
    """Return a generator that sets Numba to one thread, to two and to as many as there are."""
    numba = pytest.importorskip("numba")
    most = numba.get_num_threads()

    def counts():
        for threads in (1, min(2, most), most):
            numba.set_num_threads(threads)
            yield threads

    yield counts
    numba.set_num_threads(most)
