"""Marks differ in color and shape."""

import itertools

from cnnbench.digits import trainers
from cnnbench.report import charts
from cnnbench.report.offline import COLOURS, SHAPES


def test_colours_and_shapes_differ_between_all_names_and_both_between_neighbours():
    assert len(COLOURS) == len(SHAPES) == len(set(COLOURS)) == len(set(SHAPES))
    names = [*trainers.names(), *map(str, range(64))][:64]
    looks = [(m["color"], m["symbol"]) for m in charts.colours(names).values()]
    assert len(set(looks)) == len(names)
    for one, other in itertools.pairwise(looks):
        assert one[0] != other[0]
        assert one[1] != other[1]
