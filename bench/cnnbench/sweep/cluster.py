"""Connect to Dask's machines: a scheduler, hosts with SSH, or workers on this machine."""

from __future__ import annotations

import contextlib
import logging
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import distributed

from cnnbench.sweep.requests import SweepError

CONNECT_SECONDS = 10.0
"""How long to wait for a scheduler, and for its first worker."""

_LOGGER = "distributed"
"""Dask's loggers begin so."""

START_SECONDS = 60.0
"""How long to wait for workers that are started here or by SSH."""


def silence() -> None:
    """Silence Dask's loggers in this process: a sweep says itself what it has lost."""
    for name in (_LOGGER, *logging.root.manager.loggerDict):
        if name.partition(".")[0] == _LOGGER:  # each has a level of its own
            logging.getLogger(name).setLevel(logging.CRITICAL)


@contextlib.contextmanager
def connected(on: str) -> Iterator[Any]:
    """Yield a Dask client with at least one worker.

    Parameters
    ----------
    on : str
        ``tcp://host:8786`` or ``tls://...``: a scheduler. ``local:2``: so many workers on this
        machine. Anything else: a file with hosts to reach by SSH, one a line, each perhaps
        followed by the path of its Python; the first one also runs the scheduler.

    Raises
    ------
    SweepError
        If there is no such scheduler, file or host, or no worker comes.
    """
    silence()
    with contextlib.ExitStack() as stack:
        if re.match(r"[a-z]+://", on):
            client = stack.enter_context(_of_scheduler(on))
            _wait(client, CONNECT_SECONDS, f"the scheduler at {on} has no workers: start one with "
                  f"dask worker {on} --nthreads 1 on each machine")  # fmt: skip
        elif local := re.fullmatch(r"local:(\d+)", on):
            cluster = stack.enter_context(_local(int(local[1])))
            client = stack.enter_context(distributed.Client(cluster))
            _wait(client, START_SECONDS, f"no worker of {on} has started", int(local[1]))
        else:
            hosts = _hosts(Path(on))
            client = stack.enter_context(_of_hosts(hosts, on))
            _wait(client, START_SECONDS, f"no host of {on} has started a worker")
        yield client


@contextlib.contextmanager
def _of_scheduler(address: str) -> Iterator[Any]:
    """Yield a client of a scheduler; Dask's own configuration has its certificates."""
    try:
        client = distributed.Client(address, timeout=CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError, TypeError) as error:
        raise SweepError(
            f"no Dask scheduler answers at {address} ({_first_line(error)}): "
            "start one with dask scheduler, or look at its address and its certificates"
        ) from None
    with client:
        yield client


@contextlib.contextmanager
def _local(workers: int) -> Iterator[Any]:
    if not workers:
        raise SweepError("expected a number of workers from 1, such as local:2; got local:0")
    with distributed.LocalCluster(
        n_workers=workers,
        threads_per_worker=1,
        memory_limit=None,
        dashboard_address=None,
        silence_logs=logging.CRITICAL,
    ) as cluster:
        yield cluster


@contextlib.contextmanager
def _of_hosts(hosts: list[tuple[str, str]], source: str) -> Iterator[Any]:
    """Start a scheduler on the first host and a worker on each, and yield a client."""
    addresses = [address for address, _ in hosts]
    pythons = [python for _, python in hosts]
    options = [_login(address) for address in addresses]
    bare = [address.rpartition("@")[2].partition(":")[0] for address in addresses]
    try:
        cluster = distributed.SSHCluster(
            [bare[0], *bare],
            connect_options=[options[0], *options],
            remote_python=[pythons[0], *pythons],
            worker_options={"nthreads": 1},
            scheduler_options={"dashboard": False},
        )
    except Exception as error:  # asyncssh has its own kinds
        raise SweepError(
            f"a host of {source} cannot be used ({_first_line(error)}): each needs SSH without a "
            "password, and a Python with cnnbench and distributed"
        ) from None
    with cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


def _login(address: str) -> dict[str, Any]:
    """Return asyncssh's options for user@host:port."""
    user, at, rest = address.rpartition("@")
    port = rest.partition(":")[2]
    return {**({"username": user} if at else {}), **({"port": int(port)} if port else {})}


def _hosts(path: Path) -> list[tuple[str, str]]:
    """Read a file of hosts: user@host:port and perhaps a Python, one host a line."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(
            f"--on: expected tcp://host:8786, local:2 or a file of hosts; {path} cannot be read "
            f"({getattr(error, 'strerror', None) or error})"
        ) from None
    hosts = []
    for number, line in enumerate(lines, start=1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        if len(words) > 2 or not re.fullmatch(r"(\S+@)?[^\s:@]+(:\d+)?", words[0]):
            raise SweepError(
                f"{path}, line {number}: expected a host such as user@host:22, perhaps followed "
                f"by the path of its Python; got {line.strip()!r}"
            )
        hosts.append((words[0], words[1] if len(words) == 2 else sys.executable))
    if not hosts:
        raise SweepError(f"{path}: expected hosts, one a line; there is none")
    return hosts


def _wait(client: Any, seconds: float, otherwise: str, workers: int = 1) -> None:
    end = time.monotonic() + seconds
    while len(addresses(client)) < workers:
        if time.monotonic() > end:
            if addresses(client):
                return
            raise SweepError(otherwise)
        time.sleep(0.1)


def addresses(client: Any) -> list[str]:
    """Return the addresses of the workers that are connected.

    Raises
    ------
    SweepError
        If the scheduler has ended.
    """
    if client.status == "running":
        with contextlib.suppress(OSError):
            return list(client.scheduler_info(n_workers=-1)["workers"])
    raise SweepError("the scheduler has ended")


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
