"""Commands that check, time and train: whole files, and honest exit codes."""

import json
import os
import re

import pytest

from cnnbench import results

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("exact_once")]

TINY = "mb2ic3ih6oc4oh6kh3ph1"

PROMISED = """
    case problem op direction backend threads outcome reason error_over_bound seconds samples
    gflops ceiling_fraction extra_bytes first_call_seconds cached_first_call_seconds baseline
    ratio ratio_low ratio_high verdict
"""


def test_check_prints_a_table_and_keeps_the_rows_twice(command, tmp_path):
    code, out, _ = command(
        "check", "--backends", "numpy,naive", "--cases", f'{TINY}n"tiny*2"', "--threads", "1",
        "--json", "deep/out.json",
    )  # fmt: skip
    assert code == 0
    assert re.search(r"^ *tiny +ok [\d.]+ +ok [\d.]+ *$", out, re.MULTILINE)
    plain = json.loads((tmp_path / "deep" / "out.json").read_text())
    assert list(plain) == ["schema", "environment", "rows"]
    assert plain["environment"]["command"][:2] == ["cnnbench", "check"]
    assert {"versions", "cpu", "cores", "started", "finished"} <= set(plain["environment"])
    assert len(plain["rows"]) == 2 * 4
    for row in plain["rows"]:
        assert set(row) >= set(PROMISED.split())
        assert row["outcome"] == "ok"
        assert row["problem"] == f'g1{TINY}n"tiny*2"'
    (own,) = (tmp_path / ".cnnbench").iterdir()
    assert json.loads(own.read_text()) == plain
    assert f"rows: .cnnbench/{own.name}, deep/out.json" in out


def test_show_takes_the_newest_run_and_check_ends_in_a_sentence(command, tmp_path):
    code, out, _ = command("check", "--cases", TINY, "--backends", "numpy")
    assert code == 0
    assert "4 checks passed, 0 wrong or failed, 0 not supported here" in " ".join(out.split())
    (own,) = (tmp_path / ".cnnbench").iterdir()
    assert command("show") == command("show", own)


def test_a_check_that_nothing_can_run_says_why_and_exits_1(command, monkeypatch):
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    code, out, _ = command("check", "--cases", TINY, "--backends", "numba")
    assert code == 1
    assert "numba: unsupported: NUMBA_DISABLE_JIT is set" in " ".join(out.split())
    assert "0 checks passed" in out


def test_names_are_printed_as_they_are(command):
    words = ("--backends", "numpy", "--cases", f'{TINY}n"[/x]:fire:"', "--threads", "1")
    code, out, err = command("check", *words, "--json", "[red]out[/b].json")
    assert code == 0, err
    assert "checking numpy on [/x]:fire:" in err
    assert re.search(r"^ \[/x\]:fire: +ok", out, re.MULTILINE)
    code, out, err = command("show", "[red]out[/b].json")
    assert code == 0, err
    assert " --json [red]out[/b].json: " in " ".join(out.split())


def test_rows_go_into_a_pipe_when_all_are_measured(command, pipe):
    path, got = pipe
    words = ("check", "--backends", "numpy", "--cases", f"{TINY},{TINY}bias0", "--threads", "1")
    code, out, err = command(*words, "--json", path)
    assert code == 0, err
    plain = json.loads(got())
    assert len(plain["rows"]) == 2 * 4
    assert plain["environment"]["finished"]
    assert path.is_fifo()
    assert re.search(rf"^rows: \.cnnbench/check-.*, {path}$", out, re.MULTILINE)


def test_a_reader_that_has_gone_is_one_sentence_and_the_rows_are_kept(command, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    words = ("check", "--backends", "numpy", "--cases", TINY, "--threads", "1")
    code, _, err = command(*words, "--json", f"/dev/fd/{writer}")
    os.close(writer)
    assert code == 2
    assert err.splitlines()[-1] == f"cnnbench: /dev/fd/{writer}: cannot be written: Broken pipe"
    (own,) = (tmp_path / ".cnnbench").iterdir()
    assert len(results.read(own).rows) == 4


def test_saved_rows_are_under_the_machines_name(command, tmp_path):
    words = ("check", "--backends", "numpy", "--cases", TINY, "--save", "--machine", "My Box!")
    for count in (1, 2):
        assert command(*words)[0] == 0
        assert len(list((tmp_path / "results" / "my-box").glob("check-*.json"))) == count
    assert results.read(next((tmp_path / "results").rglob("*.json"))).environment["machine"] == (
        "my-box"
    )


def test_dtype_and_batch_are_those_given(command, tmp_path):
    cases = "ic3ih6oc4oh6kh3ph1"
    code, _, _ = command(
        "check", "--backends", "numpy", "--cases", cases, "--dtype", "float64", "--batch", "0",
        "--json", "out.json",
    )  # fmt: skip
    assert code == 0
    assert {row.problem for row in results.read(tmp_path / "out.json").rows} == {
        "g1mb0ic3ih6oc4oh6kh3ph1f64"
    }


def test_check_says_once_that_a_backend_is_too_slow(command, monkeypatch):
    monkeypatch.setattr("cnnbench.checking.check.__defaults__", (1e-9,))
    code, out, _ = command("check", "--backends", "naive", "--cases", f"{TINY},{TINY}bias0")
    assert code == 1
    assert len(re.findall(r"naive: skipped: too slow \(", out)) == 1


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("backend", "code", "reason"),
    [
        ("wrong", 1, "wrong: y[0, 0, 0, 0] is"),
        ("killed", 1, "failed: the worker was killed by SIGKILL"),
        ("unloadable", 1, "failed to load: KeyError: 'secret'"),
        ("declines", 0, "unsupported: no such chip here"),
        ("prints", 0, "ok"),
    ],
)
def test_check_exits_1_on_what_is_wrong_or_failed(tmp_path, backend, code, reason, ended):
    found, out, err = ended(
        "check", "--backends", f"{backend},numpy", "--cases", TINY, "--threads", "1",
        folder=tmp_path,
    )  # fmt: skip
    assert found == code, err
    assert reason in " ".join(out.split())
    assert "Traceback" not in err
    (kept,) = (tmp_path / ".cnnbench").iterdir()
    assert [row.outcome for row in results.read(kept).rows if row.backend == "numpy"] == ["ok"] * 4


def test_everyone_here_is_right_about_the_digits_or_says_why_not(command):
    code, out, _ = command("check", "--cases", "digits", "--batch", "3")
    assert code == 0, out
    assert re.search(r"digits\.conv2( +ok [\d.]+){3}", out)


def test_time_writes_rows_with_all_promised_names_and_show_shows_them(command, tmp_path):
    path = tmp_path / "out.json"
    code, out, err = command(
        "time", "--quick", "--backends", "naive", "--baseline", "numpy", "--cases", TINY,
        "--threads", "1", "--json", path,
    )  # fmt: skip
    assert code == 0, err
    plain = json.loads(path.read_text())
    assert {"schema", "environment", "rows"} == set(plain)
    assert [(row["backend"], row["direction"]) for row in plain["rows"]] == [
        (backend, direction)
        for backend in ("naive", "numpy")
        for direction in ("forward", "backward_data", "backward_weights", "backward")
    ]
    for row in plain["rows"]:
        assert set(row) >= set(PROMISED.split())
        assert (row["outcome"], row["op"], row["baseline"]) == ("ok", "conv2d", "numpy")
        for name in ("seconds", "gflops", "ceiling_fraction", "ratio", "first_call_seconds"):
            assert row[name] > 0
        assert row["samples"]
    assert "A/A floor" in out
    code, shown, _ = command("show", path)
    assert code == 0
    assert all(line in shown for line in out.splitlines() if line.startswith((" naive", " numpy")))


def test_train_writes_a_row_and_prints_it(command, tmp_path):
    path = tmp_path / "out.json"
    code, out, err = command(
        "train", "--quick", "--backends", "numpy", "--baseline", "numpy", "--epochs", "1",
        "--threads", "1", "--json", path,
    )  # fmt: skip
    assert code == 0, err
    (row,) = json.loads(path.read_text())["rows"]
    own = {"loss", "train_accuracy", "test_accuracy", "seconds_per_step"}
    assert set(row) >= {*PROMISED.split(), *own}
    assert (row["direction"], row["outcome"]) == ("train", "ok")
    assert re.search(rf"numpy +{row['loss']:.4f} +{row['train_accuracy']:.3f}", out)
    assert command("show", path)[0] == 0


@pytest.mark.usefixtures("short_trainings")
def test_compare_checks_times_trains_and_ends_in_an_answer_with_its_evidence(command, tmp_path):
    pytest.importorskip("numba")
    program, path = "numba (compiled run)", tmp_path / "out.json"
    code, out, err = command(
        "compare", "--quick", "--backends", program, "--baseline", "numpy", "--threads", "1",
        "--json", path,
    )  # fmt: skip
    assert code == 0, err
    told = " ".join(out.split())
    assert re.search(
        r"Train with numpy here: .* for 2 epochs on 1 thread, test accuracy .* %", told
    )
    assert "8 checks passed, 0 wrong or failed, 0 not supported here" in told
    rows = results.read(path).rows
    assert sum(row.case == "digits (sum)" for row in rows) == 4
    assert {row.outcome for row in rows} == {"ok"}
    # A program is compared in training alone.
    assert [row.backend for row in rows if row.op == "train"] == [program, "numpy"]
    assert {row.backend for row in rows if row.op != "train"} == {"numpy"}
    assert f"The fastest program for this CNN alone is {program}:" in told
    code, shown, _ = command("show", path)
    assert code == 0
    for title in ("Correctness: ", "digits.conv1 ", "digits (sum) ", "Training: "):
        assert re.search(rf"^{re.escape(title)}", shown, re.MULTILINE)
    for title in ("Train with numpy here", "Training: ", "Layers of digits, summed"):
        assert re.search(rf"^{re.escape(title)}", out, re.MULTILINE)
    assert len(out.splitlines()) <= 40
