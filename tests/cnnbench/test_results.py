"""Rows survive being written and read; a file is whole or as it was; nothing is overwritten."""

import datetime
import json
import math
import os
import re
import stat

import pytest

from cnnbench import results
from cnnbench.results import ResultsError, Row, Run

PROMISED = [
    "case",
    "problem",
    "op",
    "direction",
    "backend",
    "threads",
    "outcome",
    "reason",
    "error_over_bound",
    "seconds",
    "samples",
    "gflops",
    "ceiling_fraction",
    "extra_bytes",
    "first_call_seconds",
    "cached_first_call_seconds",
    "baseline",
    "ratio",
    "ratio_low",
    "ratio_high",
    "verdict",
]


def row(**changed):
    return Row("net.a", 'mb1ic1n"net.a*2"', "conv2d", "forward", "numpy", 2, "ok", **changed)


def written(run, path):
    run.paths = [path]
    run.write()
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"seconds": 0.5, "samples": [0.4, 0.6], "ratio": 1.5, "verdict": "FASTER", "layers": 3},
        {"details": {"loss": 0.1, "epochs": [{"loss": 0.1}], "note": "µ"}},
    ],
)
def test_a_row_that_was_written_is_read_as_it_was(tmp_path, changed):
    path = tmp_path / "run.json"
    run = Run({"cpu": "some"}, [row(**changed)])
    written(run, path)
    assert results.read(path) == run


def test_a_row_has_every_promised_name_and_its_details_beside_them():
    plain = row(details={"loss": 0.1}).as_json()
    assert set(PROMISED) <= set(plain)
    assert plain["loss"] == 0.1
    assert "details" not in plain


def test_details_do_not_hide_a_field():
    assert row(details={"backend": "other"}).as_json()["backend"] == "numpy"


def test_the_file_is_one_object_of_schema_environment_and_rows(tmp_path):
    plain = written(Run({"cpu": "some"}, [row(), row()]), tmp_path / "run.json")
    assert list(plain) == ["schema", "environment", "rows"]
    assert plain["schema"] == results.SCHEMA
    assert plain["environment"] == {"cpu": "some"}
    assert len(plain["rows"]) == 2


def test_what_json_has_no_number_for_is_null_wherever_it_stands(tmp_path):
    bad = row(
        ratio=math.nan,
        samples=[math.inf, 1.0],
        details={"epochs": [{"loss": -math.inf}], "pair": (math.nan, 2)},
    )
    plain = written(Run({"aa_floor": {"1": math.nan}}, [bad]), tmp_path / "run.json")
    (found,) = plain["rows"]
    assert (found["ratio"], found["samples"], found["pair"]) == (None, [None, 1.0], [None, 2])
    assert found["epochs"] == [{"loss": None}]
    assert plain["environment"]["aa_floor"] == {"1": None}


def test_adding_rows_writes_every_file_anew(tmp_path):
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    run = Run({}, paths=paths)
    for count in (1, 2, 3):
        run.add([row()])
        assert [len(results.read(path).rows) for path in paths] == [count, count]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "b.json"]


def test_a_row_that_cannot_be_written_leaves_the_old_file_whole(tmp_path):
    path = tmp_path / "run.json"
    run = Run({}, [row()], [path])
    run.write()
    before = path.read_bytes()
    run.rows.append(row(details={"array": object()}))
    with pytest.raises(TypeError):
        run.write()
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fails_leaves_the_old_file_whole_and_nothing_beside_it(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    run = Run({}, [row()], [path])
    run.write()
    before = path.read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(ResultsError, match=r"run\.json: cannot be written: No space left"):
        run.add([row()])
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_and_a_file_keeps_its_permissions(tmp_path):
    (tmp_path / "link.json").symlink_to("run.json")
    (tmp_path / "run.json").write_text("old")
    (tmp_path / "run.json").chmod(0o600)
    run = Run({}, paths=[results.claim(tmp_path / "link.json")])
    run.add([row()])
    assert results.read(tmp_path / "run.json").rows == run.rows
    assert (tmp_path / "link.json").is_symlink()
    assert stat.S_IMODE((tmp_path / "run.json").stat().st_mode) == 0o600


def test_a_pipe_gets_a_run_once_when_it_is_finished(pipe, tmp_path):
    path, got = pipe
    run = Run({}, paths=[results.claim(path), tmp_path / "run.json"])
    run.add([row()])
    run.add([row()])
    assert got() == b""
    assert len(results.read(tmp_path / "run.json").rows) == 2
    run.write(finished=True)
    assert json.loads(got()) == json.loads((tmp_path / "run.json").read_text())
    assert path.is_fifo()


def test_a_file_that_cannot_be_written_keeps_no_other_from_it(tmp_path):
    (tmp_path / "folder").mkdir()
    run = Run({}, [row()], [tmp_path / "folder", tmp_path / "none/a.json", tmp_path / "run.json"])
    with pytest.raises(ResultsError) as error:
        run.write()
    assert re.fullmatch(
        r".*/folder: cannot be written: .*; .*/none/a\.json: cannot be written: .*",
        str(error.value),
    )
    assert results.read(tmp_path / "run.json").rows == run.rows


def test_a_command_line_that_is_not_utf_8_is_read_as_it_was(tmp_path):
    words = ["cnnbench", "report", "--from", os.fsdecode(b"caf\xe9.json")]
    path = tmp_path / words[-1]
    Run({"command": words}, paths=[results.claim(path)]).write()
    assert results.read(path).environment["command"] == words
    assert path.read_bytes().isascii()


# --------------------------------------------------------------------------------------------
# where


def test_a_fresh_path_is_one_that_does_not_exist(tmp_path):
    seen = []
    for _ in range(3):
        path = results.fresh_path(tmp_path / "deep", "time")
        assert path not in seen
        Run({}, paths=[results.claim(path)]).write()
        seen.append(path)
    assert [path.name.startswith("time-") for path in seen] == [True] * 3
    assert results.fresh_path(tmp_path / "deep", "check").name.startswith("check-")


@pytest.mark.parametrize(
    ("subject", "stem"),
    [
        ("resnet50", "time-resnet50"),
        ("digits-layers", "time-digits-layers"),
        ("my_model:Network", "time-my-model-network"),
        ("s" * 300, f"time-{'s' * 60}"),
        ("", "time"),
    ],
)
def test_a_fresh_path_is_named_by_command_subject_and_date(tmp_path, subject, stem):
    today = datetime.date.today().isoformat()
    assert results.fresh_path(tmp_path, "time", subject).name == f"{stem}-{today}.json"
    assert results.fresh_path(tmp_path, "time", subject).name == f"{stem}-{today}-2.json"


def test_two_runs_that_begin_at_once_do_not_share_a_fresh_path(tmp_path):
    one = results.claim(results.fresh_path(tmp_path, "time"))
    other = results.claim(results.fresh_path(tmp_path, "time"))
    assert one != other


def test_claiming_makes_the_folder_and_leaves_a_file_as_it_is(tmp_path):
    path = tmp_path / "deep" / "er" / "run.json"
    assert results.claim(path) == path
    path.write_text("old")
    results.claim(path)
    assert path.read_text() == "old"
    assert [child.name for child in path.parent.iterdir()] == ["run.json"]


def test_what_cannot_be_written_is_refused_with_what_to_do(tmp_path):
    (tmp_path / "file").write_text("")
    message = "cannot be written: .*; name a folder that can be written, or make this one writable"
    for path in (tmp_path / "file" / "run.json", tmp_path / "file" / "deep" / "run.json"):
        with pytest.raises(ResultsError, match=re.escape(str(path)) + ": " + message):
            results.claim(path)
    with pytest.raises(ResultsError, match="expected a file to write to, and it is a folder"):
        results.claim(tmp_path)
    assert issubclass(ResultsError, OSError)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot be read: No such file"),
        (b"", "expected JSON written by cnnbench"),
        (b"{", "expected JSON written by cnnbench"),
        (b"\xff\xfe\x00", "expected JSON written by cnnbench"),
        (b"[]", "expected an object with schema 'cnnbench/1'"),
        (b'{"schema": "cnnbench/0", "rows": []}', "expected an object with schema 'cnnbench/1'"),
        (b'{"schema": "cnnbench/1"}', "expected"),
        (b'{"schema": "cnnbench/1", "environment": {}, "rows": {}}', "expected"),
        (b'{"schema": "cnnbench/1", "environment": {}, "rows": [{"case": "a"}]}', "expected"),
        (b'{"schema": "cnnbench/1", "environment": {}, "rows": [1]}', "expected"),
    ],
)
def test_a_file_that_is_none_of_ours_is_refused(tmp_path, text, message):
    path = tmp_path / "run.json"
    if text is not None:
        path.write_bytes(text)
    with pytest.raises(ResultsError, match=re.escape(message)) as error:
        results.read(path)
    assert str(error.value).startswith(str(path))


def test_a_folder_is_no_file_of_ours(tmp_path):
    with pytest.raises(ResultsError, match="cannot be read: Is a directory"):
        results.read(tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Intel(R) Xeon(R) CPU @ 2.20GHz 2 cores", "intel-r-xeon-r-cpu-2-20ghz-2-cores"),
        ("--A  b--", "a-b"),
        ("../../etc", "etc"),
        ("µ", "machine"),
        ("", "machine"),
    ],
)
def test_a_slug_is_a_folders_name(text, expected):
    assert results.slug(text) == expected


def test_a_file_in_the_way_is_set_aside_and_nothing_is_overwritten(tmp_path):
    path = tmp_path / "plan.json"
    assert results.set_aside(path) is None
    for text in ("first", "second"):
        path.write_text(text)
        older = results.set_aside(path)
        assert not path.exists()
        assert older.read_text() == text
    assert sorted(file.name for file in tmp_path.iterdir()) == ["plan-1.json", "plan-2.json"]


def test_what_a_link_leads_to_is_set_aside_and_the_link_stays(tmp_path):
    link, target = tmp_path / "plan.json", tmp_path / "plans/best.json"
    link.symlink_to(target)
    assert results.set_aside(link) is None
    target.parent.mkdir()
    target.write_text("old")
    older = results.set_aside(link)
    assert older == tmp_path / "plans/best-1.json"
    assert older.read_text() == "old"
    assert link.is_symlink()
    assert not link.exists()


def test_a_pipe_is_not_in_the_way(pipe):
    path, _ = pipe
    assert results.set_aside(path) is None
    assert path.is_fifo()


# --------------------------------------------------------------------------------------------
# reasons


def row_of(case, backend, outcome="ok", reason="", direction="forward"):
    return Row(case, f"mb1{case}", "conv2d", direction, backend, 1, outcome, reason)


def test_what_was_too_slow_takes_one_line_a_backend():
    slow = [
        row_of("a", "naive", "unsupported", "too slow (about 40 s)"),
        row_of("a", "naive", "unsupported", "too slow (about 40 s)", "backward"),
        row_of("b", "naive", "unsupported", "too slow (about 13 min)"),
        row_of("b", "numpy"),
    ]
    assert slow[0].why == "skipped: too slow (about 40 s)"
    assert results.reasons(slow) == ["naive: skipped: too slow (up to about 13 min)"]
    assert results.reasons(slow[:2]) == ["naive: skipped: too slow (about 40 s)"]
    assert results.reasons([row_of("c", "naive"), *slow]) == [
        "naive: skipped: too slow (up to about 13 min), 2 of 3 cases"
    ]


def test_other_reasons_are_one_line_each_with_their_cases():
    rows = [row_of(case, "torch-cuda", "unsupported", "no GPU") for case in "ab"]
    rows += [row_of("a", "numpy"), row_of("b", "numpy", "wrong", "y is 1, not 2")]
    rows.append(Row("(sum)", "", "conv2d", "forward", "numpy", 1, "wrong", "b: y is 1, not 2"))
    assert results.reasons(rows) == [
        "torch-cuda: unsupported: no GPU",
        "numpy: wrong: y is 1, not 2 (on b)",
    ]


# --------------------------------------------------------------------------------------------
# algorithms, and kernels that backends share


def test_an_algorithm_is_noted_with_its_error_over_its_own_bound():
    def row(case, **details):
        found = row_of(case, "mine", outcome="ok", reason="")
        found.details = details
        return found

    declared = {"algorithm": "F(4x4, 3x3)", "error_over_own_bound": 0.0123, "products": 9}
    rows = [row("a", **declared), row("b", **declared | {"error_over_own_bound": 0.2})]
    assert results.algorithms(rows) == [
        "mine: F(4x4, 3x3), errors at most 0.2 of the bound it declares"
    ]
    rows[0].gflops = 1.0
    assert results.algorithms(rows)[0].endswith("; GFLOP/s are effective: those of direct sums")
    rows.append(row("c", owner="other"))
    assert results.algorithms(rows)[1] == "mine: other's kernel on c"
    assert results.algorithms(rows[2:]) == ["mine: other's kernel on every case"]


def test_a_kernel_under_another_name_is_not_distinct_from_its_own():
    owned, borrowed = row_of("a", "other"), row_of("a", "mine")
    borrowed.details = {"owner": "other"}
    assert results.distinct([borrowed, owned]) == [owned]
    assert results.distinct([borrowed]) == [borrowed]
    elsewhere = row_of("b", "other")
    assert results.distinct([borrowed, elsewhere]) == [borrowed, elsewhere]


def test_the_newest_run_is_the_newest_with_a_row(tmp_path):
    with pytest.raises(ResultsError, match="no run in"):
        results.newest(tmp_path)
    for age, (name, rows) in enumerate({"old": 1, "new": 1, "interrupted": 0}.items()):
        path = tmp_path / f"{name}.json"
        Run({}, [Row("a", "", "conv2d", "forward", "x", 1, "ok")] * rows, [path]).write()
        os.utime(path, (age, age))
    assert results.newest(tmp_path).name == "new.json"


def test_samples_are_written_with_six_digits(tmp_path):
    row = Row("case", "problem", "conv2d", "forward", "numpy", 1, "ok")
    row.samples = [1 / 3, 2e-6 / 3, 1.0]
    row.details["cold_samples"] = [2 / 3]
    run = Run({}, [row], [tmp_path / "run.json"])
    run.write()
    (again,) = results.read(tmp_path / "run.json").rows
    assert again.samples == [0.333333, 6.66667e-07, 1.0]
    assert again.details["cold_samples"] == [0.666667]
    assert row.samples[0] == 1 / 3
