"""The commands: clear errors before anything is measured, whole files, and honest exit codes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html import unescape
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest

from cnnbench import cli, results
from cnnbench.digits.options import Options
from cnnbench.digits.training import planned
from cnnbench.judging import floor, limits
from cnnbench.results import Row, Run
from cnnkernels import conformance, plan
from cnnkernels.descriptor import parse

ROOT = Path(__file__).parents[2]
COMMANDS = (
    "info", "check", "time", "train", "compare", "recommend", "selftest", "show", "report",
    "history",
)  # fmt: skip
TINY = "mb2ic3ih6oc4oh6kh3ph1"

PROMISED = """
    case problem op direction backend threads outcome reason error_over_bound seconds samples
    gflops ceiling_fraction extra_bytes first_call_seconds cached_first_call_seconds baseline
    ratio ratio_low ratio_high verdict
"""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Return a function that runs a command line in this process: exit code, output, errors."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("COLUMNS", raising=False)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["cnnbench", *map(str, words)])
        try:
            cli.main()
            code = 0
        except SystemExit as ended:
            code = ended.code
        told = capsys.readouterr()
        return code, told.out, told.err

    return run


@pytest.fixture
def nothing_measured(monkeypatch):
    """See to it that nothing is measured."""

    def measuring(*_, **__):
        raise AssertionError("something is being measured")

    monkeypatch.setattr("cnnbench.workers.worker.Worker.__init__", measuring)
    monkeypatch.setattr(limits, "measure_ceilings", measuring)


def process(*words, folder, ignored=()):
    """Start a command line in a process of its own, which ignores some signals from its start."""

    def set_signals():
        # Else a shell that started us in the background would have it ignore Ctrl-C.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        for number in ignored:
            signal.signal(number, signal.SIG_IGN)

    return subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "cnnbench.cli", *map(str, words)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=set_signals,
    )


def ended(*words, folder):
    """Run a command line in a process of its own: exit code, output, errors."""
    running = process(*words, folder=folder)
    out, err = running.communicate(timeout=250)
    return running.returncode, out, err


# --------------------------------------------------------------------------------------------
# help, and what it costs


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help(command, name):
    code, out, err = command(name, "--help")
    assert (code, err) == (0, "")
    assert re.match(rf"Usage: .* {name} ", out)


def test_the_version_is_that_of_the_package(command):
    assert command("--version") == (0, f"cnnbench {metadata.version('cnnbench')}\n", "")


def test_a_line_of_help_says_what_a_command_does_to_its_end(command):
    _, out, _ = command("--help")
    lines = out.partition("Commands:")[2].strip().splitlines()
    assert len(lines) == len(COMMANDS)
    assert all(line.endswith(".") and not line.endswith("...") for line in lines)


def test_help_names_every_command_and_so_does_no_word_at_all(command):
    for words in ((), ("--help",)):
        _, out, err = command(*words)
        assert all(re.search(rf"^ +{name} ", out + err, re.MULTILINE) for name in COMMANDS)


@pytest.mark.parametrize(
    "name", ["info", "check", "time", "train", "compare", "recommend", "selftest"]
)
def test_every_command_that_measures_can_write_json(command, name):
    assert "--json" in command(name, "--help")[1]


def test_the_command_line_imports_no_heavy_library():
    code = (
        "import sys, cnnbench, cnnkernels, cnnbench.cli\n"
        "heavy = {'torch', 'numba', 'sklearn', 'scipy', 'rich.progress'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


# --------------------------------------------------------------------------------------------
# bad input

BAD = {
    "an unknown backend": ("--backends", "numpy,nunba", "unknown backend 'nunba' (did you mean"),
    "an unknown set": ("--cases", "resnet5", "'resnet5' is no set (did you mean 'resnet50'?)"),
    "a malformed descriptor": ("--cases", "mb2ic3ih6oc4kh3zz1", "unknown key 'zz'"),
    "a kernel that does not fit": ("--cases", "mb2ic3ih6oc4kh9", "does not fit the padded image"),
    "groups that do not divide": ("--cases", "g2mb2ic3ih6oc4kh3", "a multiple of groups=2, got 3"),
    "a window without a pixel": ("--cases", "mb1ic1ih1oh3kh1ph1", "would see no pixel"),
    "a size of zero": ("--cases", "mb2ic0ih6oc4kh3", "expected at least 1, got 0"),
    "no cases": ("--cases", ",", "no cases given"),
    "no threads": ("--threads", "0", "expected numbers from 1, such as 1,2; got '0'"),
    "threads in words": ("--threads", "two", "expected numbers from 1, such as 1,2; got 'two'"),
    "too many threads": ("--threads", "1,99999", "expected numbers from 1"),
    "a negative batch": ("--batch", "-1", "Invalid value for '--batch'"),
    "a dtype that is none": ("--dtype", "float31", "expected float32 or float64, got 'float31'"),
    "another dtype": ("--dtype", "float16", "expected float32 or float64, got float16"),
    "a dtype in no language": ("--dtype", ",", "expected float32 or float64, got ','"),
    "an unwritable folder": ("--json", "file/out.json", "file/out.json: cannot be written"),
    "a folder for a file": ("--json", ".", "expected a file to write to, and it is a folder"),
    "an unknown option": ("--nonsense", "1", "No such option: --nonsense"),
}


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize(("option", "value", "message"), BAD.values(), ids=BAD)
def test_bad_input_is_one_clear_message_before_anything_is_measured(
    command, tmp_path, option, value, message
):
    (tmp_path / "file").write_text("")
    code, out, err = command("check", option, value)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.usefixtures("nothing_measured")
@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("time", "--baseline", "nunba"), "unknown backend 'nunba'"),
        (("time", "--threads", "x"), "expected numbers from 1"),
        (("recommend", "my_model.py"), "such as my_model:network for a function network()"),
        (("recommend", "my:net", "--input", "3,32,32"), "expected N,C,H,W, such as 8,3,224,224"),
        (("recommend", "digits", "--pin", "conv9=numpy"), "no such layer; there are conv1, pool1"),
        (("train", "--recipe", "cake"), "--recipe: expected one of digits, notebook-numpy"),
        (("train", "--epochs", "0"), "Invalid value for '--epochs'"),
        (
            ("train", "--recipe", "notebook-numpy", "--backends", "numba"),
            "recipe notebook-numpy is for numpy alone",
        ),
        (("train", "--backends", "nunba"), "unknown backend 'nunba'"),
        (("train", "--backends", "jux"), "unknown backend 'jux' (did you mean 'jax'?)"),
        (("train", "--baseline", "jax"), "unknown backend 'jax'"),
        (("time", "--backends", "jax"), "unknown backend 'jax'"),
        (("compare", "--threads", "0"), "Invalid value for '--threads'"),
        (("compare", "--baseline", ""), "unknown backend ''"),
        (("selftest", "--baseline", "nunba"), "unknown backend 'nunba'"),
        (("info", "--json", "file/out.json"), "file/out.json: cannot be written"),
        (("train", "--force"), "--force is for a plan: name one by --plan"),
        (("train", "--plan", "nothing.json"), "nothing.json: cannot be read: No such file"),
        (("train", "--recipe", "notebook-numpy", "--plan", "file"), "recipe notebook-numpy is as"),
        (("recommend",), "Missing argument 'model'"),
        (("recommend", "digit"), "'digit' is no set (did you mean 'digits'?)"),
        (("recommend", "my:net"), "a PyTorch model needs --input, such as --input 8,3,224,224"),
        (("recommend", "my:net", "--input", "8"), "--input: expected a batch's shape"),
        (("recommend", "digits", "--input", "8,1,8,8"), "--input is for PyTorch models"),
        (("recommend", "digits", "--batch", "2000"), "the digits have 1347 images to train with"),
        (("recommend", "digits", "--pin", "conv1"), "--pin: expected LAYER=BACKEND, got 'conv1'"),
        (("recommend", "digits", "--pin", "conv1=nunba"), "unknown backend 'nunba'"),
        (
            ("recommend", "digits", "--backends", "numpy", "--exclude", "numpy,torch-cpu"),
            "--exclude leaves no backend to choose from",
        ),
        (
            ("recommend", "digits", "--output", "."),
            "expected a file to write to, and it is a folder",
        ),
        (("show", "nothing.json"), "nothing.json: cannot be read: No such file"),
        (("show", "file"), "file: expected JSON written by cnnbench"),
        (("nonsense",), "No such command 'nonsense'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_bad_input_of_other_commands_as_well(command, tmp_path, words, message):
    (tmp_path / "file").write_text("")
    code, out, err = command(*words)
    assert (code, out) == (2, "")
    assert message in " ".join(err.split())
    assert "Traceback" not in err


@pytest.mark.usefixtures("nothing_measured")
def test_images_of_no_known_scale_are_refused_and_of_an_unusual_one_remarked(command, tmp_path):
    images = np.arange(12 * 64).reshape(12, 1, 8, 8) % 48
    for name, dtype in (("integers", np.int64), ("unscaled", np.float32)):
        np.savez(tmp_path / name, images=images.astype(dtype), labels=np.arange(12) % 3)
    code, _, err = command("train", "--data", "integers.npz")
    assert code == 2
    assert "got int64 from 0 to 47: save images.astype(numpy.uint8), or divide them" in err
    _, _, err = command("train", "--data", "unscaled.npz", "--plan", "none.json")
    told, refused = err.splitlines()
    assert "unscaled.npz: pixels go up to 47 in size" in told
    assert "none.json: cannot be read" in refused


@pytest.mark.usefixtures("nothing_measured")
def test_the_place_of_a_malformed_descriptor_is_marked(command):
    text = "mb2ic3ih6oc4kh3zz1"
    _, _, err = command("check", "--cases", text)
    _, shown, caret = err.rstrip("\n").split("\n")
    assert shown.strip() == text
    assert caret.index("^") == shown.index("zz1")


@pytest.mark.usefixtures("nothing_measured")
def test_an_unwritable_results_folder_is_refused_wherever_it_is(command, tmp_path):
    (tmp_path / "results").write_text("a file where a folder is needed")
    code, _, err = command("check", "--save", "--machine", "here")
    assert code == 2
    assert re.search(r"results/here/check-.*\.json: cannot be written", " ".join(err.split()))


# --------------------------------------------------------------------------------------------
# check


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
    words = ("check", "--backends", "numpy", "--cases", f"{TINY},{TINY}sh2", "--threads", "1")
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


@pytest.mark.slow
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


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(
    ("backend", "code", "reason"),
    [
        ("wrong", 1, "wrong: y[0, 0, 0, 0] is"),
        pytest.param(
            "killed", 1, "failed: the worker was killed by SIGKILL", marks=pytest.mark.slow
        ),
        pytest.param("unloadable", 1, "failed to load: KeyError: 'secret'", marks=pytest.mark.slow),
        pytest.param("declines", 0, "unsupported: no such chip here", marks=pytest.mark.slow),
        pytest.param("prints", 0, "ok", marks=pytest.mark.slow),
    ],
)
def test_check_exits_1_on_what_is_wrong_or_failed(tmp_path, backend, code, reason):
    found, out, err = ended(
        "check", "--backends", f"{backend},numpy", "--cases", TINY, "--threads", "1",
        folder=tmp_path,
    )  # fmt: skip
    assert found == code, err
    assert reason in " ".join(out.split())
    assert "Traceback" not in err
    (kept,) = (tmp_path / ".cnnbench").iterdir()
    assert [row.outcome for row in results.read(kept).rows if row.backend == "numpy"] == ["ok"] * 4


@pytest.mark.slow
def test_everyone_here_is_right_about_the_digits_or_says_why_not(command):
    code, out, _ = command("check", "--cases", "digits", "--batch", "3")
    assert code == 0, out
    assert re.search(r"digits\.conv2( +ok [\d.]+){3}", out)


# --------------------------------------------------------------------------------------------
# the other commands


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_programs_are_compared_in_training_alone(command, tmp_path):
    pytest.importorskip("numba")
    name, path = "numba (compiled run)", tmp_path / "out.json"
    code, out, err = command(
        "compare", "--quick", "--backends", name, "--baseline", "numpy", "--threads", "1",
        "--json", path,
    )  # fmt: skip
    assert code == 0, err
    rows = results.read(path).rows
    assert [row.backend for row in rows if row.op == "train"] == [name, "numpy"]
    assert {row.backend for row in rows if row.op != "train"} == {"numpy"}
    assert {row.outcome for row in rows} == {"ok"}
    assert f"{name} is the fastest" in " ".join(out.split())


@pytest.mark.slow
def test_compare_checks_times_trains_and_ends_in_an_answer_with_its_evidence(command, tmp_path):
    path = tmp_path / "out.json"
    code, out, err = command(
        "compare", "--quick", "--backends", "numpy", "--baseline", "numpy", "--threads", "1",
        "--json", path,
    )  # fmt: skip
    assert code == 0, err
    told = " ".join(out.split())
    assert re.search(r"Train with numpy here: .* for 10 epochs on 1 thread, .* % right", told)
    assert "12 checks passed, 0 wrong or failed, 0 not supported here" in told
    rows = results.read(path).rows
    assert [row.op for row in rows].count("train") == 1
    assert sum(row.case == "digits (sum)" for row in rows) == 6
    assert {row.outcome for row in rows} == {"ok"}
    code, shown, _ = command("show", path)
    assert code == 0
    for title in ("Correctness: ", "digits.conv1 ", "digits (sum) ", "First calls, ", "Training: "):
        for text in (out, shown):
            assert re.search(rf"^{re.escape(title)}", text, re.MULTILINE)


@pytest.mark.slow
def test_info_says_what_can_run_here_and_why_the_rest_cannot(command, monkeypatch, tmp_path):
    from cnnkernels import registry

    monkeypatch.setattr(limits, "measure_ceilings", lambda _: {"reason": "not in a test"})
    monkeypatch.setattr(registry, "names", lambda: ("naive", "numpy", "torch-cuda"))
    monkeypatch.setenv("NUMBA_OPT", "2")
    code, out, _ = command("info", "--json", "out.json")
    assert code == 0
    assert "NUMBA_OPT=2" in out
    assert "not measured: not in a test" in out
    assert re.search(r"numpy +can run here", out)
    assert re.search(r"torch-cuda +(unsupported|can run here)", out)
    plain = json.loads((tmp_path / "out.json").read_text())
    assert {"cpu", "cores", "versions", "ceilings", "backends"} <= set(plain["environment"])
    assert plain["rows"] == []


def test_info_says_which_cores_a_quota_leaves_and_measures_with_them(command, monkeypatch):
    from cnnkernels import host, registry

    counts = []
    monkeypatch.setattr(limits, "measure_ceilings", lambda n: counts.append(n) or {"reason": "-"})
    monkeypatch.setattr(registry, "names", lambda: ())
    monkeypatch.setattr(host, "cpu_model", lambda: "Some CPU")
    monkeypatch.setattr(host, "visible_cores", lambda: 4)
    monkeypatch.setattr(host, "quota", lambda: 1.5)
    code, out, _ = command("info")
    assert code == 0
    words = "Some CPU, 1 core (4 visible, a quota leaves the time of 1.5), "
    assert words in " ".join(out.split())
    assert counts == [1]


@pytest.mark.slow
def test_selftest_catches_every_broken_kernel_and_prints_the_floor(command):
    code, out, _ = command("selftest", "--threads", "1", "--baseline", "numpy")
    count = len(conformance.BROKEN)
    assert count >= 12
    assert code == 0
    assert f"{count} of {count} broken kernels caught" in out
    assert "MISSED" not in out
    assert re.search(r"A/A floor: two processes of numpy differ by up to [\d.]+ %", out)


@pytest.mark.slow
def test_selftest_that_misses_one_says_so_and_exits_1(command, monkeypatch):
    from cnnkernels import registry

    right = {"fine": registry.load("numpy")}
    monkeypatch.setattr(conformance, "BROKEN", right)
    monkeypatch.setattr(conformance, "CORNER", (TINY,))
    monkeypatch.setattr(floor, "measure_floor", lambda *_: 0.01)
    code, out, _ = command("selftest", "--threads", "1", "--baseline", "naive")
    assert code == 1
    assert "MISSED" in out
    assert "0 of 1 broken kernels caught" in out


# --------------------------------------------------------------------------------------------
# recommend, and training by its plan

LAYERS = f'{TINY}n"one*2"\nmb2ic4ih6oh3kh2sh2ph0n"pool"\n'

MODEL = """
from torch import nn

def net():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))
"""


def tables_of(out):
    """Return what was printed before the places of files: tables, notes, answer, what to do."""
    return out[: out.index("\nplan: ")]


@pytest.mark.slow
def test_recommend_chooses_for_layers_and_show_shows_the_same(command, tmp_path):
    (tmp_path / "net.txt").write_text(LAYERS)
    words = (
        "recommend", "net.txt", "--quick", "--backends", "numpy,naive", "--baseline", "numpy",
        "--exclude", "naive", "--threads", "1", "--json", "out.json",
    )  # fmt: skip
    code, out, err = command(*words)
    assert code == 0, err
    assert "For net stay with numpy: no other backend is faster on any layer." in out
    assert "naive: left out: it is excluded" in out
    made = plan.load(tmp_path / "plan.json")
    assert [choice.backend for choice in made.choices.values()] == ["numpy", "numpy"]
    assert made.fallback == "numpy"
    assert made.made["command"].startswith("cnnbench recommend net.txt --quick")
    code, shown, err = command("show", "out.json")
    assert (code, err) == (0, "")
    assert tables_of(out) in shown
    pytest.importorskip("plotly")
    assert command("report", "--from", "out.json")[0] == 0


@pytest.mark.slow
def test_recommend_measures_a_model_of_pytorchs_and_keeps_the_older_plan(command, tmp_path):
    pytest.importorskip("torch")
    (tmp_path / "tiny_net.py").write_text(MODEL)
    (tmp_path / "plan.json").write_text("an older plan")
    code, out, err = command(
        "recommend", "tiny_net:net", "--input", "2,3,8,8", "--quick", "--backends", "numpy",
        "--threads", "1", "--pin", "0=numpy", "--json", "out.json",
    )  # fmt: skip
    assert code == 0, err
    told = " ".join(out.split())
    assert re.search(r"Train tiny_net:net with .*\(1 pinned\): .* a step, .* as fast as", told)
    assert "(0 is pinned to numpy)" in told
    assert re.search(r"is neither convolution nor max-pooling: no plan makes it faster", told)
    assert "cnnkernels.torch.convert(model, cnnkernels.plan.load('plan.json'))" in told
    assert "plan: plan.json; the older one is plan-1.json now" in told
    assert (tmp_path / "plan-1.json").read_text() == "an older plan"
    assert plan.load(tmp_path / "plan.json").choices[parse("mb2ic3ih8oc4oh6kh3ph0")].why == "pinned"
    steps = {
        row.backend: row for row in results.read(tmp_path / "out.json").rows if row.op == "step"
    }
    assert {"torch-cpu", "torch-cpu, channels_last", "numpy"} <= set(steps)
    for row in steps.values():
        assert row.seconds > 0
        assert row.details["better_layout"]["layout"].startswith("torch-cpu")
    assert steps["numpy"].details["predicted_seconds"] > 0
    code, shown, _ = command("show", "out.json")
    assert tables_of(out) in shown


@pytest.mark.slow
@pytest.mark.usefixtures("strangers")
def test_recommend_exits_1_if_a_backend_is_wrong_and_does_not_take_it(tmp_path):
    code, out, err = ended(
        "recommend", TINY, "--quick", "--backends", "wrong,numpy", "--baseline", "numpy",
        "--threads", "1", folder=tmp_path,
    )  # fmt: skip
    assert code == 1, err
    assert "stay with numpy" in out
    assert "wrong: wrong: y[0, 0, 0, 0] is" in " ".join(out.split())


@pytest.fixture
def digits_plan(tmp_path):
    """A plan of the digits in batches of 64, by numpy, in a file."""
    made = plan.Plan(
        {problem: plan.Choice("numpy") for problem in planned(Options()).layers.values()},
        "numpy",
        2,
    )
    made.save(tmp_path / "plan.json")
    return made


@pytest.mark.usefixtures("nothing_measured")
def test_another_machines_plan_is_refused_before_anything_is_measured(
    command, tmp_path, digits_plan
):
    digits_plan.machine["processor"] = "Z80"
    digits_plan.save(tmp_path / "plan.json")
    code, _, err = command("train", "--plan", "plan.json")
    assert code == 2
    assert re.search(r"made on another machine \(processor 'Z80', here .*even so: --force", err)
    assert not list(tmp_path.rglob(".cnnbench/*"))


@pytest.mark.slow
def test_a_forced_plan_is_followed_and_its_warnings_are_read(command, tmp_path, digits_plan):
    digits_plan.machine["processor"] = "Z80"
    digits_plan.save(tmp_path / "plan.json")
    monkey = os.environ.get(plan.VARIABLE)
    code, out, err = command(
        "train", "--plan", "plan.json", "--force", "--backends", "numpy", "--baseline", "numpy",
        "--quick", "--epochs", "1", "--threads", "1", "--json", "out.json",
    )  # fmt: skip
    assert code == 0, err
    assert os.environ.get(plan.VARIABLE) == monkey
    run = results.read(tmp_path / "out.json")
    assert [(row.backend, row.outcome) for row in run.rows] == [("numpy", "ok"), ("auto", "ok")]
    assert run.rows[0].details["loss"] == run.rows[1].details["loss"]
    told = " ".join(out.split())
    assert "- plan.json: made on another machine" in told
    assert "- plan.json: measured with 2 threads, here 1" in told
    assert re.search(r"- auto: the plan has no choice for g1mb\d+.* computes it, unmeasured", told)
    assert re.search(r"- and \d+ more of the kind", told)
    assert len(run.environment["warnings"]) > 3


# --------------------------------------------------------------------------------------------
# Ctrl-C and other signals


def wait_for(condition, running):
    """Wait until something is so, as long as the command is running."""
    while not condition():
        assert running.poll() is None, running.communicate()
        time.sleep(0.02)


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interrupted_check_keeps_its_rows_says_where_and_leaves_no_process(
    tmp_path, monkeypatch, number
):
    path, mark = tmp_path / "out.json", tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    endless = TINY.replace("mb2", "mb5")
    running = process(
        "check", "--backends", "numpy,sleeps", "--cases", f"{TINY},{endless}", "--threads", "1",
        "--json", path, folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(number)
        out, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + number
    assert out == ""
    assert "Traceback" not in err
    run = results.read(path)
    assert [row.backend for row in run.rows] == ["numpy"] * 4 + ["sleeps"] * 4 + ["numpy"] * 4
    assert run.environment["interrupted"] is True
    (own,) = (tmp_path / ".cnnbench").iterdir()
    assert results.read(own).rows == run.rows
    said = f"interrupted: the 12 rows measured so far are in .cnnbench/{own.name}, {path}"
    assert said in err
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.slow
@pytest.mark.usefixtures("strangers")
def test_an_interrupted_training_keeps_its_rows_and_leaves_no_process(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "train", "--backends", "numpy,sleeps", "--baseline", "numpy", "--batch", "5", "--epochs",
        "1", "--threads", "1", "--quick", "--json", "out.json", folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(signal.SIGTERM)
        _, err = running.communicate(timeout=60)
    finally:
        running.kill()
    assert running.returncode == 128 + signal.SIGTERM
    assert "interrupted: the " in err
    assert "Traceback" not in err
    assert results.read(tmp_path / "out.json").environment["interrupted"] is True
    with pytest.raises(ProcessLookupError):
        os.kill(int(mark.read_text()), 0)


@pytest.mark.usefixtures("strangers")
def test_a_command_that_was_told_to_ignore_hangups_goes_on(tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "check", "--backends", "sleeps", "--cases", TINY.replace("mb2", "mb5"), "--threads", "1",
        folder=tmp_path, ignored=(signal.SIGHUP,),
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
        running.send_signal(signal.SIGHUP)
        time.sleep(0.3)
        assert running.poll() is None
        running.send_signal(signal.SIGTERM)
        assert running.wait(timeout=60) == 128 + signal.SIGTERM
    finally:
        running.kill()
        running.communicate()


def test_an_interrupted_selftest_says_where_its_rows_are_only_if_they_are_somewhere(
    command, monkeypatch
):
    def interrupting(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(conformance, "check", interrupting)
    code, _, err = command("selftest", "--baseline", "numpy")
    assert code == 130
    assert not err.rstrip().endswith(" in")
    code, _, err = command("selftest", "--baseline", "numpy", "--json", "out.json")
    assert code == 130
    assert err.rstrip().endswith("are in out.json")


@pytest.mark.slow
@pytest.mark.usefixtures("strangers")
def test_a_killed_command_leaves_whole_files_and_no_process(tmp_path, monkeypatch, ends):
    path, mark = tmp_path / "out.json", tmp_path / "mark"
    monkeypatch.setenv("STRANGERS_MARK", str(mark))
    running = process(
        "check", "--backends", "sleeps", "--cases", f"{TINY},{TINY.replace('mb2', 'mb5')}",
        "--threads", "1", "--json", path, folder=tmp_path,
    )  # fmt: skip
    try:
        wait_for(lambda: mark.exists() and mark.read_text(), running)
    finally:
        running.kill()
        running.communicate()
    assert [row.outcome for row in results.read(path).rows] == ["ok"] * 4
    assert Path(path).read_text().endswith("}\n")
    assert ends(int(mark.read_text()))


def test_report_writes_a_saved_run_beside_another_as_a_page(command, tmp_path):
    pytest.importorskip("plotly")
    files = []
    for name, seconds in (("this", 1.0), ("the other", 3.0)):
        row = Row("a", TINY, "conv2d", "forward", "numpy", 1, "ok", "", 0.25, seconds, [seconds])
        files.append(tmp_path / f"{name}.json")
        Run({"cpu": "Some CPU"}, [row], [files[-1]]).write()
    code, out, err = command(
        "report", "--from", files[0], "--against", files[1], "--output", "deep/page.html"
    )
    assert (code, err) == (0, "")
    assert out == f"deep/page.html: 1 rows of {files[0]}\n"
    text = unescape((tmp_path / "deep/page.html").read_text("utf-8"))
    assert "Right of the line, this run was faster than the other" in text
    assert "3.00x" in text
    words = f"report --from {files[0]} --against '{files[1]}' --output deep/page.html"
    assert f"This page is made by: cnnbench {words}" in text


def test_a_run_whose_name_is_not_utf_8_is_reported_and_named(command, tmp_path):
    pytest.importorskip("plotly")
    source = os.fsdecode(b"caf\xe9.json")
    Run({"command": ["cnnbench", source]}, [], [tmp_path / source]).write()
    code, out, err = command("report", "--from", source)
    assert (code, err) == (0, "")
    assert out == "report.html: 0 rows of caf\\udce9.json\n"
    text = unescape((tmp_path / "report.html").read_text("utf-8"))
    assert (
        "This page is made by: cnnbench report --from 'caf\N{REPLACEMENT CHARACTER}.json'" in text
    )


def test_a_page_goes_where_a_link_leads(command, tmp_path):
    pytest.importorskip("plotly")
    Run({}, [], [tmp_path / "run.json"]).write()
    (tmp_path / "report.html").symlink_to("deep/page.html")
    assert command("report", "--from", "run.json")[0] == 0
    assert (tmp_path / "report.html").is_symlink()
    assert "0 of 0 checks passed" in (tmp_path / "deep/page.html").read_text("utf-8")


def test_report_takes_the_newest_run_and_says_so_where_there_is_none(command, tmp_path):
    pytest.importorskip("plotly")
    code, out, err = command("report")
    assert (code, out) == (2, "")
    assert "no run in .cnnbench: measure one by cnnbench compare, or name one by --from" in err
    (tmp_path / ".cnnbench").mkdir()
    Run({}, [], [tmp_path / ".cnnbench/check.json"]).write()
    code, out, _ = command("report")
    assert (code, out) == (0, "report.html: 0 rows of .cnnbench/check.json\n")


def test_history_writes_a_page_and_says_what_is_on_it(command, tmp_path, monkeypatch):
    pytest.importorskip("asv")
    pytest.importorskip("plotly")
    monkeypatch.chdir(ROOT)
    code, out, err = command("history", "--output", tmp_path / "page.html")
    assert code == 0, err
    assert re.search(r"page\.html: \d+ curves over \d+ commits, \d+ steps", out)
    assert (tmp_path / "page.html").stat().st_size < 7e6


def test_history_outside_a_checkout_says_where_to_go(command):
    code, out, err = command("history")
    assert (code, out) == (2, "")
    assert "expected asv.conf.json" in err
    assert "run this in a checkout" in err


def test_history_refuses_a_folder_as_its_page(command, tmp_path):
    code, _, err = command("history", "--output", tmp_path)
    assert code == 2
    assert "expected a file" in err
