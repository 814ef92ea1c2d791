"""Which machine measures what, and what is kept when workers, machines or the scheduler end.

The cluster is one without Dask, whose workers do what a test says.
"""

import itertools
import json

import pytest

from cnnbench import results
from cnnbench.results import Row
from cnnbench.sweep import coordinator
from cnnbench.sweep.folder import Folder
from cnnbench.sweep.requests import Request, SweepError
from cnnbench.sweep.screen import Screen, sheet

CASES = tuple(("set", f'mb1ic1ih4oc1kh3n"set.{number:02d}"') for number in range(1, 5))
REQUEST = Request("time", ("--backends", "numpy"), CASES)


def about(identity, name="a-machine", **changes):
    """Return what a worker tells of its machine."""
    return {
        "name": name,
        "identity": identity,
        "fingerprint": {"processor": name, "cores": "2"},
        "versions": {"numpy": "2.4.6"},
        "commit": "abc",
        **changes,
    }


def row_of(case, backend="numpy", seconds=1.0, **changes):
    """Return a row of a case, as JSON."""
    made = Row(case[1].split('"')[1], case[1], "conv2d", "forward", backend, 1, "ok")
    made.seconds, made.samples = seconds, [seconds] * 6
    for key, value in changes.items():
        setattr(made, key, value)
    return made.as_json()


class Future:
    """A task on a worker."""

    def __init__(self, cluster, task, address):
        self.cluster, self.task, self.address = cluster, task, address
        self.status, self.answer, self.cancelled = "pending", None, False

    @property
    def cases(self):
        return [tuple(case) for case in self.task["request"]["cases"]]

    def done(self):
        return self.status != "pending"

    def result(self):
        return self.answer

    def exception(self):
        return self.answer

    def cancel(self):
        self.cancelled = True
        self.status = "cancelled"

    def add_done_callback(self, function):
        pass

    def tell(self, **news):
        """Send news home, as plain JSON."""
        self.cluster.handler((0.0, json.loads(json.dumps({"task": self.task["id"], **news}))))

    def finish(self, rows=None, code=0, said="", plan=None, environment=None):
        rows = [row_of(case) for case in self.cases] if rows is None else rows
        self.answer = {
            "code": code,
            "said": said,
            "run": {"rows": rows, "environment": environment or {"cpu": "a"}},
            "plan": plan,
        }
        self.status = "finished"

    def die(self):
        """Let the worker leave."""
        del self.cluster.workers[self.address]


class Cluster:
    """A Dask client whose workers do what `behave` says, called with each new task.

    Parameters
    ----------
    workers : dict
        What each tells of its machine, by address.
    """

    def __init__(self, workers, behave=Future.finish):
        self.workers, self.behave, self.asked = dict(workers), behave, []
        self.status = "running"

    def scheduler_info(self, n_workers):
        assert n_workers == -1
        return {"workers": dict.fromkeys(self.workers)}

    def run(self, _, workers, on_error):
        assert on_error == "return"
        return {address: self.workers.get(address, OSError()) for address in workers}

    def subscribe_topic(self, _, handler):
        self.handler = handler

    def submit(self, _, task, *, workers, **options):
        assert options["allow_other_workers"] is False
        assert options["retries"] == 0
        (address,) = workers
        future = Future(self, json.loads(json.dumps(task)), address)
        self.asked.append(future)
        self.behave(future)
        return future


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    for name in ("LOOK_SECONDS", "_ON_THE_WAY_SECONDS"):
        monkeypatch.setattr(coordinator, name, 1e-3)
    monkeypatch.setattr(coordinator, "RETURN_SECONDS", 0.05)


@pytest.fixture
def swept(tmp_path):
    """Return a function that runs a sweep to its end."""
    numbers = itertools.count(1)

    def swept(cluster, request=REQUEST, folder=None, split=False, mixed=False, look=None):
        if folder is None:
            asked = {
                "request": request.as_json(),
                "split": split,
                "mixed": mixed,
                "command": ["cnnbench", "sweep"],
            }
            folder = Folder.new(tmp_path, request.command, f"s{next(numbers)}", asked)
        found = coordinator.Sweep(cluster, folder, about("here"), look or (lambda _: None))
        found.folder = folder
        found.run()
        return found

    return swept


def cases_of(run):
    return [row.problem for row in run.rows if row.problem]


def all_of(cases):
    return [descriptor for _, descriptor in cases]


def test_every_machine_measures_everything(swept):
    found = swept(Cluster({"a:1": about("a"), "b:1": about("b"), "c:1": about("c", "other")}))
    assert [share.name for share in found.shares] == ["a-machine", "a-machine-2", "other"]
    for share in found.shares:
        run = results.read(found.folder.path / f"{share.name}.json")
        assert cases_of(run) == all_of(CASES)
        assert run.environment["machine"] == share.name
        assert not share.unfinished


def test_two_workers_of_a_machine_take_turns(swept):
    busy = []

    def behave(future):
        assert not busy or busy[-1].done()
        busy.append(future)
        future.finish()

    found = swept(Cluster({"a:1": about("a"), "a:2": about("a")}, behave))
    assert len(found.shares) == len(found.machines) == 1
    assert cases_of(found.shares[0].run(None)) == all_of(CASES)


def test_alike_machines_share_the_cases_of_a_split_sweep(swept):
    cluster = Cluster({"a:1": about("a"), "b:1": about("b")})
    found = swept(cluster, split=True)
    (share,) = found.shares
    assert sorted(cases_of(share.run(None))) == sorted(all_of(CASES))
    assert {future.address for future in cluster.asked} == {"a:1", "b:1"}
    assert sorted(case for future in cluster.asked for case in future.cases) == sorted(CASES)
    assert {row.details["measured_on"] for row in share.rows} == {"a-machine", "a-machine-2"}


def test_machines_that_differ_cannot_share(swept):
    cluster = Cluster({"a:1": about("a"), "c:1": about("c", "other")})
    with pytest.raises(SweepError, match=r"alike: a-machine and other differ in processor"):
        swept(cluster, split=True)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"versions": {"numpy": "2.3.0"}}, r"has numpy 2\.3\.0 \(here 2\.4\.6\): install"),
        ({"versions": {}}, r"has numpy missing \(here 2\.4\.6\)"),
        ({"commit": "def"}, r"has commit def \(here abc\)"),
    ],
)
def test_other_versions_are_refused_unless_the_sweep_is_mixed(swept, changes, told):
    cluster = Cluster({"a:1": about("a", **changes)})
    with pytest.raises(SweepError, match=told):
        swept(cluster)
    (share,) = swept(cluster, mixed=True).shares
    assert share.environment["mixed"]


def test_a_worker_without_the_suite_is_one_sentence(swept):
    cluster = Cluster({"a:1": ModuleNotFoundError("No module named 'cnnbench'")})
    with pytest.raises(SweepError, match=r"No module named 'cnnbench'\): install the suite there"):
        swept(cluster)


def test_a_machine_that_does_not_fit_and_comes_late_is_left_out(swept):
    cluster = Cluster({"a:1": about("a")})

    def behave(future):
        if "b:1" in cluster.workers:
            future.finish()
        else:
            cluster.workers["b:1"] = about("b", commit="def")
            pending.append(future)

    pending = []
    cluster.behave = behave

    def look(sweep):
        if sweep.left_out and pending:
            pending.pop().finish()

    found = swept(cluster, look=look)
    assert len(found.left_out) == 1
    assert [share.name for share in found.shares] == ["a-machine"]


def test_unfinished_cases_of_a_dead_worker_are_measured_by_another_one_of_its_machine(swept):
    def behave(future):
        if len(cluster.asked) > 1:
            return future.finish()
        rows = [row_of(case, seconds=7.0) for case in CASES[:3]]
        future.tell(rows=rows, environment={"unfinished": {"1": all_of(CASES[2:])}})
        cluster.workers["a:2"] = about("a")
        return future.die()

    cluster = Cluster({"a:1": about("a")}, behave)
    found = swept(cluster)
    first, second = cluster.asked
    assert first.cancelled
    assert second.cases == list(CASES[2:])
    seconds = {row.problem: row.seconds for row in found.shares[0].rows}
    assert list(seconds.values()) == [7.0, 7.0, 1.0, 1.0]
    assert not found.shares[0].unfinished


def test_the_first_machine_may_come_late(swept):
    cluster = Cluster({})

    def look(_):
        cluster.workers["a:1"] = about("a")

    found = swept(cluster, look=look)
    assert not found.shares[0].unfinished


def test_a_machine_that_stays_away_is_replaced_by_one_that_is_alike(swept):
    def behave(future):
        if future.address == "a:1":
            future.tell(
                rows=[row_of(CASES[0])], environment={"unfinished": {"1": all_of(CASES[1:])}}
            )
            return future.die()
        return future.finish()

    cluster = Cluster({"a:1": about("a"), "b:1": about("b")}, behave)
    found = swept(cluster)
    assert [future.address for future in cluster.asked] == ["a:1", "b:1", "b:1"]
    assert not any(share.unfinished for share in found.shares)


def test_what_nobody_can_measure_is_named_and_measured_later(swept):
    def behave(future):
        future.tell(rows=[row_of(CASES[0])], environment={"unfinished": {"1": all_of(CASES[1:])}})
        future.die()

    found = swept(Cluster({"a:1": about("a")}, behave))
    (share,) = found.shares
    assert share.unfinished
    assert share.missing() == list(CASES[1:])
    again = swept(Cluster({"z:9": about("a")}), folder=Folder.open(found.folder.path))
    (resumed,) = again.shares
    assert resumed.name == share.name
    assert cases_of(resumed.run(None)) == all_of(CASES)
    assert not resumed.unfinished


def test_a_finished_sweep_measures_nothing_again(swept):
    found = swept(Cluster({"a:1": about("a")}))
    cluster = Cluster({"a:1": about("a")})
    swept(cluster, folder=Folder.open(found.folder.path))
    assert cluster.asked == []


def test_a_piece_whose_worker_always_dies_is_given_up(swept):
    def behave(future):
        future.die()
        cluster.workers[f"a:{len(cluster.asked) + 1}"] = about("a")

    cluster = Cluster({"a:1": about("a")}, behave)
    (share,) = swept(cluster).shares
    assert len(cluster.asked) == coordinator.ATTEMPTS
    assert share.failed == "given up after 5 attempts: its worker ended each time"


def test_a_command_that_refuses_its_options_is_not_asked_again(swept):
    cluster = Cluster({"a:1": about("a")}, lambda f: f.finish([], 2, "no backend 'x'"))
    (share,) = swept(cluster).shares
    assert len(cluster.asked) == 1
    assert share.failed == "no backend 'x'"
    assert share.unfinished


def test_a_recommendation_is_one_piece_with_its_plan(swept):
    request = Request("recommend", ("digits",))
    cluster = Cluster({"a:1": about("a")}, lambda f: f.finish([row_of(CASES[0])], plan="{}"))
    found = swept(cluster, request)
    assert cluster.asked[0].cases == []
    assert (found.folder.path / "a-machine-plan.json").read_text() == "{}"
    assert not found.shares[0].unfinished
    again = Cluster({"a:1": about("a")})
    swept(again, folder=Folder.open(found.folder.path))
    assert again.asked == []


def test_rows_are_kept_when_the_scheduler_ends(swept, tmp_path):
    def behave(future):
        future.tell(rows=[row_of(CASES[0])], environment={"cpu": "a"})
        cluster.status = "closed"

    cluster = Cluster({"a:1": about("a")}, behave)
    with pytest.raises(SweepError, match="the scheduler has ended"):
        swept(cluster)
    assert cluster.asked[0].cancelled
    run = results.read(next(tmp_path.glob("*/a-machine.json")))
    assert cases_of(run) == [CASES[0][1]]


def test_rows_are_kept_at_ctrl_c(swept, tmp_path):
    def look(_):
        raise KeyboardInterrupt

    def behave(future):
        future.tell(rows=[row_of(CASES[0])])

    with pytest.raises(KeyboardInterrupt):
        swept(Cluster({"a:1": about("a")}, behave), look=look)
    journal = next(tmp_path.glob("*/rows.jsonl")).read_text()
    entries = [json.loads(line) for line in journal.splitlines()]
    assert [row["problem"] for entry in entries for row in entry.get("rows", ())] == [CASES[0][1]]


def test_a_full_disk_keeps_rows_in_memory_and_rescues_them(swept, monkeypatch):
    full = OSError(28, "No space left on device")

    def write(*_, **__):
        raise full

    monkeypatch.setattr(Folder, "_append", write)
    found = swept(Cluster({"a:1": about("a")}))
    assert "No space left on device" in found.folder.trouble
    rescued = found.folder.rescue().read_text().splitlines()
    rows = [row for line in rescued for row in json.loads(line).get("rows", ())]
    assert [row["problem"] for row in rows] == all_of(CASES)


def test_a_set_that_several_tasks_measured_is_summed_anew(swept):
    def behave(future):
        rows = [
            row_of(case, backend, seconds, baseline="slow", layers=2)
            for case in future.cases
            for backend, seconds in (("numpy", 1.0), ("slow", 3.0))
        ]
        partial = {**row_of(future.cases[0], seconds=99.0), "case": "set (sum)", "problem": ""}
        future.finish([*rows, partial], environment={"aa_floor": {"1": 0.02}})

    found = swept(Cluster({"a:1": about("a"), "b:1": about("b")}, behave), split=True)
    run = results.read(found.folder.path / "a-machine.json")
    sums = {row.backend: row for row in run.rows if not row.problem}
    assert sums["numpy"].seconds == pytest.approx(8.0)
    assert sums["numpy"].ratio == pytest.approx(3.0)
    assert run.environment["aa_floor"] == {"1": 0.02}


def test_the_largest_floor_of_several_tasks_counts(swept):
    floors = iter((0.01, 0.05, 0.02, None))
    cluster = Cluster(
        {"a:1": about("a")}, lambda f: f.finish(environment={"aa_floor": {"1": next(floors)}})
    )
    found = swept(cluster, split=True)
    assert found.shares[0].environment["aa_floor"] == {"1": 0.05}


def test_a_log_has_a_line_for_each_case_of_a_machine(swept, capsys):
    def behave(future):
        unfinished = {"unfinished": {"1": all_of(CASES[1:])}}
        future.tell(rows=[row_of(CASES[0])], environment=unfinished, step="timing")
        pending.append(future)

    def look(sweep):
        screen(sweep)
        if sweep.finished(sweep.shares[0]) == 1:
            pending.pop().finish()

    pending, screen = [], Screen()
    found = swept(Cluster({"a:1": about("a")}, behave), look=look)
    said = capsys.readouterr().err.splitlines()
    assert said == ["a-machine: 1 of 4 cases; timing", "a-machine: 4 of 4 cases; idle"]
    assert sheet(found).rows == (("a-machine", "4 of 4 cases", "4", "0"),)
    assert sheet(found).notes == ()


def test_what_is_missing_is_named_by_its_layers(swept):
    def behave(future):
        future.tell(rows=[row_of(CASES[0])], environment={"unfinished": {"1": all_of(CASES[1:])}})
        future.die()

    assert sheet(swept(Cluster({"a:1": about("a")}, behave))).notes == (
        "a-machine lacks set.02, set.03, set.04",
    )


def test_a_request_is_plain_json():
    plain = json.loads(json.dumps(REQUEST.as_json()))
    assert Request.from_json(plain) == REQUEST
