"""Benchmarks for asv: today's measuring, kernels of any commit.

asv takes this folder from the working tree and installs `cnnkernels` from the commit it measures.
So nothing here changes with the kernels, and of `cnnkernels` only what has been there from the
first kernel on, and stays, is used:

- ``cnnkernels.registry.load(name)``, which raises ``registry.UnknownBackendError`` for a name that
  is not known yet and NotImplementedError, with the reason, for a backend that cannot run here;
- ``cnnkernels.contract.Conv2D`` and ``MaxPool2D`` by their keyword arguments, and of a problem
  ``shapes.x``, ``shapes.w`` and ``shapes.y``;
- of a backend ``unsupported(problem)``, ``arrays.put``, ``arrays.get``, ``arrays.synchronize``,
  and the kernels ``convolution`` and ``pooling`` with ``forward`` and ``backward``.

Numba's cache is a folder of the environment, which each installation empties: an old kernel is
never run in place of the one that is measured. No benchmark uses more than one thread.

Names of benchmarks, their parameters and the cases are permanent: history is kept under them.
`version` is raised when a benchmark's meaning changes, and with it its history begins anew.
"""

import os
import sys
from pathlib import Path

# In asv's processes this is run before anything imports NumPy, Numba or PyTorch. Elsewhere, such as
# in the tests, other code decides. (In asv.conf.json it would be part of the environment's name.)
_program = getattr(sys.modules["__main__"], "__file__", None) or ""
if Path(_program).parts[-2:] == ("asv", "benchmark.py"):
    for _name in (
        "OMP_NUM_THREADS",
        "MKL_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "NUMBA_NUM_THREADS",
    ):
        os.environ.setdefault(_name, "1")
if (Path(sys.prefix) / "numba-cache").is_dir():  # made by asv.conf.json's install_command
    os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(sys.prefix) / "numba-cache"))
