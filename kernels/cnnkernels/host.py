"""Which machine this is, as far as the speed of kernels depends on it; never its name."""

from __future__ import annotations

import contextlib
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path

ROOT = Path("/")
"""Below it the system tells of itself, in ``proc`` and ``sys``."""

_NAMES = ("model name", "Processor", "cpu model", "cpu", "uarch", "isa")
"""What /proc/cpuinfo calls a processor's name: on x86, ARM, MIPS, POWER, and RISC-V twice."""


def cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cpu_model() -> str:
    """Return the processor's name as the system tells it, or what else tells it from others."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in _cpu_model())


def _cpu_model() -> str:
    told = _cpuinfo()
    for key in _NAMES:
        if key in told:
            return told[key][0]
    if "CPU part" in told:  # ARM: the cores of a chip may be of several kinds
        return " ".join([platform.machine(), *told.get("CPU implementer", []), *told["CPU part"]])
    if sys.platform == "darwin":
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            named = subprocess.run(
                ["sysctl", "-n", "machdep.cpu.brand_string"],
                capture_output=True,
                text=True,
                errors="replace",
                check=True,
            ).stdout.strip()
            if named:
                return named
    return platform.processor() or platform.machine() or "unknown processor"


def features() -> str:
    """Return the widest vectors that the processor has, as the system tells them."""
    told = _cpuinfo()
    flags = (told.get("flags") or told.get("Features") or [""])[0].split()
    known = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")
    return next((flag for flag in known if flag in flags), "")


def _cpuinfo() -> dict[str, list[str]]:
    """Return what Linux tells of the processors: of each key its values, every one once."""
    told: dict[str, dict[str, None]] = {}
    for line in _lines("proc/cpuinfo"):
        key, _, value = (part.strip() for part in line.partition(":"))
        if value:
            told.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in told.items()}


def _lines(path: str) -> list[str]:
    """Return the lines of a file of the system; none if there is no such file."""
    with contextlib.suppress(OSError):
        text = (ROOT / path).read_text(encoding="utf-8", errors="surrogateescape")
        return [line for line in text.split("\n") if line]
    return []


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
