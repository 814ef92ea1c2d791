"""The table of verdicts on copies: what is false, what is found."""

from cnnbench.report import index, verdicts
from cnnbench.results import Row, Run


def row(backend, slower, seconds, verdict, ratio=1.0):
    found = Row("digits.conv1", "d", "conv2d", "forward", backend, 1, "ok", seconds=seconds)
    found.baseline, found.verdict, found.processes = "numpy", verdict, 4
    found.ratio, found.ratio_low, found.ratio_high = ratio, ratio / 1.01, ratio * 1.01
    found.details["slower"] = slower
    return found


def test_verdicts_are_counted_by_slowdown_and_length_and_false_ones_are_named():
    base = Row("digits.conv1", "d", "conv2d", "forward", "numpy", 1, "ok", seconds=1e-5)
    base.baseline, base.verdict = "numpy", "SAME"
    run = Run(
        {"aa_floor": {"1": 0.021}},
        [
            base,
            row("one", 0.0, 1e-5, "SAME"),
            row("two", 0.0, 1e-5, "FASTER", 1.07),
            row("one", 0.0, 5e-3, "UNCLEAR"),
            row("slow", 0.05, 5e-3, "SLOWER"),
            row("slow", 0.05, 4e-4, "UNCLEAR"),
        ],
    )
    sheet = verdicts.sheet(run)
    assert sheet.title == "Verdicts on copies of numpy"
    assert [line for line in sheet.rows if line] == [
        ("identical, under 20.0 us", "2", "1", "0", "1", "0", "4.0"),
        ("identical, 1.00 ms and more", "1", "0", "0", "0", "1", "4.0"),
        ("5 % slower, 20.0 us to 1.00 ms", "1", "0", "0", "0", "1", "4.0"),
        ("5 % slower, 1.00 ms and more", "1", "0", "1", "0", "0", "4.0"),
    ]
    assert sheet.notes == (
        "A/A floor with 1 thread: 2.1 %",
        "false verdicts: 1 of 3 pairs of identical backends; "
        "digits.conv1 forward 1.07x [1.06, 1.08]",
    )


def test_the_index_has_the_false_verdicts_of_such_a_run():
    run = Run({"command": ["cnnbench"]}, [row("one", 0.0, 1e-5, "SAME")])
    assert index.sentence(run) == "False verdicts: 0 of 1 pair of identical backends."
