"""Help of every command, and bad input: one clear message before anything is measured."""

import re
import subprocess
import sys
from importlib import metadata

import numpy as np
import pytest

COMMANDS = (
    "info", "check", "time", "train", "compare", "recommend", "sweep", "selftest", "show",
    "report", "history",
)  # fmt: skip


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
            "recipe notebook-numpy runs on numpy only",
        ),
        (("train", "--backends", "nunba"), "unknown backend 'nunba'"),
        (("train", "--backends", "jux"), "unknown backend 'jux' (did you mean 'jax'?)"),
        (("train", "--baseline", "jax"), "unknown backend 'jax'"),
        (("time", "--backends", "jax"), "unknown backend 'jax'"),
        (("compare", "--threads", "0"), "Invalid value for '--threads'"),
        (("compare", "--baseline", ""), "unknown backend ''"),
        (("selftest", "--baseline", "nunba"), "unknown backend 'nunba'"),
        (("info", "--json", "file/out.json"), "file/out.json: cannot be written"),
        (("train", "--force"), "--force needs a plan: give one with --plan"),
        (("train", "--plan", "nothing.json"), "nothing.json: cannot be read: No such file"),
        (
            ("train", "--recipe", "notebook-numpy", "--plan", "file"),
            "recipe notebook-numpy is fixed",
        ),
        (("recommend",), "Missing argument 'model'"),
        (("recommend", "digit"), "'digit' is no set (did you mean 'digits'?)"),
        (("recommend", "my:net"), "a PyTorch model needs --input, such as --input 8,3,224,224"),
        (("recommend", "my:net", "--input", "8"), "--input: expected a batch's shape"),
        (("recommend", "digits", "--input", "8,1,8,8"), "--input is for PyTorch models"),
        (("recommend", "digits", "--batch", "2000"), "the digits have 1347 training images"),
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
