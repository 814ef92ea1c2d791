"""Rounds cancel drift; a verdict is given only beyond what this machine shows of equals."""

import math

import numpy as np
import pytest

from cnnbench import timing
from cnnbench.timing import Contestant, Ratio, Samples


class Clock:
    """Sides that take known times, on a machine whose speed changes from side to side."""

    def __init__(self, speed=lambda _: 1.0):
        self.order = []
        self._speed = speed

    def contestant(self, name, seconds=1.0, rounds=timing.ROUNDS):
        def side():
            self.order.append(name)
            return seconds * self._speed(len(self.order) - 1)

        return Contestant(name, side, rounds)

    def times_of(self, name):
        return self.order.count(name)


def ratio(samples, baseline):
    """Return the ratio of samples from one process each."""
    return timing.ratio(Samples(samples), Samples(baseline))


# --------------------------------------------------------------------------------------------
# rounds


def test_each_half_of_a_round_has_everyone_once_and_the_second_is_the_first_reversed():
    clock = Clock()
    contestants = [clock.contestant(name) for name in "abcd"]
    timing.run_rounds(contestants, np.random.default_rng(0), 0, 5)
    rounds = np.reshape(clock.order, (5, 2, 4))
    for there, back in rounds:
        assert sorted(there) == list("abcd")
        assert back.tolist() == there[::-1].tolist()
    assert len({tuple(there) for there, _ in rounds}) > 1
    assert {len(contestant.samples) for contestant in contestants} == {10}


def test_the_samples_of_a_contestant_are_its_own_in_the_order_of_the_rounds():
    clock = Clock(speed=lambda side: side + 1.0)
    contestants = [clock.contestant("a"), clock.contestant("b", seconds=100.0)]
    timing.run_rounds(contestants, np.random.default_rng(1), 0, 3)
    for contestant, scale in zip(contestants, (1.0, 100.0), strict=True):
        sides = [side + 1.0 for side, name in enumerate(clock.order) if name == contestant.name]
        assert contestant.samples == [scale * side for side in sides]


def test_slow_contestants_take_part_in_fewer_rounds():
    clock = Clock()
    slow, none, quick = (clock.contestant(n, rounds=r) for n, r in (("s", 2), ("n", 0), ("q", 7)))
    timing.run_rounds([slow, none, quick], np.random.default_rng(0), 0, 7)
    assert [len(c.samples) for c in (slow, none, quick)] == [4, 0, 14]
    assert clock.order[-10:] == ["q"] * 10
    assert math.isnan(none.seconds)
    assert ratio(slow.samples, quick.samples).blocks == 2


@pytest.mark.parametrize("drift", [0.5, 0.9, 1.1, 3.0])
def test_a_steady_drift_cancels_in_every_pair(drift):
    clock = Clock(speed=lambda side: drift**side)
    contestants = [
        clock.contestant(name, seconds) for name, seconds in zip("abc", (1, 2, 5), strict=True)
    ]
    timing.run_rounds(contestants, np.random.default_rng(2), 0, timing.ROUNDS)
    for one in contestants:
        for other in contestants:
            expected = "abc".index(other.name), "abc".index(one.name)
            found = ratio(one.samples, other.samples)
            exact = (1, 2, 5)[expected[0]] / (1, 2, 5)[expected[1]]
            assert (found.value, found.low, found.high) == pytest.approx((exact,) * 3, rel=1e-9)


# --------------------------------------------------------------------------------------------
# blocks, ratio and interval


def test_a_block_is_a_round_or_all_sides_of_a_process_and_its_time_their_median():
    seconds = [1.0, 1.0, 4.0, 1.0, 1.0, 9.0, 2.0, 2.0, 2.0]
    rounds = Samples(seconds)
    assert np.exp(rounds.blocks()) == pytest.approx([1.0, 2.0, 3.0, 2.0])
    processes = Samples(seconds, sides=4, processes=2)
    assert np.exp(processes.blocks()) == pytest.approx([1.0, 2.0])
    assert processes.typical == pytest.approx(math.sqrt(2.0))


def test_a_ratio_is_the_quotient_of_the_two_times_and_above_one_is_faster():
    random = np.random.default_rng(0)
    mine, theirs = (Samples(random.lognormal(size=24).tolist(), 4, 6) for _ in range(2))
    found = timing.ratio(mine, theirs)
    assert found.value == pytest.approx(theirs.typical / mine.typical)
    assert (found.blocks, found.processes) == (6, 6)
    assert ratio([2.0] * 24, [1.0] * 24).value == pytest.approx(0.5)


def test_a_side_out_of_the_way_does_not_move_the_block_of_its_process():
    samples = [1.0] * 24
    samples[7] = 1e6
    found = timing.ratio(Samples(samples, 4, 6), Samples([2.0] * 24, 4, 6))
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(("blocks", "quantile"), [(3, 9.925), (6, 4.032), (12, 3.106)])
def test_the_interval_is_that_of_student_at_99_percent(blocks, quantile):
    logs = np.random.default_rng(0).normal(0.2, 0.1, blocks)
    found = timing.ratio_of_blocks(np.exp(logs), 3)
    half = quantile * logs.std(ddof=1) / math.sqrt(blocks)
    assert math.log(found.value) == pytest.approx(logs.mean())
    assert math.log(found.low) == pytest.approx(logs.mean() - half, rel=1e-3)
    assert math.log(found.high) == pytest.approx(logs.mean() + half, rel=1e-3)
    assert (found.blocks, found.processes) == (blocks, 3)


def test_the_interval_contains_the_true_ratio_if_processes_differ_more_than_rounds():
    """Rounds of one process alone would give intervals that miss it most of the time."""
    random, covered = np.random.default_rng(0), {1: 0, 6: 0}
    for _ in range(400):
        of_processes = random.normal(0.0, 0.05, (2, 6, 1))
        logs = of_processes + random.normal(0.0, 0.01, (2, 6, 4))
        pair = [Samples(np.exp(one).ravel().tolist(), 4, 6) for one in logs]
        found = timing.ratio(*pair)
        covered[6] += found.low <= 1.0 <= found.high
        found = timing.ratio(*(Samples(np.exp(one[0].repeat(2)).tolist()) for one in logs))
        covered[1] += found.low <= 1.0 <= found.high
    assert covered[6] >= 0.97 * 400
    assert covered[1] <= 0.6 * 400


@pytest.mark.parametrize("rounds", [1, 2])
def test_fewer_than_three_blocks_give_a_ratio_without_interval(rounds):
    found = ratio([1.0] * 2 * rounds, [3.0] * 2 * rounds)
    assert found.value == pytest.approx(3.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert timing.verdict(found, 0.0) == "UNCLEAR"


@pytest.mark.parametrize(
    ("samples", "baseline"),
    [
        ([], []),
        ([1.0], [1.0, 1.0]),
        ([], [1.0] * 24),
        ([1.0] * 23 + [math.nan], [1.0] * 24),
        ([1.0] * 24, [math.nan] * 24),
    ],
)
def test_without_a_whole_block_or_with_a_lost_side_there_is_no_ratio(samples, baseline):
    found = ratio(samples, baseline)
    assert math.isnan(found.value)
    assert found.blocks == 0
    assert timing.verdict(found, 0.05) == "UNCLEAR"


@pytest.mark.parametrize(
    ("seconds", "floor", "verdict"),
    [
        (0.1, 0.02, "UNCLEAR"), (0.09, 0.02, "FASTER"), (0.09, 0.5, "UNCLEAR"),
        (10.0, 0.02, "UNCLEAR"), (11.0, 0.02, "SLOWER"), (11.0, math.nan, "UNCLEAR"),
    ],
)  # fmt: skip
def test_a_factor_of_ten_needs_no_interval(seconds, floor, verdict):
    assert timing.verdict(ratio([seconds] * 2, [1.0] * 2), floor) == verdict


def test_blocks_that_only_one_of_them_has_are_left_out():
    assert ratio([1.0] * 4, [2.0] * 4 + [9.0] * 20).value == pytest.approx(2.0)


# --------------------------------------------------------------------------------------------
# verdict

_FLOOR = 0.05
_UP, _DOWN = 1 + _FLOOR, 1 / (1 + _FLOOR)
_MORE, _LESS = 1 + 1e-9, 1 - 1e-9


@pytest.mark.parametrize(
    ("low", "high", "floor", "expected"),
    [
        (_UP * _MORE, 2.0, _FLOOR, "FASTER"),
        (_UP, 2.0, _FLOOR, "UNCLEAR"),
        (0.5, _DOWN * _LESS, _FLOOR, "SLOWER"),
        (0.5, _DOWN, _FLOOR, "UNCLEAR"),
        (_DOWN, _UP, _FLOOR, "SAME"),
        (_DOWN * _LESS, _UP, _FLOOR, "UNCLEAR"),
        (_DOWN, _UP * _MORE, _FLOOR, "UNCLEAR"),
        (1.0, 1.0, _FLOOR, "SAME"),
        (1.0, 1.0, 0.0, "SAME"),
        (0.5, 2.0, _FLOOR, "UNCLEAR"),
        # what differs by less than 3 % is the same, unless it surely differs by more than 1 %
        (1 / 1.03, 1.03, 0.0, "SAME"),
        (1 / 1.03, 1.03 * _MORE, 0.0, "UNCLEAR"),
        (1.001, 1.009, 0.0, "SAME"),
        (1.011, 1.03, 0.0, "FASTER"),
        (0.97, 0.989, 0.0, "SLOWER"),
        # a noisy machine: nothing is faster that equals show as well
        (1.05, 1.09, 0.09, "SAME"),
        # an unsteady one: equals show too much for anybody to be called equal
        (1.2, 1.25, 0.3, "UNCLEAR"),
        (1.2, 1.4, 0.3, "UNCLEAR"),
        (1.31, 1.4, 0.3, "FASTER"),
    ],
)
def test_in_one_process_the_whole_interval_lies_beyond_the_floor(low, high, floor, expected):
    assert timing.verdict(Ratio(math.sqrt(low * high), low, high, 12), floor) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "floor", "expected"),
    [
        (1.1, 1.02, 1.19, 0.05, "FASTER"),
        (1.1, 1.01, 1.2, 0.05, "UNCLEAR"),
        (1.1, 1.02, 1.19, 0.11, "UNCLEAR"),
        (0.9, 0.83, 0.98, 0.05, "SLOWER"),
        (0.9, 0.83, 0.995, 0.05, "UNCLEAR"),
        (0.9, 0.83, 0.98, 0.12, "UNCLEAR"),
        (1.3, 1.2, 1.41, 0.28, "FASTER"),
        (1.015, 1.011, 1.019, 0.03, "SAME"),
    ],
)
def test_over_several_processes_the_floor_bounds_the_ratio_alone(value, low, high, floor, expected):
    assert timing.verdict(Ratio(value, low, high, 12, 12), floor) == expected


@pytest.mark.parametrize(
    ("value", "low", "high", "settled"),
    [
        (1.5, 1.4, 1.6, True),
        (1.5, 1.3, 1.8, False),  # certain, not precise
        (1.05, 0.98, 1.12, False),
        (1.02, 1.001, 1.04, True),  # precise, and no more to be found out
        (1.0, 0.99, 1.01, True),
        (20.0, math.nan, math.nan, False),  # others may be as fast
        (0.05, math.nan, math.nan, True),
        (5.0, math.nan, math.nan, False),
        (math.nan, math.nan, math.nan, False),
    ],
)
def test_a_ratio_is_settled_when_its_verdict_stands_and_is_precise(value, low, high, settled):
    assert timing.settled(Ratio(value, low, high, 4, 4), 0.02) == settled


# --------------------------------------------------------------------------------------------
# floor


@pytest.mark.parametrize(
    ("values", "expected"), [([1.0], 0.0), ([1.01, 0.9], 1 / 0.9 - 1), ([1.3, 0.9], 0.3)]
)
def test_the_floor_is_the_largest_difference_either_way(values, expected):
    found = timing.floor_of([Ratio(value, math.nan, math.nan, 3) for value in values])
    assert found == pytest.approx(expected)


def test_the_floor_makes_the_ratio_it_was_made_of_no_difference():
    for value in (0.93, 1.07):
        floor = timing.floor_of([Ratio(value, value, value, 12)])
        assert timing.verdict(Ratio(value, value, value, 12), floor * _MORE) == "SAME"


def test_without_a_floor_nothing_is_called_faster_or_slower():
    floor = timing.floor_of([])
    assert math.isnan(floor)
    for value in (0.1, 10.0):
        assert timing.verdict(Ratio(value, value, value, 12), floor) == "UNCLEAR"


def test_a_floor_too_high_to_compare_backends_is_a_busy_machine():
    assert timing.busy_warning(0.146) == (
        "This machine was busy: two identical runs differed by 14.6 %. "
        "Close other programs and measure again."
    )
    assert timing.busy_warning(0.05) is None
    assert timing.busy_warning(float("nan")) is None
