"""What commands print below their tables."""

from rich.console import Console

from cnnbench.cli import tables
from cnnbench.results import Row, Run


def shown(capsys, function, *arguments):
    function(Console(markup=False, emoji=False, width=200), *arguments)
    return capsys.readouterr().out


def test_a_busy_machine_is_warned_of_at_each_thread_count(capsys):
    busy = shown(capsys, tables.show_busy, Run({"aa_floor": {"1": 0.01, "2": 0.146}}))
    assert busy == (
        "This machine was busy: two identical runs differed by 14.6 %. "
        "Close other programs and measure again. (2 threads)\n"
    )
    assert shown(capsys, tables.show_busy, Run({"aa_floor": {"1": 0.01, "2": None}})) == ""
    assert shown(capsys, tables.show_busy, Run({})) == ""


def test_times_explain_the_floor_and_skip_a_slow_backend_once(capsys):
    rows = []
    for case in "ab":
        timed = Row(case, f"mb1{case}", "conv2d", "forward", "numpy", 1, "ok", seconds=1.0)
        slow = Row(case, f"mb1{case}", "conv2d", "forward", "naive", 1, "unsupported")
        slow.reason = "too slow (about 13 min)"
        rows += [timed, slow]
    out = shown(capsys, tables.show_times, rows, {"aa_floor": {"1": 0.05}})
    assert out.count("naive") == 1
    assert "naive: skipped: too slow (about 13 min)" in out
    assert "1 thread: A/A floor 5.0 %\n" + tables.FLOOR_IN_WORDS in out
