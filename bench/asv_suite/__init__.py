"""Benchmarks for asv: the current measuring code, with the kernels of any commit.

asv takes this folder from the working tree and installs `cnnkernels` from the commit it measures.
So nothing here depends on the kernels' commit. It uses only the parts of `cnnkernels` that have
existed since the first kernel and will stay:

- ``cnnkernels.registry.load(name)``, which raises ``registry.UnknownBackendError`` for a name not
  yet known, and NotImplementedError with the reason for a backend that cannot run here;
- ``cnnkernels.contract.Conv2D`` and ``MaxPool2D`` with keyword arguments, and a problem's
  ``shapes.x``, ``shapes.w`` and ``shapes.y``;
- a backend's ``unsupported(problem)``, ``arrays.put``, ``arrays.get``, ``arrays.synchronize``, and
  its kernels ``convolution`` and ``pooling`` with ``forward`` and ``backward``.

Numba's cache is a folder in the environment, emptied by each installation, so no old kernel runs in
place of the measured one. All benchmarks use one thread.

The names of benchmarks, parameters and cases are permanent, as the history is stored under them.
Raise `version` when the meaning of a benchmark changes; its history then starts again.
"""

import os
import sys
from pathlib import Path

# In asv's processes this runs before NumPy, Numba or PyTorch is imported. Elsewhere, such as in
# tests, other code sets threads. (asv.conf.json would make it part of the environment's name.)
_program = getattr(sys.modules["__main__"], "__file__", None) or ""
if Path(_program).parts[-2:] == ("asv", "benchmark.py"):
    for _name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    ):
        os.environ.setdefault(_name, "1")
if (Path(sys.prefix) / "numba-cache").is_dir():  # created by install_command in asv.conf.json
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(sys.prefix) / "numba-cache"))
