"""The processor's name on various systems; the number of cores under a CPU quota."""

import os
import platform
import sys

import pytest

from cnnkernels import host


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes a file of a fake system, which `host` then reads."""
    monkeypatch.setattr(host, "ROOT", tmp_path)

    def write(path, content):
        file = tmp_path / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    return write


# --------------------------------------------------------------------------------------------
# the processor

X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 79
model name\t: Intel(R) Xeon(R) CPU           E5-2680 v4 @ 2.40GHz
flags\t\t: fpu sse sse2 avx avx2
vmx flags\t: vnmi avx512f
"""
ARM = """processor\t: 0
BogoMIPS\t: 48.00
Features\t: fp asimd evtstrm
CPU implementer\t: 0x41
CPU architecture: 8
CPU part\t: 0xd05
CPU revision\t: 0

processor\t: 1
CPU implementer\t: 0x41
CPU part\t: 0xd0a
"""
S390 = """vendor_id       : IBM/S390
# processors    : 2
features\t: esan3 zarch
processor 0: version = 00,  identification = 1B2A3F,  machine = 3906
"""


@pytest.mark.parametrize(
    ("cpuinfo", "name"),
    [
        (X86, "Intel(R) Xeon(R) CPU           E5-2680 v4 @ 2.40GHz"),
        (b"model name : caf\xe9 9000\n", "caf\ufffd 9000"),
        ("model name : a\x1b[31m\tb\x85c\n", "a\ufffd[31m\ufffdb\ufffdc"),
        ("model name\n", "fallback"),
        ("model name :\nmodel name : \nprocessor : 0\nmodel name : Second 2\n", "Second 2"),
        ("model name : A: B\n", "A: B"),
        ("no colon\n:\n: x\n\nmodel name : A", "A"),
        (
            "Processor\t: ARMv7 Processor rev 4 (v7l)\nprocessor\t: 0\n",
            "ARMv7 Processor rev 4 (v7l)",
        ),
        ("system type : Octeon\ncpu model\t\t: Cavium Octeon V0.1\n", "Cavium Octeon V0.1"),
        ("processor : 0\ncpu\t\t: POWER9, altivec supported\n", "POWER9, altivec supported"),
        ("hart : 1\nisa : rv64imafdc\nuarch : sifive,u74-mc\n", "sifive,u74-mc"),
        ("hart : 1\nisa : rv64imafdc\nmmu : sv39\n", "rv64imafdc"),
        (ARM, "machine 0x41 0xd05 0xd0a"),
        ("CPU part : 0xd0c\n", "machine 0xd0c"),
        (S390, "fallback"),
        ("", "fallback"),
        (None, "fallback"),
    ],
)
def test_a_processor_has_a_name_whatever_the_system_tells(system, monkeypatch, cpuinfo, name):
    monkeypatch.setattr(platform, "processor", lambda: "fallback")
    monkeypatch.setattr(platform, "machine", lambda: "machine")
    if cpuinfo is not None:
        system("/proc/cpuinfo", cpuinfo)
    assert host.cpu_model() == name
    assert host.fingerprint()["processor"] == name


@pytest.mark.usefixtures("system")
@pytest.mark.parametrize(
    ("told", "name"),
    [
        (b"Apple M2\n", "Apple M2"),
        (b"Apple \xff\n", "Apple \ufffd"),
        (b"", "arm"),
        (None, "arm"),
        (1, "arm"),
    ],
)
def test_a_mac_is_asked_and_need_not_answer(tmp_path, monkeypatch, told, name):
    answer = tmp_path / "answer"
    answer.write_bytes(told if isinstance(told, bytes) else b"")
    code = told if isinstance(told, int) else 0
    if told is not None:
        (tmp_path / "sysctl").write_text(f"#!/bin/sh\ncat {answer}; exit {code}\n")
        (tmp_path / "sysctl").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin")
    monkeypatch.setattr(sys, "platform", "darwin")
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert host.cpu_model() == name


@pytest.mark.parametrize(
    ("cpuinfo", "vectors"),
    [
        (X86, "avx2"),
        (ARM, "asimd"),
        ("flags\nFeatures\n", ""),
        (b"flags : \xff avx\n", "avx"),
        ("", ""),
        (None, ""),
    ],
)
def test_vectors_are_those_that_are_told_if_any(system, cpuinfo, vectors):
    if cpuinfo is not None:
        system("/proc/cpuinfo", cpuinfo)
    assert host.features() == vectors


# --------------------------------------------------------------------------------------------
# cores

V2 = "31 23 0:28 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "32 31 0:29 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "33 31 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
)


@pytest.fixture
def eight_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


def limit(quota, period=100000, version=2):
    """Return the files of a control group with a limit, by name."""
    if version == 2:
        return {"cpu.max": f"{quota} {period}\n"}
    return {"cpu.cfs_quota_us": f"{quota}\n", "cpu.cfs_period_us": f"{period}\n"}


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("quota", "allowed", "cores"),
    [
        ("max", None, 8),
        (-1, None, 8),
        (100000, 1.0, 1),
        (150000, 1.5, 1),
        (20000, 0.2, 1),
        (300000, 3.0, 3),
        (399999, 3.99999, 3),
        (2000000, 20.0, 8),
        (0, None, 8),
        ("", None, 8),
        ("word", None, 8),
    ],
)
@pytest.mark.parametrize("version", [1, 2])
def test_a_quota_leaves_the_whole_cores_of_it_and_one_at_the_least(
    system, quota, allowed, cores, version
):
    mount = "/sys/fs/cgroup" if version == 2 else "/sys/fs/cgroup/cpu,cpuacct"
    system("/proc/self/mountinfo", V2 if version == 2 else V1)
    line = "0::/mine\n" if version == 2 else "9:memory:/other\n4:cpu,cpuacct:/mine\n0::/\n"
    system("/proc/self/cgroup", line)
    for name, content in limit(quota, version=version).items():
        system(f"{mount}/mine/{name}", content)
    system(f"{mount}/other/cpu.max", "100 100000")
    assert (host.quota(), host.cores(), host.visible_cores()) == (allowed, cores, 8)
    assert host.fingerprint()["cores"] == str(cores)


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize("where", ["", "/a", "/a/b", "/a/b/c"])
def test_the_least_of_all_groups_above_counts(system, where):
    system("/proc/self/mountinfo", V2)
    system("/proc/self/cgroup", "0::/a/b/c\n")
    for group in ("", "/a", "/a/b", "/a/b/c"):
        system(f"/sys/fs/cgroup{group}/cpu.max", f"{2 if group == where else 5}00000 100000")
    system("/sys/fs/cgroup/a/b/c/d/cpu.max", "100000 100000")
    system("/sys/fs/cgroup/a/beside/cpu.max", "100000 100000")
    assert host.cores() == 2


@pytest.mark.usefixtures("eight_cores")
@pytest.mark.parametrize(
    ("mount", "group", "cores"),
    [
        ("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/", 3),
        ("1 0 0:1 /docker/4f /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/docker/4f", 3),
        ("1 0 0:1 /docker/4f /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/docker/4f/in", 2),
        ("1 0 0:1 /docker/4f /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/kubepods/x", 3),
        ("1 0 0:1 /../.. /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/", 3),
        ("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/../beside", 8),
        ("1 0 0:1 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw", "0::/in (deleted)", 3),
        (r"1 0 0:1 / /sys/fs/c\040group rw - cgroup2 cgroup2 rw", "0::/", 4),
        ("1 0 0:1 / /sys/fs/cgroup rw - tmpfs cgroup2 rw", "0::/", 8),
        ("1 0 0:1", "0::/", 8),
        ("", "0::/", 8),
        ("nonsense\n - \n\n - cgroup2", "nonsense", 8),
        (None, None, 8),
    ],
)
def test_groups_are_found_where_they_are_mounted(system, mount, group, cores):
    system("/sys/fs/cgroup/cpu.max", "300000 100000")
    system("/sys/fs/cgroup/in/cpu.max", "200000 100000")
    system("/sys/fs/c group/cpu.max", "400000 100000")
    if mount is not None:
        system("/proc/self/mountinfo", mount)
        system("/proc/self/cgroup", group)
    assert host.cores() == cores


def test_a_quota_does_not_add_cores_and_affinity_counts(system, monkeypatch):
    system("/proc/self/mountinfo", V2)
    system("/proc/self/cgroup", "0::/")
    system("/sys/fs/cgroup/cpu.max", "400000 100000")
    for visible in ({5}, {1, 2, 3}, set(range(64))):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, v=visible: v, raising=False)
        assert (host.visible_cores(), host.cores()) == (len(visible), min(len(visible), 4))
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert (host.visible_cores(), host.cores()) == (6, 4)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="cores are not chosen here")
def test_a_process_on_one_core_has_one(python):
    code = (
        "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from cnnkernels import host; print(host.visible_cores(), host.cores())"
    )
    assert python(code) == "1 1\n"


def cache(root, index, level, kind, size):
    folder = root / f"sys/devices/system/cpu/cpu0/cache/index{index}"
    folder.mkdir(parents=True)
    for name, text in (("level", level), ("type", kind), ("size", size)):
        (folder / name).write_text(f"{text}\n")


def test_data_caches_are_part_of_the_fingerprint(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "ROOT", tmp_path)
    assert host.caches() == {}
    assert "caches" not in host.fingerprint()
    cache(tmp_path, 0, 1, "Data", "32K")
    cache(tmp_path, 1, 1, "Instruction", "64K")
    cache(tmp_path, 2, 2, "Unified", "1024K")
    cache(tmp_path, 3, 3, "Unified", "32M")
    assert host.caches() == {"L1d": 2**15, "L2": 2**20, "L3": 2**25}
    assert host.fingerprint()["caches"] == "L1d 32 KiB, L2 1024 KiB, L3 32768 KiB"


def test_memory_is_in_whole_gib_and_left_out_where_unknown(monkeypatch):
    monkeypatch.setattr(host, "memory_bytes", lambda: 25276510208)
    assert host.fingerprint()["memory"] == "24 GiB"
    monkeypatch.setattr(host, "memory_bytes", lambda: None)
    assert "memory" not in host.fingerprint()
