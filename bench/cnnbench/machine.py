"""What this machine is, as far as it matters to a time, without its name."""

from __future__ import annotations

import contextlib
import datetime
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

from cnnbench.results import slug
from cnnkernels import host

_LIBRARIES = (
    "cnnbench",
    "numpy",
    "numba",
    "llvmlite",
    "torch",
    "scikit-learn",
    "scipy",
    "array-api-compat",
)

_LONGEST = 100
"""Letters of a processor's name: some are lists of all that it can do, too long for a folder."""


def memory_bytes() -> int | None:
    """Return the installed memory, or None where the system does not say."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def name() -> str:
    """Return a name for the results folder: processor and cores, never the host's name.

    The processor is named twice, as the system does and by its microarchitecture: an "AMD EPYC" may
    be of several.
    """
    processor = slug(host.cpu_model())[:_LONGEST].rstrip("-")
    kind = host.microarchitecture()
    return "-".join([processor, *([slug(kind)] if kind else []), f"{host.cores()}-cores"])


def versions() -> dict[str, str]:
    """Return the versions of the libraries that matter to speed, those that are installed."""
    return host.versions(*_LIBRARIES)


def numba_settings() -> dict[str, str]:
    """Return Numba's settings in the environment: some of them make compiled code slower.

    Paths are left out. They change no time, and may hold a person's name.
    """
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and os.sep not in value
    }


def commit() -> str | None:
    """Return the commit of the checkout this package is run from, '+' if it was changed since."""
    folder = Path(__file__).resolve().parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        told = subprocess.run(
            ["git", "describe", "--always", "--dirty=+", "--abbrev=12", "--match="],
            cwd=folder,
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        )
        tracked = subprocess.run(
            ["git", "ls-files", "--error-unmatch", Path(__file__).name],
            cwd=folder,
            capture_output=True,
            check=False,
            timeout=10,
        )
        return told.stdout.strip() if tracked.returncode == 0 else None
    return None


def load_average() -> list[float] | None:
    """Return how many processes were running, over 1, 5 and 15 minutes; None where unknown."""
    with contextlib.suppress(OSError, AttributeError):
        return [round(value, 2) for value in os.getloadavg()]
    return None


def environment(command: list[str]) -> dict[str, Any]:
    """Return what a run's file says of where it was measured.

    Parameters
    ----------
    command : list of str
        The words of the command line.
    """
    return {
        "machine": name(),
        "cpu": host.cpu_model(),
        "microarchitecture": host.microarchitecture(),
        "cores": host.cores(),
        "visible_cores": host.visible_cores(),
        "cpu_quota": host.quota(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "numba_settings": numba_settings(),
        "commit": commit(),
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": load_average(),
    }
