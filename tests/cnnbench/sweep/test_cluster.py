"""Connecting to machines: what cannot be reached or is no address is one sentence."""

import pytest

distributed = pytest.importorskip("distributed", reason="Dask is not installed")

from cnnbench.sweep import cluster  # noqa: E402
from cnnbench.sweep.requests import SweepError  # noqa: E402


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_SECONDS", 0.5)
    monkeypatch.setattr(cluster, "START_SECONDS", 20.0)


def refused(on):
    with pytest.raises(SweepError) as told, cluster.connected(str(on)):
        pass
    return str(told.value)


def test_no_scheduler_is_one_sentence():
    told = refused("tcp://127.0.0.1:1")
    assert told.startswith("no Dask scheduler answers at tcp://127.0.0.1:1 (")
    assert told.endswith(
        "start one with dask scheduler, or look at its address and its certificates"
    )
    assert "\n" not in told


def test_a_scheduler_without_workers_is_one_sentence():
    with distributed.LocalCluster(
        n_workers=0, processes=False, dashboard_address="127.0.0.1:0"
    ) as made:
        address = made.scheduler_address
        told = refused(address)
    assert (
        f"the scheduler at {address} has no workers: start one with dask worker {address}" in told
    )


def test_no_workers_here_is_one_sentence():
    assert refused("local:0") == "expected a number of workers from 1, such as local:2; got local:0"


def test_a_file_that_is_not_there_is_one_sentence(tmp_path):
    told = refused(tmp_path / "hosts.txt")
    assert told.startswith("--on: expected tcp://host:8786, local:2 or a file of hosts; ")
    assert "No such file" in told


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("# nobody\n\n", "expected hosts, one a line; there is none"),
        ("lab1\nlab 2 3\n", "line 2: expected a host such as user@host:22"),
        ("lab1:ssh\n", "line 1: expected a host such as user@host:22"),
    ],
)
def test_a_bad_file_of_hosts_is_one_sentence(tmp_path, text, told):
    path = tmp_path / "hosts.txt"
    path.write_text(text)
    assert told in refused(path)


def test_hosts_may_have_a_user_a_port_and_a_python(tmp_path):
    path = tmp_path / "hosts.txt"
    path.write_text("ada@lab1:2222 /opt/python  # the fast one\nlab2\n")
    (first, python), (second, default) = cluster._hosts(path)
    assert (first, python) == ("ada@lab1:2222", "/opt/python")
    assert second == "lab2"
    assert default.endswith("python") or "python" in default
    assert cluster._login(first) == {"username": "ada", "port": 2222}
    assert cluster._login(second) == {}


def test_a_host_that_refuses_is_one_sentence(tmp_path):
    pytest.importorskip("asyncssh", reason="asyncssh is not installed")
    path = tmp_path / "hosts.txt"
    path.write_text("127.0.0.1:1\n")
    told = refused(path)
    assert told.startswith(f"a host of {path} cannot be used (")
    assert "needs SSH without a password" in told
