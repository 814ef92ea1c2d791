"""What a run's file says of the machine: enough to judge a time, and never who owns it."""

import json
import os
import platform
import re
import socket
import subprocess
import sys

import numpy
import pytest

from cnnbench import machine, results
from cnnbench.cli import options
from cnnkernels import host

HOST = "canary-host-7f3a"


@pytest.fixture
def environment(monkeypatch):
    """The environment, on a machine of a name that would be noticed."""
    names = os.uname()
    told = os.uname_result((names.sysname, HOST, names.release, names.version, names.machine))
    monkeypatch.setattr(os, "uname", lambda: told)
    monkeypatch.setattr(platform, "_uname_cache", None)
    monkeypatch.setattr(socket, "gethostname", lambda: HOST)
    monkeypatch.setenv("HOSTNAME", HOST)
    assert platform.node() == HOST
    return machine.environment(["cnnbench", "check"])


def test_the_environment_says_what_matters_to_a_time(environment):
    assert environment["command"] == ["cnnbench", "check"]
    assert environment["cores"] == host.cores() >= 1
    assert environment["memory_bytes"] is None or environment["memory_bytes"] > 2**20
    assert environment["system"] == f"{platform.system()} {platform.machine()}"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", environment["started"])
    assert environment["cpu"]
    assert json.loads(json.dumps(environment)) == environment


def test_the_environment_has_no_host_name_anywhere(environment):
    assert HOST not in json.dumps(environment)


def test_the_machines_name_is_its_processor_and_cores_as_a_folder(environment):
    assert environment["machine"] == machine.name()
    words = host.cpu_model(), host.microarchitecture(), str(host.cores()), "cores"
    assert environment["machine"] == results.slug(" ".join(words))
    assert environment["microarchitecture"] == host.microarchitecture()
    assert environment["machine"].endswith(f"-{host.cores()}-cores")


def test_processors_of_one_name_and_two_kinds_have_names_of_their_own(monkeypatch):
    monkeypatch.setattr(host, "cpu_model", lambda: "AMD EPYC")
    named = []
    for kind in ("znver3", "znver4", ""):
        monkeypatch.setattr(host, "microarchitecture", lambda kind=kind: kind)
        named.append(machine.name().removesuffix(f"-{host.cores()}-cores"))
    assert named == ["amd-epyc-znver3", "amd-epyc-znver4", "amd-epyc"]


def test_a_quota_is_recorded_beside_the_cores_that_are_visible(environment, monkeypatch):
    assert environment["visible_cores"] == host.visible_cores() >= environment["cores"]
    assert environment["cpu_quota"] == host.quota()
    monkeypatch.setattr(host, "visible_cores", lambda: 4)
    monkeypatch.setattr(host, "quota", lambda: 1.5)
    limited = machine.environment(["cnnbench", "check"])
    assert [limited[key] for key in ("cores", "visible_cores", "cpu_quota")] == [1, 4, 1.5]
    assert limited["machine"].endswith("-1-cores")
    assert options.thread_counts("") == [1]


@pytest.mark.parametrize("name", ["rv64imafdc" + "_zicsr" * 60, "x" * 99 + " " + "y" * 200])
def test_a_processor_with_a_long_name_is_a_folder_of_its_cores(monkeypatch, tmp_path, name):
    monkeypatch.setattr(host, "cpu_model", lambda: name)
    folder = machine.name()
    assert folder.startswith(results.slug(name)[:99])
    assert re.search(rf"[a-z0-9]-{host.cores()}-cores$", folder)
    (tmp_path / folder).mkdir()


def test_versions_are_of_what_is_installed_and_matters_to_speed():
    versions = machine.versions()
    assert versions["python"] == platform.python_version()
    assert versions["numpy"] == numpy.__version__
    assert {"cnnbench", "numba", "llvmlite", "scikit-learn"} <= set(versions)


def test_numbas_settings_are_of_the_environment_and_hold_no_paths(monkeypatch):
    for name in [name for name in os.environ if name.startswith("NUMBA_")]:
        monkeypatch.delenv(name)
    assert machine.environment([])["numba_settings"] == {}
    monkeypatch.setenv("NUMBA_OPT", "0")
    monkeypatch.setenv("NUMBA_BOUNDSCHECK", "1")
    monkeypatch.setenv("NUMBA_CACHE_DIR", os.path.join("home", "somebody"))
    told = machine.environment([])["numba_settings"]
    assert told == {"NUMBA_BOUNDSCHECK": "1", "NUMBA_OPT": "0"}


def test_a_library_that_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(machine, "_LIBRARIES", ("numpy", "no-such-library"))
    assert set(machine.versions()) == {"python", "numpy"}


def test_the_commit_is_that_of_the_checkout_or_none(monkeypatch):
    assert machine.commit() is None or re.fullmatch(r"[0-9a-f]{7,40}\+?", machine.commit())

    def absent(*_, **__):
        raise FileNotFoundError("git")

    monkeypatch.setattr(subprocess, "run", absent)
    assert machine.commit() is None


def test_all_processes_of_a_system_share_its_identity():
    told = subprocess.run(
        [sys.executable, "-c", "from cnnbench import machine; print(machine.identity())"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    assert told == machine.identity()
    assert re.fullmatch("[0-9a-f]{16}", told)


def test_an_identity_says_nothing_of_the_host():
    assert platform.node() not in machine.identity()
