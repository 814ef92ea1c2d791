"""What Dask's workers run: describe their machine, and measure on it.

A measurement is a process of the suite. The worker's thread starts it, sends its rows home as they
are made, and kills it once the task is no longer wanted. A lock that each machine has once keeps
two measurements apart, whatever the scheduler thinks, and whoever else uses the machine.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import distributed

from cnnbench import machine
from cnnbench.sweep.requests import Request
from cnnbench.workers.child import Child, ChildError
from cnnkernels import host

POLL_SECONDS = 0.5
"""How often a worker looks for new rows; looking reads a file's time only."""

CLOCK = "cnnbench.clock"
"""The lock's file, in the system's folder for temporary files."""

_WANTED = ("executing", "long-running")
"""States of a task on its worker while somebody waits for it."""

_SET_BY_DASK = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
"""Dask sets these to 1 in its workers."""

_TAIL = 2000
"""How many letters of what a failed command printed go home."""


def describe() -> dict[str, Any]:
    """Describe this worker's machine, without its host name."""
    return {
        "name": machine.name(),
        "fingerprint": host.fingerprint(),
        "identity": machine.identity(),
        "versions": machine.versions(),
        "commit": machine.commit(),
    }


def measure(task: dict[str, Any]) -> dict[str, Any]:
    """Run a request in its own process, and send its rows home as they are made.

    Parameters
    ----------
    task : dict
        ``id``: Dask's key of the task. ``topic``: the events to write to. ``request``: a `Request`
        as JSON.

    Returns
    -------
    dict
        ``code``: the exit code of the command, or None if the task was not wanted any more.
        ``said``: the end of what it printed. ``run``: all rows and the environment. ``plan``: the
        text of the plan that `recommend` wrote, or None.
    """
    worker = distributed.get_worker()

    def wanted() -> bool:
        state = worker.state.tasks.get(task["id"])
        running = worker.status == distributed.Status.running
        return running and state is not None and state.state in _WANTED

    def tell(**news: Any) -> None:
        worker.log_event(task["topic"], {"task": task["id"], **news})

    request = Request.from_json(task["request"])
    with tempfile.TemporaryDirectory(prefix="cnnbench-") as name, _clock(wanted, tell) as mine:
        if not mine:
            return {"code": None, "said": "", "run": None, "plan": None}
        return _run(request, Path(name), wanted, tell)


def _run(
    request: Request, folder: Path, wanted: Callable[[], bool], tell: Callable[..., None]
) -> dict[str, Any]:
    arguments = [*request.command_line(folder), "--json", str(folder / "run.json")]
    plan = folder / "plan.json"
    if request.command == "recommend":
        arguments += ["--output", str(plan)]
    variables = {name: value for name, value in os.environ.items() if name not in _SET_BY_DASK}
    file, said_file = Watched(folder / "run.json"), folder / "said.txt"
    code, step = None, ""
    with (
        Child("cnnbench.cli.in_process", variables) as child,
        ThreadPoolExecutor(max_workers=1) as thread,
    ):
        asked = {"arguments": arguments, "folder": str(folder), "said": str(said_file)}
        ended = thread.submit(child.ask, asked)
        while not ended.done():
            with contextlib.suppress(TimeoutError):
                ended.exception(POLL_SECONDS)
            if not wanted():
                child.close()
                break
            news = file.news()
            if (said := _last_line(said_file)) != step:
                news["step"] = step = said
            if news:
                tell(**news)
        try:
            code = ended.result()
        except ChildError as error:
            said = str(error)
        else:
            said = _text(said_file)[-_TAIL:]
    return {
        "code": code,
        "said": said,
        "run": file.whole(),
        "plan": _text(plan) if plan.exists() else None,
    }


@contextlib.contextmanager
def _clock(wanted: Callable[[], bool], tell: Callable[..., None]) -> Iterator[bool]:
    """Wait for this machine's clock; yield whether it was had before the task lost its use."""
    path = Path(tempfile.gettempdir()) / CLOCK
    with path.open("a") as file:
        with contextlib.suppress(OSError):  # another user's file has the right mode
            path.chmod(0o666)
        while wanted():
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                tell(step="waiting for another measurement on this machine")
                time.sleep(POLL_SECONDS)
            else:
                yield True
                return
        yield False


class Watched:
    """A run's file, read again whenever it is replaced."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: object = None
        self._rows: list[str] = []
        self._environment = ""

    def news(self) -> dict[str, Any]:
        """Return the rows that are new or have changed, and the environment if it has; or {}."""
        try:
            status = self._path.stat()
        except OSError:
            return {}
        if self._seen == (now := (status.st_mtime_ns, status.st_ino)):
            return {}
        self._seen = now
        run = self.whole()
        if run is None:
            return {}
        rows = [json.dumps(row) for row in run["rows"]]
        before = set(self._rows)
        changed = [row for row, text in zip(run["rows"], rows, strict=True) if text not in before]
        self._rows = rows
        environment = json.dumps(run["environment"])
        news: dict[str, Any] = {"rows": changed} if changed else {}
        if environment != self._environment:
            self._environment = environment
            news["environment"] = run["environment"]
        return news

    def whole(self) -> dict[str, Any] | None:
        """Return the run as JSON; None before it is there."""
        text = _text(self._path)
        if not text:
            return None
        run = json.loads(text)
        return {"rows": run["rows"], "environment": run["environment"]}


def _text(path: Path) -> str:
    with contextlib.suppress(OSError):
        return path.read_text(encoding="utf-8", errors="replace")
    return ""


def _last_line(path: Path) -> str:
    lines = _text(path).strip().splitlines()
    return lines[-1].strip() if lines else ""
