"""Properties of this machine that decide the speed of kernels; never its host name."""

from __future__ import annotations

import contextlib
import functools
import math
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path, PurePosixPath

ROOT = Path("/")
"""The folder that contains ``proc`` and ``sys``."""

_NAMES = ("model name", "Processor", "cpu model", "cpu", "uarch", "isa")
"""Keys of the processor's name in /proc/cpuinfo: x86, ARM, MIPS, POWER, and two of RISC-V."""

_MOST_CACHES = 8
"""More than a core has."""

_UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30}

_MEMBERSHIP = re.compile(r"\d+:(?P<controllers>[^:]*):(?P<group>.*)")
"""A line of /proc/self/cgroup; version 2 has no controllers."""

_MOUNT = re.compile(
    r"\S+ \S+ \S+ (?P<root>\S+) (?P<mount>\S+) .* - (?P<kind>cgroup2?) \S* (?P<options>\S+)"
)
"""A line of /proc/self/mountinfo for control groups."""


def cores() -> int:
    """Return the number of cores this process may use fully, a good number of threads.

    A quota of 1.5 cores counts as one. Two threads would be stopped a quarter of the time, and a
    stopped thread delays the other at the end of each loop.

    Numba and PyTorch ignore quotas. They start a thread per visible core, unless NUMBA_NUM_THREADS
    and OMP_NUM_THREADS are set.
    """
    visible, allowed = visible_cores(), quota()
    return visible if allowed is None else max(1, min(visible, math.floor(allowed)))


def visible_cores() -> int:
    """Return the number of cores this process may run on, regardless of quotas."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota() -> float | None:
    """Return the CPU quota of this process in cores, from its control groups; None if unlimited.

    Containers are limited this way. The quota is the lowest of the process's own group and of all
    visible groups above it, in both versions of control groups [1]_.

    References
    ----------
    .. [1] The Linux kernel, admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc.
    """
    least = min(map(_allowance, _control_groups()), default=math.inf)
    return None if math.isinf(least) else least


def _control_groups() -> Iterator[Path]:
    """Yield the folders of the control groups that may limit this process's CPU time."""
    own: dict[str, PurePosixPath] = {}
    for found in filter(None, map(_MEMBERSHIP.fullmatch, _lines("proc/self/cgroup"))):
        if not found["controllers"]:
            own["cgroup2"] = PurePosixPath(found["group"])
        elif "cpu" in found["controllers"].split(","):
            own["cgroup"] = PurePosixPath(found["group"])
    for found in filter(None, map(_MOUNT.fullmatch, _lines("proc/self/mountinfo"))):
        group = own.get(found["kind"])
        if group is None or ".." in group.parts:  # absent, or outside the mount
            continue
        if found["kind"] == "cgroup" and "cpu" not in found["options"].split(","):
            continue
        root, mount = _unescaped(found["root"]), _unescaped(found["mount"])
        # In a container the group's name may be hidden; then the mount itself is the group.
        below = group.relative_to(root).parts if group.is_relative_to(root) else ()
        top = ROOT / mount.lstrip("/")
        yield from (top.joinpath(*below[:depth]) for depth in range(len(below) + 1))


def _allowance(group: Path) -> float:
    """Return the CPU quota of a control group in cores; infinity without a limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # "max" means no limit
            most, period = map(int, " ".join((group / name).read_text() for name in names).split())
            if most > 0 and period > 0:
                return most / period
    return math.inf


def _unescaped(path: str) -> str:
    """Return a path from mountinfo with octal escapes of spaces and the like decoded."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def cpu_model() -> str:
    """Return the processor's name as reported by the system, or another identification."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in _cpu_model())


def _cpu_model() -> str:
    told = _cpuinfo()
    for key in _NAMES:
        if key in told:
            return told[key][0]
    if "CPU part" in told:  # ARM: a chip may have several kinds of cores
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


@functools.cache
def microarchitecture() -> str:
    """Return LLVM's name of the processor's microarchitecture, such as 'znver4'; '' if unknown.

    One processor name may cover several: an "AMD EPYC" may be a Zen 3 or a Zen 4.
    """
    try:
        from llvmlite import binding
    except ImportError:
        return ""
    name = str(binding.get_host_cpu_name())
    return "" if name == "generic" else name


def features() -> str:
    """Return the processor's widest vector extension as reported by the system, or ''."""
    told = _cpuinfo()
    flags = (told.get("flags") or told.get("Features") or [""])[0].split()
    known = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")
    return next((flag for flag in known if flag in flags), "")


def _cpuinfo() -> dict[str, list[str]]:
    """Return the keys of /proc/cpuinfo with their distinct values."""
    told: dict[str, dict[str, None]] = {}
    for line in _lines("proc/cpuinfo"):
        key, _, value = (part.strip() for part in line.partition(":"))
        if value:
            told.setdefault(key, {})[value] = None
    return {key: list(values) for key, values in told.items()}


def _lines(path: str) -> list[str]:
    """Return the non-empty lines of a system file; [] if it does not exist."""
    with contextlib.suppress(OSError):
        text = (ROOT / path).read_text(encoding="utf-8", errors="surrogateescape")
        return [line for line in text.split("\n") if line]
    return []


def caches() -> dict[str, int]:
    """Return the bytes of the first core's data caches by name, such as 'L1d' and 'L2'.

    Empty where the system does not tell. A machine's kernels may divide a shared cache.
    """
    found = {}
    for number in range(_MOST_CACHES):
        folder = f"sys/devices/system/cpu/cpu0/cache/index{number}"
        level, kind, size = (
            (_lines(f"{folder}/{name}") or [""])[0] for name in ("level", "type", "size")
        )
        matched = re.fullmatch(r"(\d+)([KMG]?)", size)
        if level and kind != "Instruction" and matched:
            bytes_ = int(matched[1]) * _UNITS[matched[2]]
            found[f"L{level}{'d' if kind == 'Data' else ''}"] = bytes_
    return found


def memory_bytes() -> int | None:
    """Return the installed memory, None where unknown."""
    with contextlib.suppress(OSError, ValueError, AttributeError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return None


def fingerprint() -> dict[str, str]:
    """Return the properties that make two machines alike; nearly all decide kernels' speeds.

    Caches and memory are left out where the system does not tell. Memory is in whole GiB, as
    systems keep some of it for themselves.
    """
    memory = memory_bytes()
    return {
        "processor": cpu_model(),
        "microarchitecture": microarchitecture(),
        "vectors": features(),
        "cores": str(cores()),
        "system": f"{platform.system()} {platform.machine()}",
        **({"caches": ", ".join(map(_cache_in_words, caches().items()))} if caches() else {}),
        **({} if memory is None else {"memory": f"{round(memory / 2**30)} GiB"}),
    }


def _cache_in_words(cache: tuple[str, int]) -> str:
    name, size = cache
    return f"{name} {size // 2**10} KiB"


def versions(*libraries: str) -> dict[str, str]:
    """Return the versions of the installed ones among these libraries, and Python's."""
    found = {"python": platform.python_version()}
    for library in libraries:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library)
    return found
