"""Layers are timed inside steps, by backends that are worth it, and only if they are right."""

import threading
from pathlib import Path

import numpy as np
import pytest

from cnnbench import checking
from cnnbench.budget import Budget
from cnnbench.recommend import in_steps, parts
from cnnbench.recommend.recommendation import AUTOCAST, CHANNELS_LAST
from cnnbench.recommend.ways import AGAIN, Taker
from cnnbench.results import Run
from cnnbench.workers.worker import WorkerError

PACES = {
    "torch-cpu": 1.0, "torch-cpu-nhwc": 1.5, "numba-simd": 0.5, "numpy": 3.0, "numba": 0.6,
    "naive": 900.0, "readable": 3.0,
}  # fmt: skip
LAYERS = {
    "torch-cpu": 4.0, "torch-cpu-nhwc": 3.0, "numba-simd": 2.0, "numpy": 9.0, "numba": 2.4,
    "naive": 1e4, "readable": 9.0,
}  # fmt: skip


class Pool:
    """Workers that give the findings of checks, rough speeds, and the owners of kernels."""

    def __init__(self):
        self.backends = self.present = list(PACES)
        self.absent, self.checked, self.wrong = {}, [], set()
        self.running, self.threads = set(), 1
        self.filled, self.folders = [], set()

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

    def call_pace(self, backend, descriptor):
        assert "kh3" in descriptor, "the convolution is the largest layer"
        assert backend != "naive", "a call of it may take minutes"
        return 9.0 if backend == "readable" else PACES[backend]

    def owners(self, backend, descriptors):
        pools = {"numba-simd": None, "numba": "numpy"}
        return [pools.get(backend, backend) if "kh2" in d else backend for d in descriptors]

    def threading(self, _):
        return {}

    def check(self, backend, descriptor, folder, **_):
        fills = Path(folder) / "fill"
        new = (descriptor, not fills.exists())
        fills.touch()
        self.filled.append(new)
        self.folders.add(Path(folder))
        self.checked.append((backend, descriptor))
        wrong = (backend, descriptor) in self.wrong
        outcome, reason = ("wrong", "y[0] is 1, not 2") if wrong else ("ok", "")
        return {"outcome": outcome, "reason": reason}


class Ways:
    """Ways to train; a layer's time is known, and the rest of a step takes 5 s."""

    threads = 1

    def __init__(self, network):
        self.started, self.plans, self.watched, self.broken = [], {}, [], set()
        self.problems = [str(layer.problem) for layer in network.layers]

    def prepare(self, plans):
        self.plans = plans

    def start(self, way, plan=None):
        backend = "torch-cpu-nhwc" if way == CHANNELS_LAST else way
        self.started.append(backend)
        assert plan is self.plans[way]
        if (backend, "start") in self.broken:
            raise WorkerError("out of memory")

        def watch():
            self.watched.append(backend)
            if (backend, "step") in self.broken:
                raise WorkerError("the worker was killed")
            half = LAYERS[backend] / 2
            return {
                "layers": {problem: [half, half] for problem in self.problems},
                "others": {parts.ACTIVATIONS: 4.5, parts.BETWEEN: 0.5},
            }

        return Taker(3 * LAYERS[backend] + 5.0, float, watch)


@pytest.fixture
def timed(monkeypatch, network, silent):
    monkeypatch.setattr(in_steps.timing, "rest", lambda: None)

    def timed(*, everything=False, wrong=(), broken=(), **more):
        timed.run, timed.pool, timed.ways = Run({}), Pool(), Ways(network)
        timed.pool.wrong, timed.ways.broken = set(wrong), set(broken)
        return in_steps.time(
            timed.run, network, timed.pool, list(PACES), "torch-cpu", Budget(rounds=6), silent,
            timed.ways, everything=everything, **more,
        )  # fmt: skip

    timed.conv, timed.max_pool = (str(layer.problem) for layer in network.layers)
    return timed


def rows_of(run, backend):
    return [row for row in run.rows if row.backend == backend]


def test_rows_have_the_times_inside_steps(timed):
    timed()
    forward, backward, *_ = rows_of(timed.run, "numba-simd")
    assert [row.direction for row in (forward, backward)] == ["forward", "backward"]
    assert forward.samples == [1.0] * 12
    assert forward.seconds == 1.0
    assert forward.ratio == pytest.approx(2.0)


def test_slow_backends_are_neither_checked_nor_measured_further(timed):
    found = timed()
    assert found.slow == {
        "naive": 1800.0,
        "readable": 18.0,
        "numpy": pytest.approx(6.0),
        "numba": pytest.approx(1.2),
    }
    assert not {"naive", "readable", "numpy"} & set(timed.ways.started)
    assert timed.ways.watched.count("numba") == 2 * in_steps.FIRST_ROUNDS
    for name in found.slow:
        assert name not in {backend for backend, _ in timed.pool.checked}
        assert not rows_of(timed.run, name)
        assert name not in found.parts


def test_a_first_step_may_show_that_a_backend_is_slow(timed, monkeypatch):
    monkeypatch.setitem(LAYERS, "numba", 12.0)
    assert timed().slow["numba"] == pytest.approx((3 * 12 + 5) / (3 * 2 + 5))
    assert "numba" not in timed.ways.watched


def test_a_kernel_of_another_backend_keeps_no_backend_in_the_measurement(timed, monkeypatch):
    monkeypatch.setitem(LAYERS, "numba", 2.1)  # its max-pooling is numpy's
    assert "numba" not in timed().slow


def test_everything_that_takes_no_hours_is_measured_if_asked_for(timed):
    assert timed(everything=True).slow == {"naive": 1800.0}
    assert rows_of(timed.run, "readable")
    assert rows_of(timed.run, "numba")


def test_the_fastest_may_be_ruled_out_so_others_stay(timed):
    assert "numba" not in timed(by_speed_alone=False).slow


def test_backends_that_were_asked_for_are_measured_in_any_case(timed):
    assert "readable" not in timed(wanted={"readable"}).slow
    assert len(rows_of(timed.run, "readable")[0].samples) == 12


def test_channels_last_takes_few_rounds(timed):
    timed()
    assert timed.ways.watched.count("torch-cpu") == 12
    assert timed.ways.watched.count("torch-cpu-nhwc") == 2 * (in_steps.FIRST_ROUNDS + 2)


def test_where_a_step_spends_its_time_is_known_for_each_way(timed):
    found = timed()
    assert set(found.parts) == {"torch-cpu", CHANNELS_LAST, "numba-simd"}
    assert found.parts["numba-simd"] == {
        parts.CONVOLUTIONS: 2 * 2.0,
        parts.POOLINGS: 2.0,
        parts.ACTIVATIONS: 4.5,
        parts.BETWEEN: 0.5,
    }
    assert parts.rest(found.parts["numba-simd"]) == 5.0


def test_a_plan_leaves_to_pytorch_what_a_backend_cannot_compute(timed):
    timed()
    plan = timed.ways.plans["numba-simd"]
    assert [str(problem) for problem in plan.choices] == [timed.conv]
    assert plan.fallback == "torch-cpu"
    unchanged = ("torch-cpu", CHANNELS_LAST, AUTOCAST, AGAIN)
    assert [timed.ways.plans[way] for way in unchanged] == [None] * 4


def test_a_wrong_result_has_no_time(timed):
    timed(wrong={("numba-simd", timed.conv)})
    bad = [row for row in rows_of(timed.run, "numba-simd") if row.op == "conv2d"]
    assert {(row.outcome, row.seconds) for row in bad} == {("wrong", None)}
    assert all(row.samples == [] for row in bad)


@pytest.mark.parametrize(
    ("when", "reason"), [("start", "out of memory"), ("step", "the worker was killed")]
)
def test_a_backend_that_cannot_train_is_no_loss_to_others(timed, when, reason):
    timed(broken={("numba-simd", when)})
    assert all(row.seconds for row in rows_of(timed.run, "torch-cpu"))
    lost = rows_of(timed.run, "numba-simd")
    assert {(row.outcome, row.seconds) for row in lost} == {("failed", None)}
    assert {row.reason for row in lost} == {f"in a training step: {reason}"}
    assert timed.ways.watched.count("numba-simd") == (when == "step")


def test_every_layer_is_checked_once_by_each_backend(timed):
    timed()
    assert np.unique([d for _, d in timed.pool.checked]).size == 2
    assert len(timed.pool.checked) == len(set(timed.pool.checked)) == 2 * 3


def test_expected_results_are_computed_once_and_not_kept(timed, monkeypatch):
    cleared = []
    monkeypatch.setattr(checking, "clear", cleared.append)
    timed()
    for descriptor in (timed.conv, timed.max_pool):
        assert [new for d, new in timed.pool.filled if d == descriptor] == [True, False, False]
    assert len(timed.pool.folders) == len(cleared) == 2
    assert timed.pool.folders == set(cleared)
    assert not any(folder.exists() for folder in timed.pool.folders)


def test_checks_run_at_once_but_the_first_of_a_case_alone(network):
    one, two = (layer.case for layer in network.layers)
    turns = checking._Turns([(one, "a"), (one, "b"), (two, "a"), (two, "b")])
    assert turns.take() == (one, "a")
    assert turns.take() == (two, "b")
    assert not turns.end((two, "b"))
    assert not turns.end((one, "a"))
    assert [turns.take(), turns.take()] == [(one, "b"), (two, "a")]
    assert turns.end((one, "b"))


def test_a_thread_waits_until_a_check_can_begin(network):
    case = network.layers[0].case
    turns = checking._Turns([(case, "a"), (case, "b")])
    first = turns.take()
    got = []
    waiting = threading.Thread(target=lambda: got.append(turns.take()))
    waiting.start()
    waiting.join(0.05)
    assert waiting.is_alive()
    turns.end(first)
    waiting.join(5)
    assert got == [(case, "b")]
    assert turns.take() is None
