"""Rounds cancel drift; a verdict is given only beyond what this machine shows of equals."""

import math

import numpy as np
import pytest

from cnnbench import timing
from cnnbench.timing import Contestant, Ratio


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


def spread(value, width, rounds=timing.ROUNDS):
    """Return samples around a value: its baseline's are 1, or the value with width 1."""
    steps = np.linspace(-1, 1, rounds)
    return np.repeat(value * width**steps, 2).tolist()


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
    timing.compete([slow, none, quick], "q", 0.01, np.random.default_rng(0))
    assert [len(c.samples) for c in (slow, none, quick)] == [4, 0, 14]
    assert clock.order[-10:] == ["q"] * 10
    assert math.isnan(none.seconds)
    assert timing.ratio(slow.samples, quick.samples).rounds == 2


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
            found = timing.ratio(one.samples, other.samples)
            exact = (1, 2, 5)[expected[0]] / (1, 2, 5)[expected[1]]
            assert (found.value, found.low, found.high) == pytest.approx((exact,) * 3, rel=1e-9)


# --------------------------------------------------------------------------------------------
# ratio and interval


def test_the_ratio_is_the_median_of_the_rounds_and_above_one_is_faster():
    found = timing.ratio([0.5] * 4, [1.0, 1.0, 4.0, 1.0])
    assert found.value == pytest.approx(math.sqrt(2 * 4))
    assert found.rounds == 2
    assert timing.ratio([2.0] * 24, [1.0] * 24).value == pytest.approx(0.5)


def test_one_round_out_of_the_way_does_not_move_the_ratio():
    samples = [1.0] * 24
    samples[7] = 1e6
    found = timing.ratio(samples, [2.0] * 24)
    assert (found.value, found.low, found.high) == pytest.approx((2.0, 2.0, 2.0))


@pytest.mark.parametrize(
    ("rounds", "low", "high"),
    [(6, 1, 6), (7, 1, 7), (8, 1, 8), (9, 2, 8), (12, 3, 10), (18, 5, 14), (24, 7, 18)],
)
def test_the_interval_is_from_one_order_statistic_to_another(rounds, low, high):
    ratios = np.arange(1.0, rounds + 1)
    found = timing.ratio_of_rounds(np.random.default_rng(0).permutation(ratios))
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.rounds == rounds


@pytest.mark.parametrize("rounds", [1, 2, 5])
def test_fewer_than_six_rounds_give_a_ratio_without_interval(rounds):
    found = timing.ratio([1.0] * 2 * rounds, [3.0] * 2 * rounds)
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
def test_without_a_whole_round_or_with_a_lost_side_there_is_no_ratio(samples, baseline):
    found = timing.ratio(samples, baseline)
    assert math.isnan(found.value)
    assert found.rounds == 0
    assert timing.verdict(found, 0.05) == "UNCLEAR"


@pytest.mark.parametrize(
    ("seconds", "floor", "verdict"),
    [
        (0.1, 0.02, "UNCLEAR"), (0.09, 0.02, "FASTER"), (0.09, 0.5, "UNCLEAR"),
        (10.0, 0.02, "UNCLEAR"), (11.0, 0.02, "SLOWER"), (11.0, math.nan, "UNCLEAR"),
    ],
)  # fmt: skip
def test_a_factor_of_ten_needs_no_interval(seconds, floor, verdict):
    assert timing.verdict(timing.ratio([seconds] * 2, [1.0] * 2), floor) == verdict


def test_rounds_that_only_one_of_them_has_are_left_out():
    assert timing.ratio([1.0] * 4, [2.0] * 4 + [9.0] * 20).value == pytest.approx(2.0)


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
        # a quiet machine: what differs by less than 2 % is the same, unless it surely differs
        (1 / 1.02, 1.02, 0.0, "SAME"),
        (1 / 1.02, 1.02 * _MORE, 0.0, "UNCLEAR"),
        (1.001, 1.01, 0.0, "FASTER"),
        (0.99, 0.999, 0.0, "SLOWER"),
        (1.001, 1.01, 0.01, "SAME"),
        # a noisy one: nothing is faster that equals show as well
        (1.05, 1.09, 0.09, "SAME"),
        # an unsteady one: equals show too much for anybody to be called equal
        (1.2, 1.25, 0.3, "UNCLEAR"),
        (1.2, 1.4, 0.3, "UNCLEAR"),
        (1.31, 1.4, 0.3, "FASTER"),
    ],
)
def test_a_verdict_needs_the_whole_interval_on_one_side_of_a_border(low, high, floor, expected):
    assert timing.verdict(Ratio(math.sqrt(low * high), low, high, 12), floor) == expected


# --------------------------------------------------------------------------------------------
# rounds that a wide interval earns


class Noisy(Clock):
    """Contestants whose rounds alternate around a value."""

    def noisy(self, name, value, width):
        sides = iter(range(10**6))

        def side():
            self.order.append(name)
            return value * (width if next(sides) // 2 % 2 else 1 / width)

        return Contestant(name, side)


def test_only_unclear_ones_earn_more_rounds_up_to_the_cap():
    clock = Noisy()
    base = clock.contestant("base")
    clear = clock.contestant("clear", 2.0)
    same = clock.contestant("same")
    unclear = clock.noisy("unclear", 1.0, 1.5)
    slow = clock.contestant("slow", 9.0, rounds=2)
    everyone = [clear, base, unclear, same, slow]
    timing.compete(everyone, "base", 0.05, np.random.default_rng(3))
    assert clock.times_of("slow") == 4
    assert clock.times_of("clear") == clock.times_of("same") == 2 * timing.ROUNDS
    assert clock.times_of("unclear") == clock.times_of("base") == 2 * timing.MOST_ROUNDS
    earned = np.reshape(clock.order[8 * timing.ROUNDS + 4 :], (-1, 4))
    assert (earned == earned[:, ::-1]).all()
    assert len(unclear.samples) == 2 * timing.MOST_ROUNDS


def test_more_rounds_end_as_soon_as_the_verdict_is_clear():
    clock = Clock()
    base = clock.contestant("base")
    sides = iter([3.0, 3.0, 0.3, 0.3] * 4 + [0.3] * 100)
    settling = Contestant("settling", lambda: next(sides))
    timing.compete([base, settling], "base", 0.05, np.random.default_rng(4))
    assert timing.ROUNDS < settling.rounds < timing.MOST_ROUNDS
    assert timing.verdict(timing.ratio(settling.samples, base.samples), 0.05) == "FASTER"


@pytest.mark.parametrize(
    ("baseline", "rounds"), [("absent", timing.ROUNDS), ("base", timing.ROUNDS - 1)]
)
def test_without_a_baseline_of_all_rounds_nobody_earns_any(baseline, rounds):
    clock = Noisy()
    contestants = [clock.contestant("base", rounds=rounds), clock.noisy("unclear", 1.0, 1.5)]
    timing.compete(contestants, baseline, 0.05, np.random.default_rng(5))
    assert clock.times_of("unclear") == 2 * timing.ROUNDS
    assert clock.times_of("base") == 2 * rounds


def test_a_contestant_that_is_lost_in_the_middle_ends_the_rounds_with_the_others_whole():
    clock = Clock()
    base = clock.contestant("base")
    lost = Contestant("lost", iter([1.0] * 5 + [math.nan] * 100).__next__)
    timing.compete([lost, base], "base", 0.0, np.random.default_rng(6))
    assert timing.verdict(timing.ratio(lost.samples, base.samples), 0.0) == "UNCLEAR"
    assert set(base.samples) == {1.0}
    assert base.seconds == 1.0


def test_nobody_to_time_is_fine():
    timing.compete([], "base", 0.0, np.random.default_rng(0))


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
