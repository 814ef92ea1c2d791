"""Settings of `make speed`: short benchmarks, and the machine without its host name."""

from __future__ import annotations

import os

import pytest

from cnnbench import machine
from cnnkernels import host


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Time each call for a fraction of a second; calls are already compiled and warm."""
    for item in items:
        item.add_marker(
            pytest.mark.benchmark(min_time=0.002, min_rounds=5, max_time=0.25, warmup=False)
        )


def pytest_benchmark_update_machine_info(
    config: pytest.Config, machine_info: dict[str, object]
) -> None:
    """Record what times depend on, without the host name."""
    del config
    machine_info.pop("node", None)
    machine_info.update(
        cpu=host.cpu_model(),
        cores=host.cores(),
        threads=int(os.environ.get("NUMBA_NUM_THREADS", host.cores())),
        versions=machine.versions(),
    )
