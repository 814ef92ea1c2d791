"""recommend, and training by its plan."""

import os
import re

import pytest

from cnnbench import results
from cnnbench.digits.options import Options
from cnnbench.digits.training import planned
from cnnkernels import plan
from cnnkernels.descriptor import parse

pytestmark = pytest.mark.usefixtures("short_sides", "exact_once")

TINY = "mb2ic3ih6oc4oh6kh3ph1"

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
    assert re.search(r"of the mix's step, \d+%, is PyTorch's own: no plan makes it faster", told)
    assert "cnnkernels.torch.convert(model, cnnkernels.plan.load('plan.json'))" in told
    assert "plan: plan.json; the previous plan is now plan-1.json" in told
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
def test_recommend_exits_1_if_a_backend_is_wrong_and_does_not_take_it(tmp_path, ended):
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
    assert re.search(r"made on another machine \(processor 'Z80', here .*anyway: --force", err)
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
    assert re.search(r"- and \d+ more like these", told)
    assert len(run.environment["warnings"]) > 3
