"""The cache of blockings stays within its budget of bytes, from any number of threads."""

import dataclasses
import functools
import itertools
import threading

import numpy as np
import pytest

from cnnkernels import memory


@dataclasses.dataclass(frozen=True, eq=False)
class Plan:
    number: int
    table: np.ndarray


def plan_of(number, size=1000):
    return Plan(number, np.full(size, number % 256, np.uint8))


@pytest.fixture
def store():
    return memory.Store(20_000)


@pytest.fixture
def made():
    """The keys of all values that were computed, in order."""
    return []


@pytest.fixture
def plans(store, made):
    @store.cached
    def make(number):
        made.append(number)
        return plan_of(number)

    return make


def test_a_value_is_made_once(plans, made):
    first = plans(3)
    assert plans(3) is first
    assert plans(4) is not first
    assert made == [3, 4]


def test_what_is_kept_weighs_no_more_than_the_budget(store, plans):
    most = 0
    for number in range(200):
        assert plans(number).number == number
        assert store.weight <= store.budget
        most = max(most, len(store))
    one = memory.weigh(plan_of(1))
    assert len(store) * one == store.weight
    assert most == store.budget // one


def test_the_budget_is_one_for_all_functions(store, plans):
    others = store.cached(lambda number: plan_of(number, 100))
    for number in range(200):
        plans(number)
        assert others(number).table.size == 100
        assert store.weight <= store.budget


def test_what_is_used_all_the_time_stays(store, plans, made):
    others = store.cached(lambda number: plan_of(number, 100))
    for number in range(1000):
        plans(1)
        others(number)
    assert made == [1]


def test_what_was_used_last_stays_and_what_was_not_goes_first(store, plans, made):
    keys = list(range(store.budget // memory.weigh(plan_of(1))))
    for number in itertools.chain(keys, keys[2:], [100, 101]):
        plans(number)
    del made[:]
    for number in [*reversed(keys[2:]), 100, 101]:
        plans(number)
    assert made == []
    plans(0)
    assert made == [0]


def test_a_value_beyond_the_budget_is_handed_out_and_not_kept(store, plans):
    plans(1)
    large = store.cached(lambda number: plan_of(number, 2 * store.budget))
    before = store.weight
    for number in (5, 5, 6):
        assert large(number).table[-1] == number
        assert store.weight == before
    assert plans(1) is plans(1)


def test_a_value_of_most_of_the_budget_does_not_drive_the_others_out(store, plans, made):
    large = store.cached(lambda number: plan_of(number, store.budget // 2))
    for _ in range(20):
        kept = large(1)
        for number in range(3):
            plans(number)
    assert large(1) is kept
    assert made == [0, 1, 2]


def test_an_error_is_passed_on_and_nothing_is_kept(store):
    def make(number):
        raise ValueError(f"no {number}")

    with pytest.raises(ValueError, match="no 7"):
        store.cached(make)(7)
    assert (len(store), store.weight) == (0, 0)


def test_a_value_may_be_made_of_others(store, plans, made):
    pairs = store.cached(lambda number: (plans(number), plans(number + 1)))
    assert [plan.number for plan in pairs(1)] == [1, 2]
    assert pairs(1)[0] is plans(1)
    assert made == [1, 2]


def test_clearing_keeps_nothing(store, plans, made):
    plans(1)
    store.clear()
    assert (len(store), store.weight) == (0, 0)
    plans(1)
    assert made == [1, 1]


def test_arrays_are_weighed_wherever_they_are():
    table = np.zeros(10_000)
    nested = functools.partial(print, (1, Plan(1, table)), b"x" * 500)
    assert 80_500 <= memory.weigh(nested) <= 90_000
    assert memory.weigh((table, table)) == 2 * memory.weigh(table)
    assert memory.weigh((1, "two", None)) == 0


def test_threads_get_what_they_ask_for_while_others_are_dropped(store, plans):
    wrong, threads = [], 4
    barrier = threading.Barrier(threads)

    def ask(seed):
        numbers = np.random.default_rng(seed).integers(0, 40, 3000).tolist()
        barrier.wait()
        for number in numbers:
            plan = plans(number)
            if plan.number != number or not (plan.table == number).all():
                wrong.append(number)

    asking = [threading.Thread(target=ask, args=(seed,)) for seed in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    assert wrong == []
    assert store.weight <= store.budget
    assert len(store) * memory.weigh(plan_of(1)) == store.weight


def test_a_call_may_take_a_few_times_as_much_as_its_arrays():
    assert memory.allowed(10**9) == 4 * 10**9
    assert memory.allowed(0) == memory.allowed(10**6) == 16 * 1024 * 1024


def test_the_first_of_equal_keys_stands_for_all():
    one, same, other = (tuple(range(count)) for count in (3, 3, 4))
    assert one is not same
    assert memory.first_equal(one) is memory.first_equal(same)
    assert memory.first_equal(other) == other
