"""Descriptors convert to problems and back; errors mark their position."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cnnkernels.contract import Conv2D, MaxPool2D
from cnnkernels.descriptor import Case, DescriptorError, parse, parse_case

# --------------------------------------------------------------------------------------------
# round trips


@st.composite
def windows(draw):
    """Draw the geometry of a problem, both sides of padding and both axes apart or alike."""

    def pair(values):
        return draw(st.one_of(st.tuples(values, values), values.map(lambda value: (value, value))))

    kernel, stride, dilation = (pair(st.integers(1, most)) for most in (4, 4, 3))
    padding = pair(st.tuples(st.integers(0, 5), st.integers(0, 5)))
    spans = [d * (k - 1) + 1 for k, d in zip(kernel, dilation, strict=True)]
    least = [max(1, span - sum(pad)) for span, pad in zip(spans, padding, strict=True)]
    more = pair(st.integers(0, 8))
    return {
        "batch": draw(st.integers(0, 3)),
        "height": least[0] + more[0],
        "width": least[1] + more[1],
        "kernel_size": kernel,
        "stride": stride,
        "padding": padding,
        "dilation": dilation,
        "dtype": draw(st.sampled_from(("float32", "float64"))),
    }


@given(
    window=windows(),
    groups=st.integers(1, 3),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
)
@settings(deadline=None)
def test_a_convolution_is_read_back_from_its_descriptor(window, groups, channels, bias):
    in_channels, out_channels = (groups * each for each in channels)
    problem = Conv2D(
        in_channels=in_channels, out_channels=out_channels, groups=groups, bias=bias, **window
    )
    assert parse(str(problem)) == problem


@given(window=windows(), channels=st.integers(1, 3), ceil_mode=st.booleans())
@settings(deadline=None)
def test_a_pooling_is_read_back_from_its_descriptor(window, channels, ceil_mode):
    try:
        problem = MaxPool2D(channels=channels, ceil_mode=ceil_mode, **window)
    except ValueError:  # a window sees no pixel
        return
    assert parse(str(problem)) == problem


@pytest.mark.parametrize(
    ("problem", "descriptor"),
    [
        (
            Conv2D(64, 1, 8, 8, 8, 3, padding=1),
            "g1mb64ic1ih8oc8oh8kh3ph1",
        ),
        (
            Conv2D(2, 4, 9, 12, 6, (2, 3), (2, 1), (0, 1), (4, 3), 2, False, "float64"),
            "g2mb2ic4ih9iw12oc6oh3ow8kh2kw3sh2sw1ph0pw1dh3dw2bias0f64",
        ),
        (
            Conv2D(1, 3, 8, 8, 4, 2, padding="same"),
            "g1mb1ic3ih8oc4oh8kh2ph0",
        ),
        (
            Conv2D(1, 3, 8, 8, 4, 3, padding=((1, 1), (0, 2))),
            "g1mb1ic3ih8iw8oc4oh8ow8kh3kw3ph1pw0",
        ),
        (
            Conv2D(1, 3, 8, 8, 4, 3, padding=((1, 1), (1, 0))),
            "g1mb1ic3ih8iw8oc4oh8ow7kh3kw3ph1pw1",
        ),
        (
            MaxPool2D(2, 3, 9, 9, 3, 2, 1),
            "mb2ic3ih9oh5kh3sh2ph1",
        ),
        (
            MaxPool2D(2, 3, 8, 9, 2),
            "mb2ic3ih8iw9oh4ow4kh2kw2sh2sw2ph0pw0",
        ),
    ],
)
def test_the_canonical_descriptor_names_each_axis_only_where_they_differ(problem, descriptor):
    assert str(problem) == descriptor
    assert parse(descriptor) == problem


# --------------------------------------------------------------------------------------------
# parsing


@pytest.mark.parametrize(
    ("line", "case"),
    [
        (
            'ic3ih227oc96oh55kh11sh4ph0n"alexnet:01*1"',
            Case(Conv2D(50, 3, 227, 227, 96, 11, 4), "alexnet:01", 1),
        ),
        (
            'g2ic96ih27oc256oh27kh5ph2n"alexnet:02*1"',
            Case(Conv2D(50, 96, 27, 27, 256, 5, padding=2, groups=2), "alexnet:02", 1),
        ),
        (
            'ic3ih224oc64oh112kh7sh2ph3n"resnet18:01*1"',
            Case(Conv2D(50, 3, 224, 224, 64, 7, 2, 3), "resnet18:01", 1),
        ),
        (
            'ic64ih56oc64oh56kh3ph1n"resnet18:02*4"',
            Case(Conv2D(50, 64, 56, 56, 64, 3, padding=1), "resnet18:02", 4),
        ),
        (
            'ic64ih56oc128oh28kh1sh2ph0n"resnet18:05*1"',
            Case(Conv2D(50, 64, 56, 56, 128, 1, 2), "resnet18:05", 1),
        ),
        (
            'g64ic64ih112oc64oh56kh3sh2ph1n"mobilenet_v1:04*1"',
            Case(Conv2D(50, 64, 112, 112, 64, 3, 2, 1, groups=64), "mobilenet_v1:04", 1),
        ),
        (
            'ic512ih14oc512oh14kh3ph1n"vgg16:09*3"',
            Case(Conv2D(50, 512, 14, 14, 512, 3, padding=1), "vgg16:09", 3),
        ),
        (
            'mb96_ic3ih224iw224_oc64oh112ow112_kh7kw7_sh2sw2ph3pw3_n"resnet_50:conv1"',
            Case(Conv2D(96, 3, 224, 224, 64, 7, 2, 3), "resnet_50:conv1", 1),
        ),
        (
            'ic64ih112oh56kh3sh2ph1n"resnet18:pool*1"',
            Case(MaxPool2D(50, 64, 112, 112, 3, 2, 1), "resnet18:pool", 1),
        ),
    ],
)
def test_lines_of_real_networks_are_read(line, case):
    assert parse_case(line, batch=50) == case
    assert parse(line, batch=50) == case.problem
    assert parse_case(str(case)) == case


@pytest.mark.parametrize(
    ("short", "long"),
    [
        ("mb1ic2oc3ih5kh3", "g1mb1ic2oc3ih5iw5kh3kw3sh1sw1ph0pw0dh0dw0bias1f32"),
        ("mb1ic2oc3ih5iw7kh3sh2ph1dh1", "mb1ic2oc3ih5iw7kh3kw3sh2sw2ph1pw1dh1dw1"),
        ("mb1ic2oc3ih5iw7kh3ph1", "ph1kh3iw7ih5oc3ic2mb1"),
        ("mb1ic2oc3ih5iw7kh3ph1", " _mb1_ic2_oc3_ih5iw7_kh3_ph1_\n"),
        ("mb1ic2ih6kh2", "mb1ic2ih6oh5ow5kh2sh1"),
        ("mb1ic2ih6kh2", f"mb1ic2ih6kh{'0' * 5000}2"),
    ],
    ids=["defaults", "twins", "any order", "ignored", "pooling has stride 1", "zeros"],
)
def test_what_is_missing_has_a_default(short, long):
    assert parse(short) == parse(long)


@pytest.mark.parametrize(
    ("window", "padding"),
    [
        ("ih8kh3", ((0, 0), (0, 0))),  # neither
        ("ih8kh3ph1", ((1, 1), (1, 1))),  # ph alone
        ("ih8kh3ph1sh2", ((1, 0), (1, 0))),  # and trimmed
        ("ih8kh3oh8", ((1, 1), (1, 1))),  # oh alone
        ("ih8kh2oh8", ((0, 1), (0, 1))),  # the smaller half before
        ("ih8kh3oh4sh2", ((0, 1), (0, 1))),
        ("ih8kh3oh10ph1", ((1, 3), (1, 3))),  # both: what follows behind
        ("ih8kh3oh9ph3", ((3, 0), (3, 0))),
        ("ih8kh3oh8ow7pw0", ((1, 1), (0, 1))),  # each axis its own
        ("ih8kh3oh9ph1pw2", ((1, 2), (2, 2))),  # a pw of its own takes no ow from oh
        ("ih8iw6kh3oh9ph1", ((1, 2), (1, 1))),  # nor does an axis of another size
        ("ih8iw6kh3oh8", ((1, 1), (0, 0))),
    ],
)
def test_padding_follows_from_ph_and_oh(window, padding):
    assert parse(f"mb1ic1oc1{window}").padding == padding


def test_a_batch_that_is_missing_is_the_one_given():
    assert parse("ic1oc1ih4kh3", batch=7).batch == 7
    assert parse("mb3ic1oc1ih4kh3", batch=7).batch == 3
    assert parse("mb0ic1oc1ih4kh3").batch == 0


@pytest.mark.parametrize(
    ("quoted", "name", "layers"),
    [
        ("", "", 1),
        ('n"conv 1*3"', "conv 1", 3),
        ('n"conv1"', "conv1", 1),
        ('n"a*b*12"', "a*b", 12),
        ('n"a*b"', "a*b", 1),
        ('n"g3mb1"', "g3mb1", 1),
        ('n"*3"', "", 3),
        ('n"a\nb*2"', "a\nb", 2),
    ],
)
def test_name_and_layers_are_read_and_written(quoted, name, layers):
    case = parse_case(f"mb1ic1ih4kh2{quoted}")
    assert (case.name, case.layers) == (name, layers)
    assert case.problem == parse("mb1ic1ih4kh2")
    assert parse_case(str(case)) == case


def test_a_case_is_labelled_by_its_name_or_its_problem():
    case = parse_case('mb1ic1ih4kh2n"pool*2"')
    assert case.label == "pool"
    assert dataclasses.replace(case, name="").label == "mb1ic1ih4oh3kh2ph0"


# --------------------------------------------------------------------------------------------
# errors


END = None


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("mb1 ic1", 3, "expected a key and an integer"),
        ("mb1ic", 3, "expected a key and an integer"),
        ("mb1IC3", 3, "expected a key and an integer"),
        ("mb-1", 0, "expected a key and an integer"),
        ('mb1n"open', 3, "expected a key and an integer"),
        ("mb1ic1zz3", 6, "unknown key 'zz'"),
        ("mb1ic1id3", 6, "'id': only 2-D problems are known here"),
        ("mb1ic1mb2", 6, "'mb' is given twice"),
        ('n"a"mb1n"b"', 7, "'n' is given twice"),
        ("", 0, "'ic' is missing"),
        ("mb1ih4kh2", END, "'ic' is missing"),
        ("mb1ic1kh2", END, "'ih' is missing"),
        ("mb1ic1ih4", END, "'kh' is missing"),
        ("ic1ih4kh2", END, "'mb', the batch, is missing"),
        ("mb1f16ic1ih4kh2", 3, "expected f32 or f64, got f16"),
        ("mb1ic1oc1bias2ih4kh2", 9, "expected bias0 or bias1"),
        ("mb1g1ic1ih4kh2", 3, "'g' without 'oc'"),
        ("mb1ic1bias0ih4kh2", 6, "'bias' without 'oc'"),
        ('mb1ic1n"a*0"ih4kh2', 6, "at least one layer, got *0"),
        ("mb1ic1ih0kh2", 6, "expected 'ih' to be at least 1"),
        ("mb1ic1ih4kh2sw0", 12, "expected 'sw' to be at least 1"),
        ("mb1ic1ih4kh0", 9, "expected 'kh' to be at least 1"),
        ("mb1ic1ih4kh2oh0", 12, "'oh': expected at least 1, got 0"),
        ("mb1ic1ih9oh2kh2", 9, "'oh': 2 windows would leave pixels unread"),
        ("mb1ic1ih9ow2kh2oh8", 9, "'ow': 2 windows would leave pixels unread"),
        ("mb1ic0ih4kh2", END, "channels: expected at least 1, got 0"),
        ("mb1g2ic3oc2ih4kh2", END, "in_channels: expected a multiple of groups=2, got 3"),
        ("mb1ic1ih3kh5", END, "the kernel is 5 pixels high"),
        ("mb1ic1ih4kh2ph3", END, "would see no pixel"),
        ("mb1ic1ih4kh2n5", 12, "unknown key 'n'"),
        (f"mb1ic1ih{'9' * 20}kh2", 6, "'ih': expected a number of at most 281474976710656"),
        (f"mb1ic1ih{'9' * 5000}kh2", 6, "'ih': expected a number of at most 281474976710656"),
        ("mb1ic1ih4kh281474976710657", 9, "'kh': expected a number of at most"),
        (f'mb1ic1n"a*{"9" * 5000}"ih4kh2', 6, "'n': expected a number of at most"),
        ("mb1ic1ih4kh2ph281474976710656", END, "height, width, padding: expected at most"),
        ("mb1ic1ih4kh٢", 9, "expected a key and an integer"),
    ],
)
def test_an_error_marks_its_place_with_a_caret(text, place, what):
    with pytest.raises(DescriptorError) as caught:
        parse_case(text)
    message, shown, caret = str(caught.value).split("\n")
    assert message.startswith("descriptor: ")
    assert what in message
    assert shown == f"  {text}"
    assert caret.index("^") - len("  ") == (len(text) if place is END else place)


def test_a_descriptor_error_is_a_value_error():
    assert issubclass(DescriptorError, ValueError)
