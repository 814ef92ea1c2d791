"""Tables say everything within 80 columns, whatever the backends are called."""

import dataclasses
import io
import itertools
from collections import Counter

import pytest
from rich.console import Console

from cnnbench.report import tables
from cnnbench.report.tables import Sheet
from cnnbench.results import Row

BUILT_IN = ("naive", "numpy", "numba", "numba-simd", "torch-cpu", "torch-cpu-nhwc", "torch-cuda")
LONG = ("the-backend-of-a-stranger", "another-winograd-of-someone", "torch-cpu-nhwc", "numba-simd")
LONG_REASON = "y[0, 0, 0, 0] is 1.23456789, not 9.87654321 (12 of 3456 differ; integers) " * 3

CONV = "g17mb256ic1024ih224iw225oc1024oh112ow113kh3kw5sh2sw2ph1pw2dh1dw2bias0f64"
POOL = "mb256ic1024ih224iw225oh112ow113kh3kw5sh2sw2ph1pw2dh1dw2f64"
PROBLEMS = {"conv2d": CONV, "max_pool2d": POOL}

NUMBERS = (
    # seconds, gflops, ceiling fraction, error, ratio and its interval, verdict
    (81.3e-6, 1234.5, 0.99, 0.123, (1.0, 1.0, 1.0), "SAME"),
    (0.9994, 0.00123, 0.001, 0.0004, (1 / 2345, 1 / 2480, 1 / 2170), "SLOWER"),
    (3600.0, 99999.0, 1.04, 1.0, (123.0, 120.0, 125.0), "FASTER"),
    (None, None, None, None, (1.5, None, None), "UNCLEAR"),
)
OUTCOMES = ("ok", "wrong", "failed", "unsupported")


def row_of(case, op, direction, backend, outcome, numbers=NUMBERS[0], threads=2):
    seconds, gflops, fraction, error, ratio, verdict = numbers
    row = Row(case, f'{PROBLEMS[op]}n"{case}*3"', op, direction, backend, threads, outcome)
    if outcome != "ok":
        row.reason = LONG_REASON
        return row
    row.error_over_bound, row.repeatable = error, backend != "torch-cpu-nhwc"
    row.seconds, row.samples, row.processes = seconds or 1.0, [1.0, 1.0] * 3, 3
    row.gflops = None if op == "max_pool2d" else gflops
    row.ceiling_fraction = fraction
    row.first_call_seconds, row.cached_first_call_seconds = 1.23, 0.000456
    row.baseline, row.verdict = "torch-cpu-nhwc", verdict
    row.ratio, row.ratio_low, row.ratio_high = ratio
    if backend == "torch-cpu-nhwc":
        row.nchw_seconds = 0.00123
    return row


def layer_rows(backends, cases=("resnet50-v1.5.01", "resnet50-v1.5.02"), threads=(2,)):
    """Return rows with every outcome, of a network's layers and their sum."""
    outcomes, figures = itertools.cycle(OUTCOMES), itertools.cycle(NUMBERS)
    rows = []
    for count, case, op in itertools.product(threads, cases, PROBLEMS):
        directions = ("forward", "backward_data", "backward_weights", "backward")
        for backend in backends:
            outcome = "ok" if backend == backends[0] else next(outcomes)
            for direction in directions if op == "conv2d" else directions[::3]:
                rows.append(
                    row_of(f"{case}.{op}", op, direction, backend, outcome, next(figures), count)
                )
    for backend in backends:
        total = row_of("resnet50-v1.5 (sum)", "conv2d", "forward", backend, "ok", next(figures))
        total.problem = ""
        rows.append(total)
    return rows


def train_rows(backends):
    rows = []
    for backend, outcome in zip(backends, itertools.cycle(OUTCOMES), strict=False):
        row = Row("digits", "digits CNN, 10 epochs, batch 64, float32, seed 42", "train", "train",
                  backend, 2, outcome)  # fmt: skip
        if outcome == "ok":
            epochs = [{"loss": 0.1, "train_accuracy": 1.0, "test_accuracy": 0.971}] * 10
            row.details = {
                "loss": 12.3456,
                "train_accuracy": 0.998,
                "test_accuracy": 0.971,
                "steps": 220,
                "all_steps": 220,
                "seconds_per_step": 0.0123,
                "epochs": epochs,
                "step_losses": [],
                "first_epoch_loss_difference": 3e-7,
                "loss_difference": 0.1,
            }
            row.seconds, row.samples = 12.3, [12.3, 12.3]
            row.first_call_seconds, row.cached_first_call_seconds = 12.3, 1.23
            row.baseline, row.verdict = "torch-cpu-nhwc", "UNCLEAR"
            row.ratio, row.ratio_low, row.ratio_high = 1 / 234, 1 / 248, 1 / 217
        else:
            row.reason = LONG_REASON
        rows.append(row)
    return rows


def stopped_row():
    (row,) = train_rows(["naive"])
    row.details |= {"steps": 5, "train_accuracy": None, "test_accuracy": None, "epochs": []}
    row.samples, row.ratio, row.ratio_low, row.ratio_high = [], None, None, None
    row.reason = "trained 5 of 220 steps in 10.1 s, then stopped; --full trains to the end"
    return row


def sheets_of(backends):
    layers = layer_rows(backends)
    nameless = [row_of(CONV, "conv2d", "forward", name, "ok") for name in backends]
    return {
        **{f"check {i}": sheet for i, sheet in enumerate(tables.check_sheets(layers))},
        **{
            f"check of several thread counts {i}": sheet
            for i, sheet in enumerate(tables.check_sheets(layer_rows(backends, threads=(1, 16))))
        },
        **{
            f"check of a descriptor {i}": sheet
            for i, sheet in enumerate(tables.check_sheets(nameless))
        },
        **{f"time {i}": sheet for i, sheet in enumerate(tables.time_sheets(layers))},
        **{f"time, nameless {i}": s for i, s in enumerate(tables.time_sheets(nameless))},
        "first call": tables.first_call_sheet(layers),
        "train": tables.train_sheet([*train_rows(backends), stopped_row()]),
        "epochs": tables.epochs_sheet("PyTorch's own: " + "BatchNorm, " * 9, [
            {"loss": 2.0222, "train_accuracy": 0.552, "test_accuracy": 1.0}
        ]),
    }  # fmt: skip


SHEETS = {
    f"{kind}, {which}": sheet
    for which, backends in (("built-in", BUILT_IN), ("long", LONG))
    for kind, sheet in sheets_of(backends).items()
}


def printed(sheet, width=80):
    console = Console(file=io.StringIO(), width=width)
    tables.show(console, sheet)
    return console.file.getvalue()


def letters(text):
    return "".join(text.split())


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_no_sheet_is_wider_than_80_columns(sheet):
    assert max(map(len, printed(sheet).splitlines())) <= 80


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_nothing_of_a_sheet_is_cut(sheet):
    text = printed(sheet)
    assert "…" not in text
    for around in (sheet.title, *sheet.notes):
        assert letters(around) in letters(text)
    table = letters(printed(dataclasses.replace(sheet, title="", notes=()))).replace("─", "")
    cells = itertools.chain(sheet.columns, *sheet.rows)
    assert Counter(table) == Counter(letters("".join(cells)))


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_no_number_is_folded(sheet):
    text = printed(sheet)
    for line in sheet.rows:
        assert all(cell in text for cell in line[sheet.texts :])


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_every_row_has_as_many_cells_as_there_are_columns(sheet):
    assert {len(line) for line in sheet.rows} - {0} <= {len(sheet.columns)}


@pytest.mark.parametrize("sheet", SHEETS.values(), ids=SHEETS)
def test_markdown_has_the_same_cells(sheet):
    lines = tables.markdown(sheet).splitlines()
    assert lines[0] == f"**{sheet.title}**"
    cells = [
        tuple(cell.strip() for cell in line[1:-1].split("|"))
        for at, line in enumerate(lines)
        if line.startswith("| ") and at != 3  # which is the line below the heading
    ]
    assert cells == [sheet.columns, *filter(None, sheet.rows)]
    assert [line[2:] for line in lines if line.startswith("- ")] == list(sheet.notes)


def test_markdown_aligns_numbers_to_the_right():
    sheet = Sheet("t", ("a", "b", "c"), (("1", "2", "3"),), texts=2)
    assert tables.markdown(sheet).splitlines()[3] == "| --- | --- | ---: |"


def test_an_empty_sheet_is_printed():
    assert "t" in printed(Sheet("t", ("a", "b"), ()))


# --------------------------------------------------------------------------------------------
# what the sheets say


def test_the_check_sheet_says_the_worst_outcome_of_all_directions_and_the_largest_error():
    rows = [
        row_of("a", "conv2d", "forward", "numpy", "ok", NUMBERS[1]),
        row_of("a", "conv2d", "backward", "numpy", "ok", NUMBERS[0]),
        row_of("a", "conv2d", "forward", "bad", "ok"),
        row_of("a", "conv2d", "backward", "bad", "wrong"),
        row_of("b", "conv2d", "forward", "bad", "failed"),
        row_of("b", "conv2d", "forward", "numpy", "unsupported"),
    ]
    (sheet,) = tables.check_sheets(rows)
    assert sheet.columns == ("case", "numpy", "bad")
    assert sheet.rows == (("a", "ok 0.123", "wrong"), ("b", "unsupported", "failed"))
    assert sheet.notes == (
        f"bad: wrong on a: {LONG_REASON}",
        f"bad: failed on b: {LONG_REASON}",
        f"numpy: unsupported on b: {LONG_REASON}",
    )


def test_a_backend_that_ran_nowhere_for_one_reason_is_a_note_and_no_column():
    rows = [row_of(case, "conv2d", "forward", "torch-cuda", "unsupported") for case in "ab"]
    rows += [row_of(case, "conv2d", "forward", "numpy", "ok") for case in "ab"]
    (sheet,) = tables.check_sheets(rows)
    assert sheet.columns == ("case", "numpy")
    assert sheet.notes == (f"torch-cuda: unsupported: {LONG_REASON}",)


def test_many_backends_are_set_abreast_in_several_check_sheets_with_the_notes_below_the_last():
    names = [f"backend-{number}" for number in range(7)]
    rows = [row_of("a", "conv2d", "forward", name, "ok") for name in names]
    rows.append(row_of("a", "conv2d", "forward", "absent", "unsupported"))
    first, last = tables.check_sheets(rows)
    assert first.columns + last.columns[1:] == ("case", *names)
    assert first.notes == ()
    assert last.notes == (f"absent: unsupported: {LONG_REASON}",)


def test_the_check_sheet_tells_thread_counts_apart_and_who_does_not_repeat_itself():
    rows = [
        row_of("a", "conv2d", "forward", "torch-cpu-nhwc", "ok", threads=threads)
        for threads in (1, 2)
    ]
    (sheet,) = tables.check_sheets(rows)
    assert [line[0] for line in sheet.rows] == ["a (1 thread)", "a (2 threads)"]
    assert sheet.notes == ("torch-cpu-nhwc: gives other bits from run to run",)


def test_a_time_sheet_has_a_section_a_direction_and_a_line_a_timed_backend():
    rows = [
        row_of("a", "conv2d", direction, backend, outcome)
        for backend, outcome in (("numpy", "ok"), ("torch-cpu-nhwc", "ok"), ("bad", "wrong"))
        for direction in ("forward", "backward")
    ]
    (sheet,) = tables.time_sheets(rows)
    assert sheet.title == f"a  {CONV}  2 threads"
    assert sheet.columns[-2:] == ("vs torch-cpu-nhwc", "verdict")
    assert [line[0] if line else "" for line in sheet.rows] == [
        "forward",
        "numpy",
        "torch-cpu-nhwc",
        "",
        "backward",
        "numpy",
        "torch-cpu-nhwc",
    ]
    assert sheet.rows[1] == (
        "numpy", "81.3 us", "1234", "99%", "0.123", "1.00x [1.00, 1.00]", "SAME",
    )  # fmt: skip
    assert sheet.notes == (
        f"bad: wrong: {LONG_REASON}",
        "torch-cpu-nhwc with conversion from and to NCHW: forward 1.23 ms, backward 1.23 ms",
    )


def test_a_quick_look_is_named_so_and_leaves_unclear_verdicts_out():
    rows = [
        dataclasses.replace(row_of("a", "conv2d", "forward", name, "ok"), processes=1, verdict=said)
        for name, said in (("numpy", "SAME"), ("fast", "FASTER"), ("near", "UNCLEAR"))
    ]
    (sheet,) = tables.time_sheets(rows)
    assert sheet.title.endswith(
        "2 threads  (a quick look, with verdicts on large differences only)"
    )
    assert [line[-1] for line in sheet.rows] == ["", "SAME", "FASTER", ""]
    rows[0].samples = [1.0] * 12
    (sheet,) = tables.time_sheets(rows)
    assert sheet.title.endswith("2 threads")
    assert sheet.rows[-1][-1] == "UNCLEAR"


def test_sides_that_other_programs_slowed_down_are_counted():
    rows = [row_of("a", "conv2d", d, "numpy", "ok") for d in ("forward", "backward")]
    rows.append(row_of("a", "conv2d", "forward", "fast", "ok"))
    assert next(tables.time_sheets(rows)).notes == ()
    rows[0].details |= {"repeated_sides": 2, "disturbed_sides": 1}
    rows[1].details |= {"repeated_sides": 1, "disturbed_sides": 0}
    assert next(tables.time_sheets(rows)).notes == (
        "repeated, as other programs slowed them down: 3 of 12 sides of numpy (1 slowed again)",
    )


def test_the_sums_of_layers_make_one_table_within_80_columns():
    rows = []
    for backend, ratio in (("torch-cpu", 1.0), ("numba-winograd-f4", 12.3), ("naive", 1 / 2509)):
        for op, direction in itertools.product(("conv2d", "max_pool2d"), ("forward", "backward")):
            row = row_of("digits (sum)", op, direction, backend, "ok")
            row.problem, row.ratio, row.baseline = "", ratio, "torch-cpu"
            rows.append(row)
    rows.append(row_of("digits (sum)", "conv2d", "forward", "absent", "unsupported"))
    rows[-1].problem = ""
    rows[-2].seconds = None
    sheet = tables.layers_sheet(rows)
    assert sheet.title == "Layers of digits, summed, and the speed relative to torch-cpu"
    assert sheet.columns[:2] == ("backend", "convolutions, forward")
    assert [line[0] for line in sheet.rows] == ["torch-cpu", "numba-winograd-f4", "naive"]
    assert sheet.rows[1][1] == "81.3 us 12.3x"
    assert sheet.rows[2] == ("naive", *["81.3 us 1/2509"] * 3, "-")
    console = Console(width=80, file=io.StringIO())
    tables.show(console, sheet)
    assert max(map(len, console.file.getvalue().splitlines())) <= 80
    for backend in ("torch-cpu", "numba-winograd-f4", "naive"):
        assert backend in console.file.getvalue()


def test_two_problems_of_one_name_have_a_sheet_each():
    one = row_of("a", "conv2d", "forward", "numpy", "ok")
    other = row_of("a", "conv2d", "forward", "numba", "ok")
    other.problem = 'mb1ic1ih8oc1kh3n"a*1"'
    first, second = tables.time_sheets([one, other])
    assert [line[0] for line in first.rows] == ["forward", "numpy"]
    assert [line[0] for line in second.rows] == ["forward", "numba"]


def test_first_calls_are_shown_once_for_each_backend_operation_and_direction():
    rows = layer_rows(("numpy", "numba"))
    sheet = tables.first_call_sheet(rows)
    names = [line[0] for line in sheet.rows]
    assert len(names) == len(set(names))
    assert "numpy, conv2d backward_weights" in names
    assert sheet.rows[0][1:3] == ("1.23 s", "456 us")


def test_the_train_sheet_has_a_line_for_who_trained_and_the_reason_for_who_did_not():
    rows = [*train_rows(("numpy", "wrong")), stopped_row()]
    sheet = tables.train_sheet(rows)
    assert sheet.title.endswith("seed 42, 2 threads")
    assert sheet.rows == (
        ("numpy", "12.3456", "0.998", "0.971", "12.3 s", "12.3 ms", "1/234 [1/248, 1/217]",
         "UNCLEAR"),
        ("naive", "12.3456", "-", "-", "12.3 s*", "12.3 ms", "-", ""),
    )  # fmt: skip
    assert sheet.notes[:2] == (f"* naive: {stopped_row().reason}", f"wrong: wrong: {LONG_REASON}")
    assert "losses differ from float64's by at most 3e-07 of themselves" in sheet.notes[2]


def test_nobody_who_is_not_ok_has_a_time_in_the_train_sheet():
    (row,) = train_rows(["bad"])
    row.outcome, row.reason, row.seconds = "wrong", "subtly", None
    sheet = tables.train_sheet([row])
    assert sheet.rows == ()
    assert sheet.notes == ("bad: wrong: subtly",)
