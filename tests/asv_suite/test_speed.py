"""What `make speed` keeps of the machine."""

import importlib.util
import json
import platform
from pathlib import Path

from pytest_benchmark.plugin import pytest_benchmark_generate_machine_info

CONFTEST = Path(__file__).parents[2] / "bench" / "speed" / "conftest.py"


def test_the_machine_is_told_without_its_name(monkeypatch, pytestconfig):
    monkeypatch.setattr(platform, "node", lambda: "a-host-of-mine")
    monkeypatch.setenv("NUMBA_NUM_THREADS", "3")
    spec = importlib.util.spec_from_file_location("settings_of_speed", CONFTEST)
    settings = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(settings)
    told = pytest_benchmark_generate_machine_info()
    assert "a-host-of-mine" in json.dumps(told)
    settings.pytest_benchmark_update_machine_info(pytestconfig, told)
    assert "a-host-of-mine" not in json.dumps(told)
    assert told["threads"] == 3
    assert {"cpu", "cores", "versions"} <= set(told)
    assert "numba" in told["versions"]
