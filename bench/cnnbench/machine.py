"""Describe this machine as far as it affects times, without its host name."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import os
import platform
import subprocess
import uuid
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
"""The most letters of a processor's name in a folder name; some names are very long."""


def name() -> str:
    """Return a name for the results folder, from processor and cores, never the host name.

    It includes the microarchitecture: an "AMD EPYC" may have one of several.
    """
    processor = slug(host.cpu_model())[:_LONGEST].rstrip("-")
    kind = host.microarchitecture()
    return "-".join([processor, *([slug(kind)] if kind else []), f"{host.cores()}-cores"])


def identity() -> str:
    """Return an opaque text that all processes of one running system share, and no other does.

    Containers of one host share it, too: they share the processor. It says nothing of the host
    name, and on Linux it changes with each start of the system.
    """
    with contextlib.suppress(OSError):
        started = Path("/proc/sys/kernel/random/boot_id").read_bytes()
        return hashlib.sha256(started).hexdigest()[:16]
    return hashlib.sha256(str(uuid.getnode()).encode()).hexdigest()[:16]


def versions() -> dict[str, str]:
    """Return the versions of the installed libraries that affect speed."""
    return host.versions(*_LIBRARIES)


def numba_settings() -> dict[str, str]:
    """Return Numba's environment variables, some of which slow compiled code.

    Paths are left out: they do not affect times, and may contain a person's name.
    """
    return {
        name: value
        for name, value in sorted(os.environ.items())
        if name.startswith("NUMBA_") and os.sep not in value
    }


def commit() -> str | None:
    """Return the commit of this package's checkout, with '+' if it has changes, or None."""
    folder = Path(__file__).resolve().parent
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        described = subprocess.run(
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
        return described.stdout.strip() if tracked.returncode == 0 else None
    return None


def load_average() -> list[float] | None:
    """Return the load averages over 1, 5 and 15 minutes, None where unknown."""
    with contextlib.suppress(OSError, AttributeError):
        return [round(value, 2) for value in os.getloadavg()]
    return None


def environment(command: list[str]) -> dict[str, Any]:
    """Return the environment of a run, as its file records it.

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
        "memory_bytes": host.memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "versions": versions(),
        "numba_settings": numba_settings(),
        "commit": commit(),
        "command": command,
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "load_before": load_average(),
    }
