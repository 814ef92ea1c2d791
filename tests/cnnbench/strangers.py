"""Backends as strangers might bring them, good and bad; `conftest.strangers` installs this file.

Each is the `numpy` backend with something done to it, as its first line says. They are loaded by
workers, never by the tests.
"""

# ruff: noqa: ARG001, ARG005  # a kernel's functions take what the contract says, used or not
# ruff: noqa: T201  # what a library prints is what is tested

import dataclasses
import os
import signal
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from cnnkernels import Unsupported, backends
from cnnkernels.contract import Needs
from cnnkernels.convolution import im2col
from cnnkernels.fallback import WithFallback

_KERNEL = ("unsupported", "cache_spec", "forward", "backward")
_THREADS = os.environ.get("OMP_NUM_THREADS")


def _numpy(name, deterministic=False, **replaced):
    functions = {function: getattr(im2col, function) for function in _KERNEL}
    return dataclasses.replace(
        backends.numpy(),
        name=name,
        deterministic=deterministic,
        convolution=SimpleNamespace(**{**functions, **replaced}),
    )


def _die(*_):
    os.kill(os.getpid(), signal.SIGKILL)


def wrong():
    """Drops the last tap."""

    def forward(problem, x, w, b):
        w = w.copy()
        w[..., -1, -1] = 0
        return im2col.forward(problem, x, w, b)

    return _numpy("wrong", forward=forward)


def raises():
    """Raises when it is called."""

    def forward(problem, x, w, b):
        raise MemoryError("no room for the columns")

    return _numpy("raises", forward=forward)


def killed():
    """Is killed when it is called."""
    return _numpy("killed", forward=_die)


def exits():
    """Ends its process with a word on standard error."""

    def forward(problem, x, w, b):
        print("loading\nno licence", file=sys.stderr, flush=True)
        os._exit(3)

    return _numpy("exits", forward=forward)


def prints():
    """Is right, and prints rubbish that looks like an answer."""
    print('{"result": "loaded"}')

    def forward(problem, x, w, b):
        print('{"error": "computed"}', flush=True)
        os.write(1, b"\xff\x00 rubbish\n")
        return im2col.forward(problem, x, w, b)

    return _numpy("prints", forward=forward)


def sleeps():
    """Never comes back from five images; tells which process it sleeps in."""

    def forward(problem, x, w, b):
        if problem.batch == 5:
            if "STRANGERS_MARK" in os.environ:
                Path(os.environ["STRANGERS_MARK"]).write_text(str(os.getpid()))
            time.sleep(600)
        return im2col.forward(problem, x, w, b)

    return _numpy("sleeps", forward=forward)


def compiles():
    """Takes its time over the first call with images of each size, as compilers do."""
    seen = set()

    def forward(problem, x, w, b):
        if problem.height not in seen:
            seen.add(problem.height)
            time.sleep(0.1)
        return im2col.forward(problem, x, w, b)

    return _numpy("compiles", forward=forward)


def declines():
    """Cannot run here."""
    raise Unsupported("no such chip here")


def refuses():
    """Cannot do convolutions."""
    return _numpy("refuses", unsupported=lambda problem: "pools only")


def unloadable():
    """Cannot be loaded."""
    raise KeyError("secret")


def killed_once():
    """Is killed when it is called, and cannot be loaded afterwards."""
    mark = Path(os.environ["STRANGERS_MARK"])
    if mark.exists():
        raise RuntimeError("the device is lost")

    def forward(problem, x, w, b):
        mark.touch()
        _die()

    return _numpy("killed-once", forward=forward)


def killed_when_timed():
    """Is killed over dw and db together, which are asked for by a clock alone."""

    def backward(problem, dy, x, w, cache, needs):
        if needs == Needs(False, True, True):
            _die()
        return im2col.backward(problem, dy, x, w, cache, needs)

    return _numpy("killed-when-timed", backward=backward)


def unsteady():
    """Promises the same bits at any number of threads, and sums in another order at two."""

    def forward(problem, x, w, b):
        y, cache = im2col.forward(problem, x, w, b)
        if _THREADS == "2":
            turned = [np.ascontiguousarray(a[:, ::-1]) for a in (x, w)]
            y, _ = im2col.forward(problem, *turned, b)
        return y, cache

    return _numpy("unsteady", deterministic=True, forward=forward)


def one_thread():
    """Promises the same bits at any number of threads, and raises at two, over several images."""
    return _only_at("one-thread", "1")


def two_threads():
    """Promises the same bits at any number of threads, and raises at one, over several images."""
    return _only_at("two-threads", "2")


def _only_at(name, threads):
    def forward(problem, x, w, b):
        if threads != _THREADS and problem.batch > 1:  # one image is how fast it is asked
            raise OSError(f"runs with {threads} threads only")
        return im2col.forward(problem, x, w, b)

    return _numpy(name, deterministic=True, forward=forward)


def subtly_wrong():
    """Gives dw a thousandth too large where no pixel is negative: checks do not come to that."""

    def backward(problem, dy, x, w, cache, needs):
        gradients = im2col.backward(problem, dy, x, w, cache, needs)
        if gradients.dw is not None and x.min() >= 0:
            gradients.dw[...] *= 1.001
        return gradients

    return _numpy("subtly-wrong", backward=backward)


def killed_in_turn():
    """Is killed at the end of its second training: over the whole training set once more."""
    whole_sets = 0

    def forward(problem, x, w, b):
        nonlocal whole_sets
        whole_sets += problem.batch > 1000 and problem.in_channels == 1
        if whole_sets == 2:
            _die()
        return im2col.forward(problem, x, w, b)

    return _numpy("killed-in-turn", forward=forward)


def replays():
    """Gives its last result once more, from the twentieth call in a row with the same images on."""
    images, calls, last = None, 0, None

    def forward(problem, x, w, b):
        nonlocal images, calls, last
        calls = calls + 1 if x is images else 1
        images = x
        if calls < 20:
            last = im2col.forward(problem, x, w, b)
        y, cache = last
        return y.copy(), cache

    return _numpy("replays", forward=forward)


def borrows():
    """Computes 3x3 windows by itself, and the rest by numpy's kernels."""
    own = {function: getattr(im2col, function) for function in _KERNEL}
    own["unsupported"] = lambda problem: None if problem.kernel_size == (3, 3) else "3x3 only"
    return dataclasses.replace(
        _numpy("borrows"),
        convolution=WithFallback(SimpleNamespace(**own), im2col),
        fallback="numpy",
    )
