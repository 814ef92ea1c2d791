"""Which machine measures what: the client's side of a sweep.

Every machine has one task at a time. When a task is lost with its worker, the cases that it has not
finished are asked again: of the same machine if it returns, else of one that is alike.
"""

from __future__ import annotations

import itertools
import math
import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cnnbench.results import ResultsError, Row
from cnnbench.sweep import cluster, remote
from cnnbench.sweep.folder import Folder
from cnnbench.sweep.machines import About, Machine, alike, apart, other_versions
from cnnbench.sweep.requests import Request, SweepError
from cnnbench.sweep.shares import Piece, Share, unfinished
from cnnbench.words import counted
from cnnkernels import files

PIECES = 4
"""In a split sweep, the pieces of work for each machine: a lost one costs little."""

ATTEMPTS = 5
"""How many tasks a piece gets while none of them finishes another case."""

RETURN_SECONDS = 60.0
"""How long a machine that has left may take to return."""

LOOK_SECONDS = 1.0
"""How often to look which workers are there."""

WRITE_SECONDS, WRITE_PART = 10.0, 0.05
"""How often to write the runs, and the part of the time that this may take.

The journal has every row at once.
"""

_ON_THE_WAY_SECONDS = 0.2
"""How long rows of a worker that has left may still be on their way."""


@dataclass(eq=False)
class Task:
    """A piece that a machine measures.

    Attributes
    ----------
    id : str
        Dask's key.
    machine : Machine
    worker : str
        The address of the worker that runs it.
    share : Share
    piece : Piece
    future : distributed.Future
    environment : dict or None
        The newest that came home.
    """

    id: str
    machine: Machine
    worker: str
    share: Share
    piece: Piece
    future: Any
    environment: dict[str, Any] | None = None


class Sweep:
    """A request on the machines of a Dask cluster.

    Parameters
    ----------
    client : distributed.Client
    folder : Folder
        What it `asked` has the ``request``, and whether it is ``split`` and ``mixed``; that of an
        earlier sweep has its ``shares``, too, which this one continues.
    here : dict
        What `remote.describe` tells of this machine: others must have the same versions.
    look : callable
        Is called with the sweep whenever something may have changed.
    measure, describe : callable
        What workers run; others are for tests.
    """

    def __init__(
        self,
        client: Any,
        folder: Folder,
        here: About,
        look: Callable[[Sweep], None],
        measure: Callable[[dict[str, Any]], dict[str, Any]] = remote.measure,
        describe: Callable[[], About] = remote.describe,
    ) -> None:
        asked = folder.asked
        self.request = Request.from_json(asked["request"])
        self.machines: dict[str, Machine] = {}
        """By identity."""
        self.left_out: list[str] = []
        """Why workers that came late do not take part."""
        self.shares = self._continued(folder)
        self._split, self._mixed = bool(asked["split"]), bool(asked["mixed"])
        self._client, self._folder, self._here, self._look = client, folder, here, look
        self._measure, self._describe = measure, describe
        self._machine_of: dict[str, Machine | None] = {}  # by address; None takes no part
        self._tasks: dict[str, Task] = {}
        self._news: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        self._topic = f"cnnbench-{time.time_ns()}"
        self._numbers = itertools.count(1)
        self._looked = self._write_next = -math.inf
        self._began = time.monotonic()

    def run(self) -> None:
        """Measure until every share is finished, or no machine is left that could.

        Raises
        ------
        SweepError
            If machines differ in versions or, in a split sweep, in kind; if the scheduler ends.
        """
        self._client.subscribe_topic(self._topic, lambda event: self._news.put(event[1]))
        try:
            while True:
                self._look_for_workers()
                self._begin_tasks()
                if not self._tasks and self._over():
                    return
                self._take_news(LOOK_SECONDS / 2)
                self._take_results()
                self._look(self)
                if time.monotonic() > self._write_next:
                    self.write()
        finally:
            for task in self._tasks.values():
                task.future.cancel()
            self._take_news(0.0)
            self.write(finished=True)

    def _over(self) -> bool:
        """Return whether no machine will take what is left, if anything is."""
        now = time.monotonic()
        if not self.machines and now - self._began <= RETURN_SECONDS:
            return False
        coming = [m for m in self.machines.values() if now - m.seen <= RETURN_SECONDS]
        return not any(
            share.pieces and any(alike(machine.about, share.about) for machine in coming)
            for share in self.shares
        )

    # ----------------------------------------------------------------------------------------
    # machines

    def _look_for_workers(self) -> None:
        now = time.monotonic()
        if now - self._looked < LOOK_SECONDS:
            return
        self._looked = now
        present = set(cluster.addresses(self._client))
        for address in set(self._machine_of) - present:
            machine = self._machine_of.pop(address)
            if machine is not None:
                machine.workers.discard(address)
                if machine.task is not None and machine.task.worker == address:
                    self._lose(machine.task)
        new = sorted(present - set(self._machine_of))
        if new:
            told = self._client.run(self._describe, workers=new, on_error="return")
            for address in new:
                self._welcome(address, told.get(address))
        for machine in self.machines.values():
            if machine.workers:
                machine.seen = now
        self._divide()

    def _welcome(self, address: str, about: Any) -> None:
        """Enter a new worker, and its machine if that is new, too.

        At the beginning, one that does not fit ends the sweep; later it is left out.
        """
        if isinstance(about, OSError) or about is None:  # it has gone again
            return
        reason = self._unfit(about)
        if reason is not None and not self._tasks:
            raise SweepError(reason)
        if reason is not None:
            self.left_out.append(reason)
            self._machine_of[address] = None
            return
        machine = self.machines.setdefault(about["identity"], Machine(self._name(about), about))
        machine.workers.add(address)
        self._machine_of[address] = machine

    def _unfit(self, about: Any) -> str | None:
        """Return why a worker's machine cannot take part, or None."""
        if isinstance(about, BaseException):
            return (
                f"a worker cannot describe its machine ({type(about).__name__}: {about}): "
                "install the suite there"
            )
        different = other_versions(about, self._here)
        if different and not self._mixed:
            return (
                f"a machine ({about['name']}) has {', '.join(different)}: install the same "
                "there, leave it out, or mark its rows with --mixed"
            )
        others: list[Share | Machine] = [*self.shares, *self.machines.values()]
        first = next(iter(others), None)
        if self._split and first is not None and not alike(first.about, about):
            return (
                f"--split needs machines that are alike: {first.name} and {about['name']} "
                f"differ in {', '.join(apart(first.about, about))}"
            )
        return None

    def _name(self, about: About) -> str:
        """Return a name for a new machine: what it had before, else its own with a number."""
        for share in self.shares:
            if share.about["identity"] == about["identity"]:
                return share.name
        used = {share.name for share in self.shares}
        used |= {machine.name for machine in self.machines.values()}
        own = str(about["name"])
        names = (own if n == 1 else f"{own}-{n}" for n in itertools.count(1))
        return next(name for name in names if name not in used)

    def _divide(self) -> None:
        """Make a share for each machine that has none, or one for all in a split sweep."""
        before, names = len(self.shares), {share.name for share in self.shares}
        for machine in self.machines.values():
            if machine.name in names or (self._split and self.shares):
                continue
            share = Share(machine.name, machine.about, self.request)
            share.cut(PIECES * len(self.machines) if self._split else 1)
            different = other_versions(machine.about, self._here)
            if different:
                share.environment["mixed"] = different
            share.environment["command"] = self._folder.asked["command"]
            share.environment["machine"] = machine.name
            self.shares.append(share)
        if len(self.shares) > before:
            saved = [{"name": one.name, "about": one.about} for one in self.shares]
            self._folder.ask({**self._folder.asked, "shares": saved})

    # ----------------------------------------------------------------------------------------
    # tasks

    def _begin_tasks(self) -> None:
        """Give each idle machine a piece."""
        for machine in self.machines.values():
            if machine.task is None and machine.workers:
                share = self._share_for(machine)
                if share is not None:
                    self._begin(machine, share, share.pieces.pop(0))

    def _share_for(self, machine: Machine) -> Share | None:
        """Return a share with work for a machine: its own, or that of one that stays away."""
        open_ = [s for s in self.shares if s.pieces and alike(s.about, machine.about)]
        open_.sort(key=lambda share: share.name != machine.name)
        now = time.monotonic()
        for share in open_:
            owner = next((m for m in self.machines.values() if m.name == share.name), None)
            away = owner is None or now - owner.seen > RETURN_SECONDS
            if self._split or owner is machine or away:
                return share
        return None

    def _begin(self, machine: Machine, share: Share, piece: Piece) -> None:
        key = f"{self._topic}-{next(self._numbers)}"
        worker = min(machine.workers)
        request = self.request.only(piece.cases).as_json()
        future = self._client.submit(
            self._measure,
            {"id": key, "topic": self._topic, "request": request},
            key=key,
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        future.add_done_callback(lambda _: self._news.put({"task": ""}))  # to look at once
        share.tasks += 1
        machine.state = "starting"
        machine.task = self._tasks[key] = Task(key, machine, worker, share, piece, future)

    def _take_news(self, wait: float) -> None:
        """Enter all that has come home, after waiting for the first of it."""
        while True:
            try:
                news = self._news.get(timeout=wait) if wait else self._news.get_nowait()
            except queue.Empty:
                return
            wait = 0.0
            task = self._tasks.get(news["task"])
            if task is not None:
                self._enter(task, self._marked(task, news.get("rows", [])), news.get("environment"))
                task.machine.state = news.get("step", task.machine.state)

    def _enter(
        self, task: Task, rows: list[dict[str, Any]], environment: dict[str, Any] | None
    ) -> None:
        """Add rows of a task to its share, and write them to the journal."""
        task.environment = environment or task.environment
        if rows or environment:
            task.share.add(map(Row.from_json, rows), environment)
            self._folder.note({"share": task.share.name, "rows": rows, "environment": environment})

    def _marked(self, task: Task, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return rows that say which of several machines they are from."""
        if not self._split:
            return rows
        return [{**row, "measured_on": task.machine.name} for row in rows]

    def _take_results(self) -> None:
        for task in list(self._tasks.values()):
            if not task.future.done():
                continue
            if task.future.status == "finished":
                self._finish(task, task.future.result())
            elif task.future.status == "error":
                self._give_back(task, f"{task.future.exception()}")
            else:
                self._lose(task)

    def _lose(self, task: Task) -> None:
        """Give back the work of a task whose worker has left."""
        task.future.cancel()
        self._take_news(_ON_THE_WAY_SECONDS)
        self._give_back(task, "its worker ended each time")
        task.machine.state = "its worker has left"

    def _finish(self, task: Task, result: dict[str, Any]) -> None:
        """Enter the result of a task that has come to its end."""
        share, run = task.share, result["run"]
        if run is not None:
            rows = share.changed(self._marked(task, run["rows"]))
            self._enter(task, rows, run["environment"])
        if result["code"] in (0, 1):
            share.plan = result["plan"]
            self._note_finished(task, task.piece.cases)
            self._end(task)
        elif result["code"] is None:
            self._give_back(task, result["said"])
        else:  # a second attempt would end alike
            share.failed = result["said"]
            self._end(task)

    def _give_back(self, task: Task, reason: str) -> None:
        """Put what a task has not finished back into its share, unless it has failed too often."""
        share, piece = task.share, task.piece
        left = unfinished(piece.cases, task.environment)
        self._note_finished(task, [case for case in piece.cases if case not in left])
        self._end(task)
        if piece.cases and not left:
            return
        attempts = piece.attempts + 1 if len(left) == len(piece.cases) else 0
        if attempts < ATTEMPTS:
            share.pieces.insert(0, Piece(left, attempts))
        else:
            share.failed = f"given up after {counted(attempts, 'attempt')}: {reason}"

    def _note_finished(self, task: Task, cases: list[tuple[str, str]]) -> None:
        task.share.finished.update(cases)
        entry = {"share": task.share.name, "finished": cases, "whole": not task.piece.cases}
        self._folder.note(entry)

    def _end(self, task: Task) -> None:
        del self._tasks[task.id]
        task.machine.task, task.machine.state = None, ""

    def finished(self, share: Share) -> int:
        """Return how many cases of a share are finished, with those of running tasks."""
        running = [task for task in self._tasks.values() if task.share is share]
        return len(share.finished) + sum(
            len(task.piece.cases) - len(unfinished(task.piece.cases, task.environment))
            for task in running
        )

    # ----------------------------------------------------------------------------------------
    # files

    def _continued(self, folder: Folder) -> list[Share]:
        """Return the shares of an earlier sweep with their rows, from its journal."""
        shares = {
            saved["name"]: Share(saved["name"], saved["about"], self.request)
            for saved in folder.asked.get("shares", [])
        }
        whole = set()
        for entry in folder.entries():
            share = shares[entry["share"]]
            share.finished.update((name, text) for name, text in entry.get("finished", []))
            share.add(map(Row.from_json, entry.get("rows", [])), entry.get("environment"))
            share.tasks = 2  # its sets may be from several tasks
            if entry.get("whole"):
                whole.add(share.name)
        for share in shares.values():
            if share.name not in whole:
                share.cut(PIECES if folder.asked["split"] else 1)
        return list(shares.values())

    def write(self, finished: bool = False) -> None:
        """Write the runs; rows that cannot be written stay in the journal, or in memory."""
        begun = time.monotonic()
        for share in self.shares:
            path = self._folder.path / f"{share.name}.json"
            try:
                share.run(path).write(finished)
                if share.plan is not None:
                    files.write(path.with_name(f"{share.name}-plan.json"), share.plan)
            except (ResultsError, files.WriteError) as error:
                self._folder.trouble = str(error)
        took = time.monotonic() - begun
        self._write_next = begun + max(WRITE_SECONDS, took / WRITE_PART)
