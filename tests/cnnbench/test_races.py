"""A race takes as many processes as its verdicts need, and repeats sides that were disturbed."""

import dataclasses
import math

import numpy as np
import pytest

from cnnbench import races
from cnnbench.budget import Budget
from cnnbench.races import AGAIN, Race
from cnnbench.results import Row
from cnnbench.workers.worker import WorkerError, WorkerWrongError

FULL = Budget(rounds=2, processes=12)


class Pool:
    """Workers that take known times; a canary or an error may await a side."""

    threads = 1

    def __init__(self, seconds):
        self.seconds = seconds
        self.asked = []
        self.canaries, self.errors, self.lost = {}, {}, {}

    def ask(self, name, command, **how):
        self.asked.append((name, command, how.get("nchw")))
        if command == "probe":
            return {"seconds": self.seconds[name], "extra_bytes": 7}
        number = self.sides(name)
        if number in self.errors.get(name, {}):
            raise self.errors[name][number]
        canary = self.canaries.get(name, {}).get(number, 1.0)
        lost = self.lost.get(name, {}).get(number, 0.0)
        seconds = self.cold if how["cold"] else self.seconds[name] * canary
        return {"seconds": seconds, "canary": canary, "lost": lost}

    def sides(self, name):
        """Return how many sides a worker has timed."""
        return sum((name, "side") == (who, what) for who, what, _ in self.asked)


def rows(*names):
    return [Row("c", "c", "conv2d", "forward", name, 1, "ok") for name in names]


def race_of(names=("base", "a"), budget=FULL, again=False, layouts=None):
    layouts = dict.fromkeys(names, "NCHW") | (layouts or {})
    return Race("forward", rows(*names), "base", layouts, budget, again)


def names(entrants):
    return [entrant.name for entrant in entrants]


def run(race, pool, stands=lambda _: False):
    race.run(pool, race.open(stands), np.random.default_rng(0))
    race.give()


def test_every_process_adds_a_block_of_rounds():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 5e-4})
    for number in (1, 2, 3):
        run(race, pool)
        for row in race.rows:
            assert len(row.samples) == 4 * number
            assert (row.sides, row.processes) == (4, number)
            assert row.extra_bytes == 7
    base, mine = race.rows
    assert (base.seconds, mine.seconds) == pytest.approx((1e-3, 5e-4))
    assert sum(command == "probe" for _, command, _ in pool.asked) == 2


def test_with_a_single_process_rounds_are_the_blocks():
    race, pool = race_of(budget=Budget(rounds=6)), Pool({"base": 1e-3, "a": 5e-4})
    run(race, pool)
    assert [(row.sides, row.processes, len(row.samples)) for row in race.rows] == [(2, 1, 12)] * 2
    assert race.open(lambda _: False) == []


def test_who_has_a_verdict_leaves_and_the_baseline_stays_until_the_last_one_has():
    race = race_of(("base", "a", "b"), again=True)
    pool = Pool(dict.fromkeys(("base", "a", "b", AGAIN), 1e-3))
    assert names(race.open(lambda _: True)) == ["base", "a", "b", AGAIN]
    run(race, pool)
    assert names(race.open(lambda row: row.backend == "a")) == ["base", AGAIN, "b"]
    assert race.open(lambda _: True) == []
    assert names(race.open(lambda _: False)) == ["base", AGAIN, "a", "b"]


def test_nobody_takes_part_in_more_processes_than_the_budget_has():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    for _ in range(FULL.processes):
        run(race, pool)
    assert race.open(lambda _: False) == []


def test_calls_of_seconds_are_timed_in_one_process_only():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 4.0})
    run(race, pool)
    assert len(race.rows[1].samples) == 2
    assert names(race.open(lambda _: False)) == ["base"]  # up to three, for its time
    run(race, pool)
    assert len(race.rows[1].samples) == 2


def test_without_anybody_to_compare_three_processes_give_the_time():
    for found in (race_of(("base",), again=True), race_of(("a", "b"))):
        pool = Pool(dict.fromkeys(("base", "a", "b", AGAIN), 1e-3))
        count = 0
        while found.open(lambda _: False):
            run(found, pool)
            count += 1
        assert count == 3


def test_the_second_process_of_the_baseline_tells_how_far_equals_are_apart():
    race, pool = race_of(again=True), Pool({"base": 1e-3, "a": 1e-3, AGAIN: 1.1e-3})
    assert race.apart() is None
    run(race, pool)
    assert race.apart().value == pytest.approx(1 / 1.1)
    assert race_of().apart() is None


def test_another_layout_is_timed_with_conversion_as_well():
    race, pool = race_of(layouts={"a": "NHWC"}), Pool({"base": 1e-3, "a": 1e-3})
    run(race, pool)
    run(race, pool)
    assert sum((name, nchw) == ("a", True) for name, _, nchw in pool.asked) == 5  # in one process
    base, mine = race.rows
    assert base.nchw_seconds is None
    assert mine.nchw_seconds == pytest.approx(1e-3)
    assert len(mine.details["nchw_samples"]) == 4


def test_cold_calls_are_timed_in_one_process_beside_the_warm_ones():
    race = race_of(budget=dataclasses.replace(FULL, cold=True))
    pool = Pool({"base": 1e-3, "a": 1e-3})
    pool.cold = 2e-3
    run(race, pool)
    run(race, pool)
    for row in race.rows:
        assert row.seconds == pytest.approx(1e-3)
        assert row.details["cold_seconds"] == pytest.approx(2e-3)
        assert row.processes == 2
        assert row.details["cold_samples"] == [2e-3] * 2


@pytest.mark.parametrize(("kind", "value"), [("canaries", 1.5), ("lost", 0.2)])
def test_a_disturbed_side_is_repeated_at_the_end_of_its_round(kind, value):
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    getattr(pool, kind)["a"] = {2: value}
    run(race, pool)
    mine = race.rows[1]
    assert pool.sides("a") == 5
    assert pool.sides("base") == 4
    assert mine.samples == pytest.approx([1e-3] * 4)
    assert (mine.details["repeated_sides"], mine.details["disturbed_sides"]) == (1, 0)
    assert race.rows[0].details == {}


def test_a_side_that_stays_disturbed_is_kept_and_counted():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    pool.canaries["a"] = {2: 1.5, 3: 1.6, 4: 1.7}
    run(race, pool)
    mine = race.rows[1]
    assert sorted(mine.samples) == pytest.approx([1e-3] * 3 + [1.7e-3])
    assert (mine.details["repeated_sides"], mine.details["disturbed_sides"]) == (1, 1)


def test_calls_beyond_the_slowest_are_not_timed():
    race = race_of(("base", "a", "b"), budget=dataclasses.replace(FULL, slowest=0.1))
    pool = Pool({"base": 1e-3, "a": 0.2, "b": 0.05})
    run(race, pool)
    base, slow, other = race.rows
    assert (slow.outcome, slow.reason, slow.seconds) == (
        "unsupported",
        "too slow (about 0.2 s)",
        None,
    )
    assert slow.why == "skipped: too slow (about 0.2 s)"
    assert base.seconds == pytest.approx(1e-3)
    assert other.seconds == pytest.approx(0.05)
    assert pool.sides("a") == 0


def test_long_sides_are_not_repeated():
    race, pool = race_of(), Pool({"base": 0.4, "a": 0.4})
    pool.lost["a"] = dict.fromkeys(range(9), 0.5)
    run(race, pool)
    assert pool.sides("a") == 2 * race.entrants[1].rounds
    assert "repeated_sides" not in race.rows[1].details


def test_who_goes_wrong_in_a_process_has_no_time_and_the_others_go_on():
    race, pool = race_of(("base", "a", "b")), Pool(dict.fromkeys(("base", "a", "b"), 1e-3))
    run(race, pool)
    pool.errors["a"] = {6: WorkerWrongError("no")}
    run(race, pool)
    base, mine, other = race.rows
    assert (mine.outcome, mine.reason, mine.samples) == ("wrong", "no", [])
    assert len(base.samples) == len(other.samples) == 8
    assert names(race.open(lambda _: False)) == ["base", "b"]


def test_a_baseline_that_dies_leaves_the_others_with_times():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    pool.errors["base"] = {1: WorkerError("killed")}
    run(race, pool)
    assert race.rows[0].outcome == "failed"
    assert race.rows[1].seconds == pytest.approx(1e-3)


def test_an_interrupted_process_adds_no_part_of_a_block():
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    run(race, pool)
    pool.errors["a"] = {6: KeyboardInterrupt()}
    with pytest.raises(KeyboardInterrupt):
        run(race, pool)
    race.give()
    assert [len(row.samples) for row in race.rows] == [4, 4]
    assert not math.isnan(race.rows[0].seconds)


def test_who_has_left_takes_no_further_part():
    race, pool = race_of(("base", "a", "b")), Pool(dict.fromkeys(("base", "a", "b"), 1e-3))
    run(race, pool)
    race.leave("a")
    assert names(race.open(lambda _: False)) == ["base", "b"]
    assert race.timed(race.rows[1])


def test_threads_rest_before_a_side_where_there_are_several(monkeypatch):
    rests = []
    monkeypatch.setattr(races.timing, "rest", lambda: rests.append(1))
    race, pool = race_of(), Pool({"base": 1e-3, "a": 1e-3})
    run(race, pool)
    assert rests == []
    pool.threads = 2
    run(race, pool)
    assert len(rests) == 8
