"""How long is measured."""

from cnnbench.budget import Budget


def test_slow_sides_get_fewer_rounds_but_one_at_least():
    budget = Budget(rounds=12)
    assert [budget.rounds_for(side, 6.0) for side in (0.01, 0.25, 0.5, 1.0, 100.0)] == [
        12,
        12,
        6,
        3,
        1,
    ]
