"""Which machine this is, as far as the speed of kernels depends on it; never its name."""

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
"""Below it the system tells of itself, in ``proc`` and ``sys``."""

_NAMES = ("model name", "Processor", "cpu model", "cpu", "uarch", "isa")
"""What /proc/cpuinfo calls a processor's name: on x86, ARM, MIPS, POWER, and RISC-V twice."""

_MEMBERSHIP = re.compile(r"\d+:(?P<controllers>[^:]*):(?P<group>.*)")
"""A line of /proc/self/cgroup; version 2 has no controllers."""

_MOUNT = re.compile(
    r"\S+ \S+ \S+ (?P<root>\S+) (?P<mount>\S+) .* - (?P<kind>cgroup2?) \S* (?P<options>\S+)"
)
"""A line of /proc/self/mountinfo that mounts control groups."""


def cores() -> int:
    """Return how many cores this process may use all the time: how many threads it should have.

    A quota of one and a half counts as one core. Two threads would be stopped for a quarter of the
    time, and one that is stopped keeps the other waiting at the end of a loop.

    Numba and PyTorch do not ask for this. They start threads for all visible cores, unless
    NUMBA_NUM_THREADS and OMP_NUM_THREADS say how many.
    """
    visible, allowed = visible_cores(), quota()
    return visible if allowed is None else max(1, min(visible, math.floor(allowed)))


def visible_cores() -> int:
    """Return how many cores this process may run on, whatever time a quota leaves it there."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def quota() -> float | None:
    """Return how many cores' time this process may use by its control groups; None if all of it.

    Containers are limited in this way. The limit of the process's own group counts, and those of
    all groups above it that can be seen from here, in both versions of control groups [1]_.

    References
    ----------
    .. [1] The Linux kernel, admin-guide/cgroup-v2 (cpu.max) and scheduler/sched-bwc.
    """
    least = min(map(_allowance, _control_groups()), default=math.inf)
    return None if math.isinf(least) else least


def _control_groups() -> Iterator[Path]:
    """Yield the folders of this process's control groups that may limit its time on cores."""
    own: dict[str, PurePosixPath] = {}
    for found in filter(None, map(_MEMBERSHIP.fullmatch, _lines("proc/self/cgroup"))):
        if not found["controllers"]:
            own["cgroup2"] = PurePosixPath(found["group"])
        elif "cpu" in found["controllers"].split(","):
            own["cgroup"] = PurePosixPath(found["group"])
    for found in filter(None, map(_MOUNT.fullmatch, _lines("proc/self/mountinfo"))):
        group = own.get(found["kind"])
        if group is None or ".." in group.parts:  # not there, or outside of what is mounted
            continue
        if found["kind"] == "cgroup" and "cpu" not in found["options"].split(","):
            continue
        root, mount = _unescaped(found["root"]), _unescaped(found["mount"])
        # A container may not see its group's name; then what is mounted is the group.
        below = group.relative_to(root).parts if group.is_relative_to(root) else ()
        top = ROOT / mount.lstrip("/")
        yield from (top.joinpath(*below[:depth]) for depth in range(len(below) + 1))


def _allowance(group: Path) -> float:
    """Return how many cores' time a control group may use; infinity where it has no limit."""
    for names in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        with contextlib.suppress(OSError, ValueError):  # "max" is no number, and no limit
            most, period = map(int, " ".join((group / name).read_text() for name in names).split())
            if most > 0 and period > 0:
                return most / period
    return math.inf


def _unescaped(path: str) -> str:
    """Return a path of mountinfo, which writes spaces and the like as octal numbers."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


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


@functools.cache
def microarchitecture() -> str:
    """Return LLVM's name of the processor's microarchitecture, such as 'znver4'; '' if unknown.

    Processors of one name may be of several: an "AMD EPYC" may be a Zen 3 or a Zen 4.
    """
    try:
        from llvmlite import binding
    except ImportError:
        return ""
    name = str(binding.get_host_cpu_name())
    return "" if name == "generic" else name


def features() -> str:
    """Return the widest vectors that the processor has, as the system tells them."""
    told = _cpuinfo()
    flags = (told.get("flags") or told.get("Features") or [""])[0].split()
    known = ("avx512f", "avx2", "avx", "sse2", "sve", "asimd")
    return next((flag for flag in known if flag in flags), "")


def _cpuinfo() -> dict[str, list[str]]:
    """Return the keys of /proc/cpuinfo, each with its values, every one once."""
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
        "microarchitecture": microarchitecture(),
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
