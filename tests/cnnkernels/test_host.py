"""A processor has a name, whatever the system tells."""

import platform
import sys

import pytest

from cnnkernels import host


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Return a function that writes a file of the system that this process then finds itself on."""
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
