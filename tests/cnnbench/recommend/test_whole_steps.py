"""Whole steps are taken in turns, predicted from layers and a profile, and lose nothing."""

import math
from pathlib import Path

import pytest

from cnnbench.budget import Budget
from cnnbench.digits.options import Options
from cnnbench.recommend import networks, whole_steps
from cnnbench.recommend.networks import Call
from cnnbench.recommend.recommendation import CHANNELS_LAST, Candidate, Decision, Recommendation
from cnnbench.workers.worker import WorkerError, WorkerUnsupportedError
from cnnkernels import plan as plans
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

CONV, POOL = "mb2ic3ih6oc4oh6kh3ph1", "mb2ic4ih6oh3kh2sh2ph0"
NETWORK = networks.of_calls(
    "net:work",
    [
        Call("conv1", CONV, dx=False, dw=True),
        Call("conv2", CONV, dx=True, dw=True),
        Call("pool", POOL, dx=True, dw=False),
    ],
)
OVERHEADS = {"native": 0.1, "kept": 0.3, "converted": 1.0}
STEPS = {
    "plain": 10.0,
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
        if environment and plans.VARIABLE in environment:
            self.plan = plans.load(environment[plans.VARIABLE])
        Worker.started = (*Worker.started, self)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def ask(self, command, **given):
        return getattr(self, command)(**given)

    def start_model(self, model, shape, **how):
        assert (model, shape) == ("net:work", [2, 3, 6, 6])
        self.way = next(iter(how), "plain")
        return self.start_network()

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

    def profile_model(self, seconds):
        assert seconds == whole_steps.PROFILE_SECONDS
        return {"step": 11.0, "layers": 4.0, "left": 2.0}

    def profile(self, **_):
        layers = ("conv1", "conv2", "pool", "linear")
        halves = {name: {"forward": 0.5, "backward": 0.5} for name in layers}
        return {"step": STEPS[self.way] + 0.5, "layers": halves}


@pytest.fixture(autouse=True)
def workers(monkeypatch):
    monkeypatch.setattr(whole_steps, "Worker", Worker)
    monkeypatch.setattr(whole_steps.timing, "rest", lambda: None)
    monkeypatch.setattr(Worker, "started", ())
    monkeypatch.setattr(Worker, "broken", ())
    return Worker


class Silent:
    def begin(self, total):
        self.left = total

    def step(self, text):
        assert text
        self.left -= 1
        assert self.left >= 0


def measured(kind, seconds, choose):
    """Measure the ways of a network whose layers take so many seconds by backend."""
    decisions = []
    for layer, name in zip(NETWORK.layers, choose, strict=True):
        candidates = {backend: Candidate(time, [time] * 12) for backend, time in seconds.items()}
        decision = Decision(layer, None, candidates, {}, channels_last=0.5)
        decision.choice = decision.choose(name, "faster", "torch-cpu")
        decisions.append(decision)
    found = Recommendation(
        NETWORK,
        kind,
        Plan({d.layer.problem: d.choice for d in decisions}, "numpy", 1),
        decisions,
        {},
        "torch-cpu" if kind == "model" else "numpy",
        OVERHEADS if kind == "model" else {},
    )
    trained = [2, 3, 6, 6] if kind == "model" else Options(batch_size=2)
    budget = Budget(rounds=6)
    whole_steps.measure(found, trained, list(seconds), budget, Silent(), Path("caches"), 0.02)
    return found


MODEL = {"torch-cpu": 1.0, "numpy": 2.0, "naive": 9.0}


def by_way(found):
    return {row.backend: row for row in found.steps}


def test_a_model_is_taken_in_both_layouts_by_the_best_backend_and_by_the_mix(workers):
    found = measured("model", MODEL, ("torch-cpu", "numpy"))
    rows = by_way(found)
    assert list(rows) == ["torch-cpu", CHANNELS_LAST, "numpy", AUTO]
    assert [row.seconds for row in found.steps] == [10.0, 8.0, 9.0, 9.0]
    assert {len(row.samples) for row in found.steps} == {12}
    plain, other, uniform, mix = workers.started
    assert plain.plan is other.plan is None
    assert {choice.backend for choice in uniform.plan.choices.values()} == {"numpy"}
    assert [choice.backend for choice in mix.plan.choices.values()] == ["torch-cpu", "numpy"]


def test_one_backend_for_all_is_no_mix():
    assert list(by_way(measured("model", MODEL, ("numpy", "numpy")))) == [
        "torch-cpu", CHANNELS_LAST, "numpy"
    ]  # fmt: skip


def test_each_way_is_compared_with_pytorch_and_with_its_better_layout():
    rows = by_way(measured("model", MODEL, ("torch-cpu", "numpy")))
    assert (rows["numpy"].baseline, rows["numpy"].ratio) == ("torch-cpu", pytest.approx(10 / 9))
    assert rows["numpy"].verdict == "FASTER"
    better = rows["numpy"].details["better_layout"]
    assert (better["layout"], better["verdict"]) == (CHANNELS_LAST, "SLOWER")
    assert better["ratio"] == pytest.approx(8 / 9)
    assert rows[CHANNELS_LAST].details["better_layout"]["verdict"] == "SAME"


def test_a_prediction_is_layers_alone_and_the_rest_that_a_profile_found_in_pytorchs_step():
    rows = by_way(measured("model", MODEL, ("torch-cpu", "numpy")))
    rest = 11.0 - 4.0 - 3 * OVERHEADS["native"]
    assert rows["torch-cpu"].details["rest_seconds"] == pytest.approx(rest)
    assert rows["torch-cpu"].details["left_seconds"] == 2.0
    expected = {
        "torch-cpu": rest + 3 * 1.0,
        CHANNELS_LAST: rest + 3 * 0.5,
        "numpy": rest + 3 * 2.0,
        AUTO: rest + 2 * (1.0 + 0.2) + 2.0,  # two calls looked up in a plan, and one converted
    }
    for way, seconds in expected.items():
        assert rows[way].details["predicted_seconds"] == pytest.approx(seconds)
        assert rows[way].details["rest_of"] == "torch-cpu"
        assert rows[way].details["predicted_seconds"] != rows[way].seconds


def test_a_network_of_the_suites_own_has_a_rest_for_each_backend(workers):
    found = measured("network", {"numpy": 1.0, "naive": 2.0}, ("numpy", "naive"))
    rows = by_way(found)
    assert list(rows) == ["numpy", "naive", AUTO]
    assert [worker.way for worker in workers.started] == ["numpy", "naive", AUTO]
    assert rows["numpy"].details["predicted_seconds"] == (7.5 - 3) + 3 * 1.0
    assert rows[AUTO].details["predicted_seconds"] == (5.5 - 3) + 2 * 1.0 + 2.0
    assert rows["naive"].details["rest_of"] == "naive"
    assert "better_layout" not in rows["numpy"].details


@pytest.mark.parametrize(
    ("broken", "way", "outcome"),
    [("start", CHANNELS_LAST, "unsupported"), ("steps", "numpy", "failed")],
)
def test_who_declines_or_dies_is_a_row_and_the_others_go_on(workers, broken, way, outcome):
    workers.broken = (broken,)
    rows = by_way(measured("model", MODEL, ("numpy", "numpy")))
    assert (rows[way].outcome, rows[way].seconds, rows[way].samples) == (outcome, None, [])
    assert rows["torch-cpu"].seconds == 10.0
    assert all(math.isfinite(row.seconds) for row in rows.values() if row.outcome == "ok")


def test_what_was_measured_before_an_interruption_is_kept(workers, monkeypatch):
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

    monkeypatch.setattr(whole_steps, "Worker", declining)
    with (
        pytest.raises(networks.ModelError, match="needs PyTorch: torch is not installed here"),
        whole_steps.model_worker(1),
    ):
        pass
