"""A request as the command line that a machine runs."""

from cnnbench.cases import load
from cnnbench.sweep.requests import Request


def test_cases_come_back_from_a_command_line_as_they_were(tmp_path):
    sets = load("digits,resnet18,mb2ic3ih8oc4kh3ph1", batch=4)
    request = Request.of("time", ["--quick"], sets)
    command, option, name, cases = request.command_line(tmp_path)
    assert (command, option, name) == ("time", "--quick", "--cases")
    assert {(group.name, str(case)) for group in load(cases) for case in group.cases} == {
        (group.name, str(case)) for group in sets for case in group.cases
    }


def test_part_of_a_set_keeps_its_name_and_layers(tmp_path):
    sets = load("resnet18")
    request = Request.of("time", [], sets)
    part = request.only(request.cases[3:5])
    (again,) = load(part.command_line(tmp_path)[-1])
    assert again.name == "resnet18"
    assert again.cases == sets[0].cases[3:5]


def test_a_command_without_cases_is_as_it_was_typed(tmp_path):
    assert Request("train", ("--epochs", "2")).command_line(tmp_path) == ["train", "--epochs", "2"]
