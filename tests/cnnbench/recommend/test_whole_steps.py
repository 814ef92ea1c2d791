"""Whole steps are taken in turns, predicted from layers and a profile, and lose nothing."""

import functools
import math
from pathlib import Path

import pytest

from cnnbench.budget import Budget
from cnnbench.digits.options import Options
from cnnbench.recommend import networks, parts, ways, whole_steps
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    CHANNELS_LAST,
    COMPILED,
    COMPILED_PLAN,
    Candidate,
    Decision,
    Recommendation,
)
from cnnbench.workers.worker import WorkerError, WorkerUnsupportedError
from cnnkernels import plan as plans
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

RESTS = {"torch-cpu": 6.0, CHANNELS_LAST: 5.0, "numpy": 7.0}
PARTS = {
    way: {parts.CONVOLUTIONS: 99.0, parts.ACTIVATIONS: rest - 1, parts.BETWEEN: 1.0}
    for way, rest in RESTS.items()
}
STEPS = {
    "plain": 10.0,
    "autocast": 7.5,
    "compiled": 9.5,
    "channels_last": 8.0,
    "converted": 9.0,
    "numpy": 7.0,
    "naive": 9.0,
    AUTO: 5.0,
}


class Worker:
    """Answers as a worker does; the way it takes steps is told by what it was asked to start."""

    started = ()
    broken = ()

    def __init__(self, backend, threads, environment=None):
        assert threads == 1
        self.way = backend
        self.plan = None
        self.path = (environment or {}).get(plans.VARIABLE)
        Worker.started = (*Worker.started, self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, command, **given):
        return getattr(self, command)(**given)

    def import_pytorch(self):
        self.way = "imported"

    def start_model(self, model, shape, **how):
        assert (model, shape) == ("net:work", [2, 3, 6, 6])
        if self.path is not None:
            self.plan = plans.load(self.path)
        self.way = next((name for name, on in reversed(how.items()) if on), "plain")
        self.start_network()

    def watch(self):
        assert self.way == "converted"
        return {"layers": {}, "others": {parts.ACTIVATIONS: 2.0}}

    def start_network(self, **_):
        if self.way == "channels_last" and "start" in self.broken:
            raise WorkerUnsupportedError("no such layout")
        return STEPS[self.way]

    def steps(self, steps):
        assert steps == 1
        if self.way == "converted" and "steps" in self.broken:
            raise WorkerError("the worker was killed")
        if "interrupted" in self.broken:
            raise KeyboardInterrupt
        return STEPS[self.way]

    def profile(self, **_):
        layers = ("conv1", "conv2", "pool", "linear")
        halves = {name: {"forward": 0.5, "backward": 0.5} for name in layers}
        return {"step": STEPS[self.way] + 0.5, "layers": halves}


@pytest.fixture(autouse=True)
def workers(monkeypatch):
    monkeypatch.setattr(whole_steps, "Worker", Worker)
    monkeypatch.setattr(ways, "Worker", Worker)
    monkeypatch.setattr(whole_steps.timing, "rest", lambda: None)
    monkeypatch.setattr(Worker, "started", ())
    monkeypatch.setattr(Worker, "broken", ())
    return Worker


@pytest.fixture
def measured(network, silent):
    """Measure the ways of a network whose layers take so many seconds by backend."""
    return functools.partial(measure, network, silent)


def measure(network, silent, kind, seconds, choose, *, compiled=False):
    decisions = []
    for layer, name in zip(network.layers, choose, strict=True):
        candidates = {backend: Candidate(time, [time] * 12) for backend, time in seconds.items()}
        decision = Decision(layer, None, candidates, {}, channels_last=0.5)
        decision.choice = decision.choose(name, "faster", "torch-cpu")
        decisions.append(decision)
    found = Recommendation(
        network,
        kind,
        Plan({d.layer.problem: d.choice for d in decisions}, "numpy", 1),
        decisions,
        {},
        "torch-cpu" if kind == "model" else "numpy",
        parts=dict(PARTS) if kind == "model" else {},
    )
    with ways.Ways("net:work", [2, 3, 6, 6], 1) as started:
        found.floor = whole_steps.measure(
            found,
            started if kind == "model" else Options(batch_size=2),
            list(seconds),
            Budget(rounds=6),
            silent,
            Path("caches"),
            0.02,
            compiled=compiled,
        )
    return found


MODEL = {"torch-cpu": 1.0, "numpy": 2.0, "naive": 9.0}


def by_way(found):
    return {row.backend: row for row in found.steps}


def test_a_model_is_taken_in_both_layouts_by_the_best_backend_and_by_the_mix(workers, measured):
    found = measured("model", MODEL, ("torch-cpu", "numpy"))
    rows = by_way(found)
    assert list(rows) == ["torch-cpu", CHANNELS_LAST, AUTOCAST, "numpy", AUTO]
    assert [row.seconds for row in found.steps] == pytest.approx([10.0, 8.0, 7.5, 9.0, 9.0])
    assert {len(row.samples) for row in found.steps} == {12}
    plain, again, other, cast, uniform, mix = workers.started
    assert plain.plan is again.plan is other.plan is cast.plan is None
    assert {choice.backend for choice in uniform.plan.choices.values()} == {"numpy"}
    assert [choice.backend for choice in mix.plan.choices.values()] == ["torch-cpu", "numpy"]


def test_one_backend_for_all_is_no_mix(measured):
    assert list(by_way(measured("model", MODEL, ("numpy", "numpy")))) == [
        "torch-cpu", CHANNELS_LAST, AUTOCAST, "numpy"
    ]  # fmt: skip


def test_compiling_is_tried_if_asked_for(workers, measured):
    found = measured("model", MODEL, ("torch-cpu", "numpy"), compiled=True)
    assert list(by_way(found)) == [
        "torch-cpu", CHANNELS_LAST, AUTOCAST, COMPILED, "numpy", AUTO, COMPILED_PLAN
    ]  # fmt: skip
    alone, planned = (worker for worker in workers.started if worker.way == "compiled")
    assert alone.plan is None
    assert [choice.backend for choice in planned.plan.choices.values()] == ["torch-cpu", "numpy"]


def test_a_worker_with_the_same_plan_is_not_started_again(workers, network):
    with ways.Ways("net:work", [2, 3, 6, 6], 1) as started:
        plan = Plan({}, "numpy", 1)
        first = started.start("numpy", plan)
        assert started.start("numpy", Plan({}, "numpy", 1)) is first
        other = Plan({network.layers[0].problem: plans.Choice("numpy")}, "numpy", 1)
        assert started.start("numpy", other) is not first
    assert len(workers.started) == 2


def test_a_spare_worker_takes_a_plan_that_is_made_later(workers, network):
    plan = Plan({network.layers[0].problem: plans.Choice("numpy")}, "numpy", 1)
    with ways.Ways("net:work", [2, 3, 6, 6], 1) as started:
        started.prepare({"torch-cpu": None})
        assert [worker.way for worker in workers.started] == ["plain", "imported"]
        started.start(AUTO, plan)
        assert len(workers.started) == 2
        assert workers.started[-1].way == "converted"
        assert started.start("torch-cpu").seconds == STEPS["plain"]
        started.start("numpy", plan)
        assert len(workers.started) == 3


def test_each_way_is_compared_with_pytorch_and_with_its_better_layout(measured):
    rows = by_way(measured("model", MODEL, ("torch-cpu", "numpy")))
    assert (rows["numpy"].baseline, rows["numpy"].ratio) == ("torch-cpu", pytest.approx(10 / 9))
    assert rows["numpy"].verdict == "FASTER"
    better = rows["numpy"].details["better_layout"]
    assert (better["layout"], better["verdict"]) == (CHANNELS_LAST, "SLOWER")
    assert better["ratio"] == pytest.approx(8 / 9)
    assert rows[CHANNELS_LAST].details["better_layout"]["verdict"] == "SAME"


def test_a_prediction_compares_layers_and_rest_with_those_of_unchanged_pytorch(measured):
    rows = by_way(measured("model", MODEL, ("torch-cpu", "numpy")))
    usual = 3 * 1.0 + RESTS["torch-cpu"]
    expected = {
        "torch-cpu": usual,
        CHANNELS_LAST: 3 * 0.5 + RESTS[CHANNELS_LAST],
        "numpy": 3 * 2.0 + RESTS["numpy"],
        AUTO: 2 * 1.0 + 2.0 + RESTS["numpy"],
    }
    for way, seconds in expected.items():
        predicted = rows[way].details["predicted_seconds"]
        assert predicted == pytest.approx(rows["torch-cpu"].seconds * seconds / usual)
    assert "predicted_seconds" not in rows[AUTOCAST].details


def test_without_the_parts_of_a_step_nothing_is_predicted(monkeypatch, measured):
    monkeypatch.delitem(PARTS, "torch-cpu")
    rows = by_way(measured("model", MODEL, ("torch-cpu", "numpy")))
    assert not any("predicted_seconds" in row.details for row in rows.values())


def test_two_processes_of_unchanged_pytorch_give_the_floor(monkeypatch, measured):
    assert measured("model", MODEL, ("torch-cpu", "numpy")).floor == 0.0
    times = iter([10.0, 11.0] * 1000)
    monkeypatch.setattr(Worker, "steps", lambda *_, **__: next(times))
    floor = measured("model", MODEL, ("numpy", "numpy")).floor
    assert 0 <= floor <= 0.1
    assert measured("network", {"numpy": 1.0}, ("numpy", "numpy")).floor == 0.02


def test_the_mix_is_watched_to_show_where_its_time_goes(measured):
    found = measured("model", MODEL, ("torch-cpu", "numpy"))
    assert found.parts[AUTO][parts.ACTIVATIONS] == 2.0
    assert AUTO not in measured("model", MODEL, ("numpy", "numpy")).parts


def test_a_network_of_the_suites_own_has_a_rest_for_each_backend(workers, measured):
    found = measured("network", {"numpy": 1.0, "naive": 2.0}, ("numpy", "naive"))
    rows = by_way(found)
    assert list(rows) == ["numpy", "naive", AUTO]
    assert [worker.way for worker in workers.started] == ["numpy", "naive", AUTO]
    assert rows["numpy"].details["predicted_seconds"] == (7.5 - 3) + 3 * 1.0
    assert rows[AUTO].details["predicted_seconds"] == (5.5 - 3) + 2 * 1.0 + 2.0
    assert "better_layout" not in rows["numpy"].details


@pytest.mark.parametrize(
    ("broken", "way", "outcome"),
    [("start", CHANNELS_LAST, "unsupported"), ("steps", "numpy", "failed")],
)
def test_who_declines_or_dies_is_a_row_and_the_others_go_on(
    workers, broken, way, outcome, measured
):
    workers.broken = (broken,)
    rows = by_way(measured("model", MODEL, ("numpy", "numpy")))
    assert (rows[way].outcome, rows[way].seconds, rows[way].samples) == (outcome, None, [])
    assert rows["torch-cpu"].seconds == pytest.approx(10.0)
    assert all(math.isfinite(row.seconds) for row in rows.values() if row.outcome == "ok")


def test_what_was_measured_before_an_interruption_is_kept(workers, monkeypatch, measured):
    rounds = []
    turns = whole_steps.timing.run_rounds

    def interrupting(*given):
        rounds.append(given)
        if len(rounds) == 3:
            workers.broken = ("interrupted",)
        turns(*given)

    monkeypatch.setattr(whole_steps.timing, "run_rounds", interrupting)
    told = []
    compare = whole_steps.compare
    monkeypatch.setattr(
        whole_steps, "compare", lambda rows, *more: (told.append(rows), compare(rows, *more))
    )
    with pytest.raises(KeyboardInterrupt):
        measured("model", MODEL, ("numpy", "numpy"))
    assert {len(row.samples) for row in told[0]} == {4}


def test_without_pytorch_a_model_cannot_be_asked_about(monkeypatch):
    def declining(*_):
        raise WorkerUnsupportedError("torch is not installed here")

    monkeypatch.setattr(ways, "Worker", declining)
    with (
        pytest.raises(networks.ModelError, match="needs PyTorch: torch is not installed here"),
        ways.model_worker(1),
    ):
        pass
