"""Layers are timed inside steps, by backends that are worth it, and only if they are right."""

import numpy as np
import pytest

from cnnbench.budget import Budget
from cnnbench.recommend import in_steps, networks
from cnnbench.recommend.networks import Call
from cnnbench.recommend.recommendation import CHANNELS_LAST
from cnnbench.recommend.ways import Taker
from cnnbench.results import Run
from cnnbench.workers.worker import WorkerError

CONV, POOL = "mb2ic3ih6oc4oh6kh3ph1", "mb2ic4ih6oh3kh2sh2ph0"
NETWORK = networks.of_calls(
    "net:work",
    [
        Call("conv1", CONV, dx=False, dw=True),
        Call("conv2", CONV, dx=True, dw=True),
        Call("pool", POOL, dx=True, dw=False),
    ],
)
PACES = {"torch-cpu": 1.0, "torch-cpu-nhwc": 1.5, "numba-simd": 0.5, "numpy": 3.0, "naive": 900.0}
LAYERS = {
    "torch-cpu": 4.0, "torch-cpu-nhwc": 3.0, "numba-simd": 2.0, "numpy": 9.0, "naive": 1e4
}  # fmt: skip


class Pool:
    """Workers that give the findings of checks, rough speeds, and what they cannot compute."""

    def __init__(self):
        self.backends = self.present = list(PACES)
        self.absent, self.checked, self.wrong = {}, [], set()
        self.running, self.threads = set(), 1

    def about(self, _):
        return {"deterministic": True}

    def close(self):
        self.present = []

    def ask(self, backend, command, **given):
        assert backend not in self.running, "a worker was asked twice at once"
        self.running.add(backend)
        try:
            return getattr(self, command)(backend, **given)
        finally:
            self.running.remove(backend)

    def pace(self, backend, pooling):
        assert not pooling
        return PACES[backend]

    def unsupported(self, backend, descriptors):
        return ["no pools" if "kh2" in d and backend == "numba-simd" else None for d in descriptors]

    def threading(self, _):
        return {}

    def check(self, backend, descriptor, **_):
        self.checked.append((backend, descriptor))
        wrong = (backend, descriptor) in self.wrong
        outcome, reason = ("wrong", "y[0] is 1, not 2") if wrong else ("ok", "")
        return {"outcome": outcome, "reason": reason}


class Ways:
    """Ways to train; a layer's time is known, and the rest of a step takes 5 s."""

    threads = 1

    def __init__(self):
        self.started, self.plans, self.watched, self.broken = [], {}, [], set()

    def prepare(self, plans):
        self.plans = plans

    def start(self, way, plan=None, **how):
        backend = "torch-cpu-nhwc" if way == CHANNELS_LAST else way
        self.started.append(backend)
        assert plan is self.plans[way]
        assert how == ({"channels_last": True} if way == CHANNELS_LAST else {})
        if backend in self.broken:
            raise WorkerError("out of memory")

        def watch(whole):
            self.watched.append((backend, whole))
            half = LAYERS[backend] / 2
            step = 3 * LAYERS[backend] + 5.0 if whole else None
            return {"step": step, "layers": {CONV_: [half, half], POOL_: [half, half]}, "left": 0.5}

        return Taker(3 * LAYERS[backend] + 5.0, float, watch)


CONV_, POOL_ = (str(layer.problem) for layer in NETWORK.layers)


class Silent:
    def begin(self, total):
        self.left = total

    def step(self, text):
        assert text
        self.left -= 1
        assert self.left >= 0


@pytest.fixture
def timed(monkeypatch):
    monkeypatch.setattr(in_steps, "measure_floor", lambda *_: 0.02)
    monkeypatch.setattr(in_steps.timing, "rest", lambda: None)

    def timed(*, everything=False, wrong=(), broken=()):
        timed.run, timed.pool, timed.ways = Run({}), Pool(), Ways()
        timed.pool.wrong, timed.ways.broken = set(wrong), set(broken)
        return in_steps.time(
            timed.run, NETWORK, timed.pool, list(PACES), "torch-cpu", Budget(rounds=6), Silent(),
            timed.ways, everything=everything,
        )  # fmt: skip

    return timed


def rows_of(run, backend):
    return [row for row in run.rows if row.backend == backend]


def test_rows_have_the_times_inside_steps(timed):
    timed()
    forward, backward, *_ = rows_of(timed.run, "numba-simd")
    assert [row.direction for row in (forward, backward)] == ["forward", "backward"]
    assert forward.samples == [1.0] * 12
    assert (forward.seconds, forward.verdict) == (1.0, "FASTER")
    assert forward.ratio == pytest.approx(2.0)
    assert timed.run.environment["aa_floor"] == {"1": 0.02}


def test_slow_backends_take_no_further_part(timed):
    found = timed()
    assert found.slow == {"naive": 1800.0, "numpy": pytest.approx(32 / 11)}
    assert "naive" not in timed.ways.started
    assert "numpy" in timed.ways.started
    assert not {name for name, _ in timed.pool.checked} & {"naive", "numpy"}
    assert not rows_of(timed.run, "numpy")


def test_everything_is_measured_if_asked_for(timed):
    assert timed(everything=True).slow == {}
    assert rows_of(timed.run, "naive")


def test_rounds_go_where_the_answer_is_open(timed):
    timed()
    rounds = {name: sum(n == name for n, _ in timed.ways.watched) / 2 for name in LAYERS}
    assert rounds["numba-simd"] == rounds["torch-cpu"] == 6
    assert rounds["torch-cpu-nhwc"] == in_steps.FIRST_ROUNDS


def test_rests_are_differences_of_neighbouring_steps(timed):
    found = timed()
    assert found.rests == pytest.approx({"torch-cpu": 5.0, CHANNELS_LAST: 5.0, "numba-simd": 5.0})
    assert found.left == 0.5
    whole = [w for name, w in timed.ways.watched if name == "numba-simd"]
    assert whole == [True] * 4 + [False] * 8


def test_a_plan_leaves_to_pytorch_what_a_backend_cannot_compute(timed):
    timed()
    plan = timed.ways.plans["numba-simd"]
    assert [str(problem) for problem in plan.choices] == [CONV_]
    assert plan.fallback == "torch-cpu"
    assert timed.ways.plans["torch-cpu"] is timed.ways.plans[CHANNELS_LAST] is None


def test_a_wrong_result_has_no_time(timed):
    timed(wrong={("numba-simd", CONV_)})
    bad = [row for row in rows_of(timed.run, "numba-simd") if row.op == "conv2d"]
    assert {(row.outcome, row.seconds) for row in bad} == {("wrong", None)}
    assert all(row.samples == [] for row in bad)


def test_a_backend_that_cannot_train_is_no_loss_to_others(timed):
    timed(broken={"numba-simd"})
    assert all(row.seconds for row in rows_of(timed.run, "torch-cpu"))
    lost = rows_of(timed.run, "numba-simd")
    assert {(row.outcome, row.seconds) for row in lost} == {("failed", None)}
    assert {row.reason for row in lost} == {"in a training step: out of memory"}


def test_checks_of_several_layers_run_at_once_but_not_on_one_worker(timed):
    timed()
    assert np.unique([d for _, d in timed.pool.checked]).size == 2
    assert len(timed.pool.checked) == 2 * 3
