"""Which machine this is, as far as the speed of kernels depends on it; never its name."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name as the system tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("model name", "Processor", "cpu model")):
                return line.split(":", 1)[1].strip()
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            told = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"],
                capture_output=True,
                text=True,
                check=True,
            )
            return told.stdout.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def features() -> str:
    """Return the widest vectors that the processor has, as the system tells them."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith(("flags", "Features")):
                flags = set(line.split(":", 1)[1].split())
                known = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")
                return next((flag for flag in known if flag in flags), "")
    return ""


def fingerprint() -> dict[str, str]:
    """Return what tells this machine from those on which another kernel may be the fastest."""
    return {
        "processor": cpu_model(),
        "vectors": features(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of those libraries that are installed, and Python's."""
    found = {"python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found
