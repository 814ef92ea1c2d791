"""The A/A floor and what it is measured on."""

import pytest

from cnnbench.budget import Budget
from cnnbench.cases import CaseSet
from cnnbench.judging import floor
from cnnkernels.descriptor import parse_case


@pytest.mark.parametrize(
    ("found", "middle"), [([0.04], 0.04), ([3.0, 0.03, 0.05], 0.05), ([0.2, 0.3, 0.1], 0.2)]
)
def test_a_floor_above_what_is_worth_comparing_is_the_middle_of_three(found, middle, monkeypatch):
    left = iter(found)
    monkeypatch.setattr(floor, "_floor", lambda *_: next(left))
    assert floor.measure_floor("numpy", 1, [], Budget()) == middle
    assert list(left) == []


def test_the_probes_are_the_smallest_case_and_the_median_of_those_with_images():
    sizes = [parse_case(f"mb{batch}ic3ih8oc4kh3") for batch in (9, 0, 5, 1, 7, 3)]
    found = floor.probes([CaseSet("", tuple(sizes[:3])), CaseSet("", tuple(sizes[3:]))])
    assert [case.problem.batch for case in found] == [1, 5]
    assert floor.probes([CaseSet("", (sizes[1],))]) == []
    assert floor.probes([CaseSet("", (sizes[0],))]) == [sizes[0]]
