"""A backend of your own, by einsum: one call for each filter tap, over all pixels of all images.

pip install ./examples/third_party adds it to every command; its pyproject.toml registers it.
"""

import numpy as np

from cnnkernels.backends import NumpyArrays
from cnnkernels.contract import ALL, Backend, Conv2DGradients
from cnnkernels.pooling import windows as pooling
from cnnkernels.strided import strided_taps


class TapByTap:
    def unsupported(self, problem):
        return None if problem.groups == 1 else "groups of channels"

    def cache_spec(self, _problem):
        return ()

    def forward(self, problem, x, w, b):
        y = np.zeros(problem.shapes.y, problem.dtype)
        for r, s, windows, pixels in strided_taps(problem):
            y[:, :, *windows] += np.einsum("kc,nchw->nkhw", w[:, :, r, s], x[:, :, *pixels])
        return y if b is None else y + b[:, None, None], ()

    def backward(self, problem, dy, x, w, _cache, needs=ALL):
        dx, dw = np.zeros_like(x), np.zeros_like(w)
        for r, s, windows, pixels in strided_taps(problem):
            if needs.dx:
                dx[:, :, *pixels] += np.einsum("kc,nkhw->nchw", w[:, :, r, s], dy[:, :, *windows])
            if needs.dw:
                dw[:, :, r, s] = np.einsum("nkhw,nchw->kc", dy[:, :, *windows], x[:, :, *pixels])
        db = dy.sum((0, 2, 3)) if needs.db and problem.bias else None
        return Conv2DGradients(dx if needs.dx else None, dw if needs.dw else None, db)


def my_backend():
    return Backend("my-backend", "einsum, tap by tap", TapByTap(), pooling, NumpyArrays())
