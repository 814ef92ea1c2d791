"""The sets are the networks that they are named for; files and descriptors are read as benchdnn."""

import re

import pytest

from cnnbench import cases
from cnnbench.cases import SETS, CaseError
from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.descriptor import parse_case

NETWORKS = {
    # name: convolution layers, 10^9 multiply-adds an image, taps on padding included
    "alexnet": (5, 0.666),
    "mobilenet-v1": (27, 0.57),
    "resnet18": (20, 1.81),
    "resnet50": (53, 3.86),
    "resnet50-v1.5": (53, 4.09),
    "vgg16": (13, 15.35),
}


def only(text, *arguments):
    """Return the problem of the only case that a text stands for."""
    (group,) = cases.load(text, *arguments)
    (case,) = group.cases
    return case.problem


@pytest.mark.parametrize("name", SETS)
def test_every_set_loads_and_its_cases_have_names_of_their_own(name):
    (group,) = cases.load(name)
    assert group.name == name
    assert len({case.label for case in group.cases}) == len(group.cases)
    for case in group.cases:
        assert parse_case(str(case)) == case


@pytest.mark.parametrize(("name", "published"), NETWORKS.items())
def test_a_network_has_the_published_layers_and_work(name, published):
    (group,) = cases.load(name, batch=1)
    work = 0
    for case in group.cases:
        assert isinstance(case.problem, Conv2D)
        shapes = case.problem.shapes
        filters, *taps = shapes.w
        work += case.layers * filters * taps[0] * taps[1] * taps[2] * shapes.y[2] * shapes.y[3]
        assert case.name.startswith(f"{name}.")
    assert sum(case.layers for case in group.cases) == published[0]
    assert work / 1e9 == pytest.approx(published[1], rel=0.01)


@pytest.mark.parametrize(("name", "layers"), [("digits", 4), ("digits-deep", 5), ("pools", 9)])
def test_small_sets_have_each_layer_once(name, layers):
    (group,) = cases.load(name)
    assert [case.layers for case in group.cases] == [1] * layers


def test_pools_are_pools_and_digits_chain():
    (pools,) = cases.load("pools")
    assert all(isinstance(case.problem, MaxPool2D) for case in pools.cases)
    for name in ("digits", "digits-deep"):
        (digits,) = cases.load(name)
        for before, after in zip(digits.cases, digits.cases[1:], strict=False):
            assert before.problem.shapes.y == after.problem.shapes.x


def test_several_are_loaded_in_the_order_they_are_given():
    found = cases.load("alexnet, mb2ic3ih8oc4kh3 ,digits")
    assert [group.name for group in found] == ["alexnet", "", "digits"]


# --------------------------------------------------------------------------------------------
# batch and dtype


@pytest.mark.parametrize(
    ("line", "batch", "expected"),
    [
        ("ic3ih8oc4kh3", None, 5),
        ("ic3ih8oc4kh3", 2, 2),
        ("ic3ih8oc4kh3", 0, 0),
        ("mb7ic3ih8oc4kh3", None, 7),
        ("mb7ic3ih8oc4kh3", 2, 7),
    ],
)
def test_a_batch_is_the_descriptors_else_the_given_one_else_the_files(
    tmp_path, line, batch, expected
):
    path = tmp_path / "mine.txt"
    path.write_text(f"--mb=5\n{line}\n")
    assert only(str(path), batch).batch == expected


def test_the_batch_line_holds_for_what_follows_it(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("ic3ih8oc4kh3\n--mb=3\nic3ih8oc4kh3\n--mb=0\nic3ih8oc4kh3\n")
    ((group),) = cases.load(str(path))
    assert [case.problem.batch for case in group.cases][1:] == [3, 0]


@pytest.mark.parametrize(("batch", "expected"), [(0, 0), (1, 1), (13, 13)])
def test_a_batch_given_for_a_lone_descriptor_is_taken(batch, expected):
    assert only("ic3ih8oc4kh3", batch).batch == expected
    assert only("mb4ic3ih8oc4kh3", batch).batch == 4


def test_a_dtype_is_put_in_place_of_the_descriptors():
    for group in cases.load("digits,mb2ic3ih8oc4kh3,mb2ic3ih8kh2f64,corner", None, "float64"):
        assert {case.problem.dtype for case in group.cases} == {"float64"}
    assert only("mb2ic3ih8oc4kh3f64", None, "float32").dtype == "float32"
    assert only("mb2ic3ih8oc4kh3f64").dtype == "float64"


# --------------------------------------------------------------------------------------------
# files

BENCHDNN = """\
# Copyright, and what the file is about
--mb=3

ic3iw224ih224oc64oh112ow112kh7kw7sh2sw2ph3pw3n"net:conv1"
g2mb1ic16_ih8_oc32oh8_kh3_ph1dh0n"net:grouped*4"   # a comment after it

 ic8ih5iw7oc4oh5ow7kh3kw3ph1pw1dh0dw0n"net:wide*2"
ic8ih10oc4oh6kh3ph0dh1
"""


def test_a_file_in_the_style_of_benchdnn_is_read(tmp_path):
    path = tmp_path / "shapes_net"
    path.write_text(BENCHDNN)
    (group,) = cases.load(str(path))
    assert group.name == "shapes_net"
    assert [(case.name, case.layers) for case in group.cases] == [
        ("net:conv1", 1),
        ("net:grouped", 4),
        ("net:wide", 2),
        ("", 1),
    ]
    assert [case.problem for case in group.cases] == [
        Conv2D(3, 3, 224, 224, 64, 7, stride=2, padding=3),
        Conv2D(1, 16, 8, 8, 32, 3, padding=1, groups=2),
        Conv2D(3, 8, 5, 7, 4, 3, padding=1),
        Conv2D(3, 8, 10, 10, 4, 3, dilation=2),
    ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected at least one descriptor"),
        ("# nothing\n--mb=2\n", "expected at least one descriptor"),
        ("ic3ih8oc4kh3\n\nic3ih8oc4xx3\n", "line 3: descriptor: unknown key 'xx'"),
        ("--dir=FWD_B\nic3ih8oc4kh3\n", "line 1: expected the option --mb=N, got --dir="),
        ("--mb=x\nic3ih8oc4kh3\n", "line 1: expected the option --mb=N, got --mb=x"),
        ("ic3id8ih8oc4kh3\n", "line 1: descriptor: 'id': only 2-D problems are known here"),
        (b"ic3ih8oc4kh3\n\xff\xfe\n", "cannot be read: 'utf-8' codec"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_line(tmp_path, text, message):
    path = tmp_path / "mine.txt"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CaseError, match=re.escape(message)) as error:
        cases.load(str(path))
    assert str(error.value).startswith(str(path))


# --------------------------------------------------------------------------------------------
# what is no case


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no cases given; expected a set (digits, "),
        (" , ", "no cases given; expected a set (digits, "),
        ("resnet5", "'resnet5' is no set (did you mean 'resnet50'?), file or descriptor; the sets"),
        ("digits,nonsense", "'nonsense' is no set, file or descriptor; the sets are digits, "),
        ("no/such/file.txt", "'no/such/file.txt' is no set"),
        (".", "'.' is no set, file or descriptor"),
        ("x" * 300, "is no set, file or descriptor"),
    ],
)
def test_a_name_that_is_nothing_is_answered_with_what_there_is(text, message):
    with pytest.raises(CaseError, match=re.escape(message)):
        cases.load(text)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("mb2ic3ih8oc4kh3zz9", "zz9", "unknown key 'zz'"),
        ("mb2ic3ih8oc4kh3ic3", "ic3", "'ic' is given twice"),
        ("mb2ic3ih8oc4kh3ph", "ph", "expected a key and an integer"),
        ("mb2ic3ih8oc4oh2kh3ph0", "oh2", "would leave pixels unread"),
        ("mb2ic3ih8oc4", "", "'kh' is missing"),
        ("mb2ih8oc4kh3", "", "'ic' is missing"),
        ("mb2icXih8oc4kh3", "icX", "expected a key and an integer"),
        ('mb2ic3ih8oc4kh3n"a*0"', 'n"a', "expected at least one layer"),
        ("mb2ic3ih8oc4kh9", "", "does not fit the padded image"),
        ("g2mb2ic3ih8oc4kh3", "", "expected a multiple of groups=2, got 3"),
    ],
)
def test_a_malformed_descriptor_is_shown_with_the_place_marked(text, place, what):
    with pytest.raises(CaseError, match=re.escape(what)) as error:
        cases.load(text)
    _, shown, caret = str(error.value).splitlines()
    assert shown.strip() == text
    at = text.rindex(place) if place else len(text)
    assert caret == " " * (shown.index(text) + at) + "^"


# --------------------------------------------------------------------------------------------
# windows that see only padding


@pytest.mark.parametrize(
    ("text", "size", "padding"),
    [
        ("ic64ih56oc64oh99kh3ph1", "'oh99'", 44),
        ("ic64ih56oc64oh99kh3", "'oh99'", 23),
        ("ic64ih56iw56oc64oh56ow99kh3ph1", "'ow99'", 44),
    ],
)
def test_an_output_larger_than_padding_explains_is_refused(text, size, padding, tmp_path):
    message = f"{size}: {padding} pixels of padding would follow the image"
    with pytest.raises(CaseError, match=message):
        cases.load(text)
    file = tmp_path / "layers.txt"
    file.write_text(text)
    with pytest.raises(CaseError, match=rf"line 1: (.|\n)*{message}"):
        cases.load(str(file))


@pytest.mark.parametrize(
    "text",
    [
        "ic3ih7oc4oh4kh3sh2ph0",  # asymmetric: one row of padding, after the image
        "ic4ih8oc5oh12kh3ph3",  # symmetric, as PyTorch allows
        "ic4ih8oc5kh1ph1",
        "ic17ih8oc17oh5kh3ph3sh2",
    ],
)
def test_other_padding_is_taken_as_written(text):
    assert len(cases.load(text)[0].cases) == 1
