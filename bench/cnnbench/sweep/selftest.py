"""Test sweeps where it hurts: kill workers at random, and coordinate very many.

``python -m cnnbench.sweep.selftest kills`` measures on two workers of this machine while one of
them is killed again and again. No row that came home may be lost. A sweep gives up cases with which
several workers have died; they must be measured when it is resumed.
``python -m cnnbench.sweep.selftest costs`` lets 200 workers sleep instead of measuring, as long as
a row of ResNet-50 takes: what is more than their sleep is the cost of coordinating.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import os
import random
import resource
import signal
import tempfile
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import dask
import distributed
import typer

from cnnbench import results
from cnnbench.cases import load
from cnnbench.results import Row
from cnnbench.sweep import cluster, remote
from cnnbench.sweep.coordinator import Sweep
from cnnbench.sweep.folder import Folder
from cnnbench.sweep.requests import Request
from cnnbench.sweep.shares import key_of
from cnnkernels import host

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None)

BETWEEN_KILLS = (0.5, 15.0)
"""The least and the most seconds before the next kill: a worker that starts, too, may be killed."""


def _asked(request: Request, split: bool) -> dict[str, Any]:
    return {"request": request.as_json(), "split": split, "mixed": False, "command": ["selftest"]}


# --------------------------------------------------------------------------------------------
# kills


@app.command()
def kills(
    times: Annotated[int, typer.Option(help="Number of kills.", min=1)] = 50,
    seed: Annotated[int, typer.Option(help="Of the moments and the workers.")] = 0,
) -> None:
    """Kill random workers at random moments, and look for lost rows."""
    chance, killed, lost, rounds = random.Random(seed), 0, 0, 0
    request = Request.of("check", ["--backends", "numpy,naive"], load("digits,corner"))
    typer.echo(
        "sweep  kills  tasks  rows home before the last kill  lost  given up  never measured"
    )
    while killed < times:
        rounds += 1
        with tempfile.TemporaryDirectory() as name:
            folder = Folder.new(Path(name), request.command, f"{rounds}", _asked(request, True))
            # Dask may give up a worker that is killed while it starts: each sweep has new ones.
            with cluster.connected("local:2") as client:
                killer = _Killer(client, folder, chance, times - killed)
                killer.start()
                found = _run(client, folder)
                killer.stop()
            gone, given_up = len(killer.home - _kept(found, folder)), _missing(found)
            never = given_up
            if given_up:
                with cluster.connected("local:2") as client:
                    again = Folder.open(folder.path)
                    resumed = _run(client, again)
                gone, never = len(killer.home - _kept(resumed, again)), _missing(resumed)
        tasks = sum(share.tasks for share in found.shares)
        typer.echo(
            f"{rounds:5d}  {killer.killed:5d}  {tasks:5d}  {len(killer.home):30d}  {gone:4d}  "
            f"{given_up:8d}  {never:14d}"
        )
        killed, lost = killed + killer.killed, lost + gone + never
    typer.echo(f"{killed} kills, {lost} rows or cases lost")
    raise typer.Exit(int(lost > 0))


def _run(client: Any, folder: Folder) -> Sweep:
    found = Sweep(client, folder, remote.describe(), lambda _: None)
    found.run()
    return found


def _kept(found: Sweep, folder: Folder) -> set[tuple[Any, ...]]:
    """Return the keys of the rows in the files of a sweep."""
    files = (folder.path / f"{share.name}.json" for share in found.shares)
    return {key_of(row) for path in files for row in results.read(path).rows}


def _missing(found: Sweep) -> int:
    return sum(len(share.missing()) for share in found.shares)


class _Killer(threading.Thread):
    """Kills a random worker at random moments.

    Attributes
    ----------
    killed : int
    home : set
        Keys of the rows that were in the journal at any kill.
    """

    def __init__(self, client: Any, folder: Folder, chance: random.Random, most: int) -> None:
        super().__init__(daemon=True)
        self._client, self._folder, self._chance, self._most = client, folder, chance, most
        self._ended = threading.Event()
        self.killed = 0
        self.home: set[tuple[Any, ...]] = set()

    def run(self) -> None:
        while self.killed < self._most and not self._ended.wait(
            self._chance.uniform(*BETWEEN_KILLS)
        ):
            told = self._client.run(os.getpid, on_error="ignore")
            if not told:
                continue
            self.home |= {
                key_of(Row.from_json(row))
                for entry in self._folder.entries()
                for row in entry.get("rows", ())
                if row["problem"]  # sums are made anew
            }
            os.kill(self._chance.choice(sorted(told.values())), signal.SIGKILL)
            self.killed += 1

    def stop(self) -> None:
        self._ended.set()
        self.join()


# --------------------------------------------------------------------------------------------
# costs

_QUIET = {
    "distributed.worker.profile.enabled": False,
    "distributed.worker.memory.monitor-interval": "1h",
    "distributed.admin.system-monitor.interval": "1h",
    "distributed.admin.tick.interval": "10s",
}
"""Leaves out what each worker measures about itself: some processes here would do it 50 times."""

_PROCESSES = 4
"""In which the workers live: one process would be busy with their threads."""


@app.command()
def costs(
    workers: Annotated[int, typer.Option(min=1)] = 200,
    rows: Annotated[int, typer.Option(help="Of all workers together.", min=1)] = 20_000,
    seconds: Annotated[float, typer.Option(help="Sleep before each row.", min=0)] = 2.5,
) -> None:
    """Let workers sleep instead of measuring, and say what coordinating them costs."""
    each = rows // workers
    cases = tuple(("", f"sleeper.{number}") for number in range(each))
    request = Request("time", (f"{seconds}",), cases)
    cluster.silence()
    with (
        tempfile.TemporaryDirectory() as name,
        dask.config.set(_QUIET),
        distributed.LocalCluster(n_workers=0, dashboard_address=None) as made,
        distributed.Client(made) as client,
    ):
        for number in range(_PROCESSES):
            count = (number + 1) * workers // _PROCESSES - number * workers // _PROCESSES
            multiprocessing.get_context("spawn").Process(
                target=_serve, args=(made.scheduler_address, count), daemon=True
            ).start()
        client.wait_for_workers(workers)
        here = _sleeper("client")
        folder = Folder.new(Path(name), "time", "sleepers", _asked(request, False))
        found = Sweep(client, folder, here, lambda _: None, measure=_sleep, describe=_describe)
        before, cpu = time.monotonic(), time.process_time()
        found.run()
        took, cpu = time.monotonic() - before, time.process_time() - cpu
        home = sum(len(share.rows) for share in found.shares)
    slept = each * seconds
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    typer.echo(
        f"{workers} workers, {home} rows: {took:.1f} s for {slept:.1f} s of sleep each, "
        f"{100 * (took / slept - 1):.2f} % more; processor {cpu:.1f} s, of {workers * slept:.0f} s "
        f"of measuring {100 * cpu / (workers * slept):.2f} %; memory {memory:.0f} MiB; both with "
        "the scheduler, which is in this process"
    )
    raise typer.Exit(int(home != each * workers))


def _serve(scheduler: str, count: int) -> None:
    """Be the process of some workers, until the scheduler ends."""

    async def serve() -> None:
        workers = [distributed.Worker(scheduler, nthreads=1, memory_limit=0) for _ in range(count)]
        await asyncio.gather(*workers)
        await asyncio.gather(*(worker.finished() for worker in workers))

    cluster.silence()
    with dask.config.set(_QUIET):
        asyncio.run(serve())


def _sleeper(identity: str) -> dict[str, Any]:
    return {
        "name": "sleeper",
        "fingerprint": {"processor": "none"},
        "identity": hashlib.sha256(identity.encode()).hexdigest(),
        "versions": host.versions(),
        "commit": None,
    }


def _describe(dask_worker: Any = None) -> dict[str, Any]:
    return _sleeper(dask_worker.address)


def _sleep(task: dict[str, Any]) -> dict[str, Any]:
    """Send a row home after each sleep, as `remote.measure` does."""
    worker = distributed.get_worker()
    cases = [text for _, text in task["request"]["cases"]]
    sleep = float(task["request"]["arguments"][0])
    rows = []
    for case in cases:
        time.sleep(sleep)
        row = Row(case, case, "conv2d", "forward", "sleeper", 1, "ok")
        row.seconds, row.samples = sleep, [sleep] * 40
        rows.append(row.as_json())
        worker.log_event(task["topic"], {"task": task["id"], "rows": rows[-1:], "step": case})
    return {"code": 0, "said": "", "run": {"rows": rows, "environment": {}}, "plan": None}


if __name__ == "__main__":
    app()
