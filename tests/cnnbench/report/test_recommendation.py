"""A recommendation as tables and as what to do: nothing that was found is left unsaid."""

import pytest

from cnnbench.digits.options import Options
from cnnbench.recommend import networks, parts
from cnnbench.recommend.networks import Call
from cnnbench.recommend.recommendation import (
    AUTOCAST,
    CHANNELS_LAST,
    COMPILED,
    Candidate,
    Decision,
    Recommendation,
)
from cnnbench.report.recommendation import how_to_follow, sheets, steps_sheet
from cnnbench.results import Row
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

CONV, POOL = "mb2ic3ih6oc4oh6kh3ph1", "mb2ic4ih6oh3kh2sh2ph0"


@pytest.fixture
def found():
    """What was found of a PyTorch model of two layers."""
    calls = [Call("conv", CONV, False, True), Call("pool", POOL, True, False)]
    network = networks.of_calls("my:net", calls, [("head", "called as a function")])
    decisions = []
    for layer, backend in zip(network.layers, ("numpy", "torch-cpu"), strict=True):
        candidates = {
            "torch-cpu": Candidate(2e-3, [2e-3] * 12), "numpy": Candidate(1e-3, [1e-3] * 12)
        }  # fmt: skip
        decision = Decision(layer, None, candidates, {"naive": "unsupported: one call is too long"})
        decision.choice = decision.choose(backend, "faster", "torch-cpu")
        decisions.append(decision)
    plan = Plan({d.layer.problem: d.choice for d in decisions}, "torch-cpu", 2)
    steps = []
    for way, seconds in {"torch-cpu": 8e-3, CHANNELS_LAST: 7e-3, AUTO: 6e-3}.items():
        row = Row("my:net", "", "step", "step", way, 2, "ok", seconds=seconds)
        row.ratio, row.ratio_low, row.ratio_high, row.verdict = 8e-3 / seconds, 0.9, 1.5, "UNCLEAR"
        row.details = {
            "predicted_seconds": 5e-3,
            "better_layout": {
                "layout": CHANNELS_LAST, "ratio": 7e-3 / seconds, "low": 1.1, "high": 1.3,
                "verdict": "FASTER",
            },
        }  # fmt: skip
        steps.append(row)
    return Recommendation(
        network, "model", plan, decisions, {"torch-cuda": "it computes on cuda"}, "torch-cpu",
        slow={"naive": 4000.2, "numba": 2.96}, steps=steps, answer="Train.",
        parts={
            "torch-cpu": {parts.CONVOLUTIONS: 6e-3, parts.LEFT: 1e-3, parts.OPTIMIZER: 2e-5},
            AUTO: {parts.CONVOLUTIONS: 4e-3, parts.NORMALIZATION: 1e-3, parts.BETWEEN: 1e-6},
        },
    )  # fmt: skip


def test_layers_are_shown_with_what_is_left_out_and_why(found):
    *_, layers = sheets(found)
    assert layers.title == "Layers, forward and the backward that training needs, 2 threads"
    assert layers.rows[0] == ("conv", "1", "numpy", "1.00 ms", "2.00x [2.00, 2.00]", "faster")
    assert layers.notes == (
        "head: left to PyTorch: called as a function",
        "torch-cuda: left out: it computes on cuda",
        "naive, numba: 3.0 to 4000 times slower than the fastest in first steps, not measured "
        "further",
        "naive: unsupported: one call is too long",
    )


def test_layers_that_nobody_can_compute_are_shown_as_such(found):
    found.decisions[1] = Decision(found.decisions[1].layer, None, {}, {"numpy": "no"})
    *_, layers = sheets(found)
    assert layers.rows[1][:3] == ("pool", "1", "none")
    assert layers.notes[-1] == "numpy: no (pool)"


def test_layers_alone_are_summed_for_each_backend(found):
    found.kind, found.steps, found.parts = "layers", [], {}
    totals, _ = sheets(found)
    assert totals.rows == (
        ("torch-cpu", "4.00 ms"), ("numpy", "2.00 ms"), ("each by the fastest", "3.00 ms")
    )  # fmt: skip


def test_steps_have_predicted_beside_measured_and_the_better_layout(found):
    sheet = steps_sheet(found)
    assert sheet.columns == (
        "step", "predicted", "measured", "vs torch-cpu", "vs the better layout", "verdict"
    )  # fmt: skip
    assert sheet.rows[2] == (
        "the mix", "5.00 ms", "6.00 ms", "1.33x [0.90, 1.50]", "1.17x [1.10, 1.30]", "FASTER"
    )  # fmt: skip
    text = "\n".join(sheet.notes)
    assert "predicted: torch-cpu's step, times the sums of layers and rest" in text


def test_a_prediction_that_is_far_off_is_said(found):
    for row, factor in zip(found.steps, (1.0, 1.04, 0.8), strict=True):
        row.details["predicted_seconds"] = factor * row.seconds
    text = "\n".join(steps_sheet(found).notes)
    assert "predicted and measured differ: the mix by 20%; the layers were timed earlier" in text
    found.steps[2].details["predicted_seconds"] = found.steps[2].seconds
    assert "differ" not in "\n".join(steps_sheet(found).notes)


def test_where_a_step_goes_is_shown_in_proportion_and_small_parts_in_one_line(found):
    _, sheet, _ = sheets(found)
    assert sheet.columns == ("operators", "torch-cpu", "the mix")
    assert sheet.rows == (
        ("convolutions", "6.84 ms", "4.80 ms"),
        ("layers left to PyTorch", "1.14 ms", "-"),
        ("normalization", "-", "1.20 ms"),
        ("all others", "22.8 us", "1.20 us"),
        ("together", "8.00 ms", "6.00 ms"),
    )
    assert sheet.notes[1].startswith("1.20 ms of the mix's step, 20%, is PyTorch's own")


def test_what_failed_or_may_not_be_chosen_is_said_below(found):
    found.barred["torch-cpu"] = "it is excluded"
    found.steps[2].withdraw("failed", "the worker was killed")
    sheet = steps_sheet(found)
    assert sheet.rows[2][-1] == "failed"
    assert "torch-cpu: to compare with alone: it is excluded" in sheet.notes
    assert "the mix: failed: the worker was killed" in sheet.notes


def test_own_networks_have_no_layouts(found):
    found.kind = "network"
    for row in found.steps:
        del row.details["better_layout"]
        row.details |= {"profiled_seconds": 8e-3, "rest_seconds": 2e-3}
    sheet = steps_sheet(found)
    assert sheet.columns[3:] == ("vs torch-cpu", "verdict")
    assert sheet.rows[0][3:] == ("1.00x [0.90, 1.50]", "UNCLEAR")
    assert "that of the same line, from a profile" in sheet.notes[0]
    assert sheet.notes[1].startswith("2.00 ms of torch-cpu's step, 25%, is neither convolution")


def test_what_to_do_is_what_the_person_can_do(found, tmp_path):
    path = tmp_path / "plan.json"
    load, convert = how_to_follow(found, path)
    assert load == "import cnnkernels.torch, cnnkernels.plan"
    assert convert == f"cnnkernels.torch.convert(model, cnnkernels.plan.load('{path}'))"
    found.kind = "layers"
    assert how_to_follow(found, path)[1] == f"plan.use('{path}')"
    found.kind = "network"
    found.options = {"architecture": "digits-deep", "batch_size": 32}
    assert Options(**found.options)
    (line,) = how_to_follow(found, path)
    assert line == (
        f"cnnbench train --plan {path} --backends auto --arch digits-deep --batch 32 --threads 2"
    )


def test_lines_for_a_model_can_be_run(found, tmp_path):
    torch = pytest.importorskip("torch")
    path = tmp_path / "a plan's.json"
    found.plan.threads = torch.get_num_threads()
    found.plan.save(path)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
    exec("\n".join(how_to_follow(found, path)), {"model": model})
    assert type(model[0]).__module__ == "cnnkernels.torch"


def test_nothing_is_to_be_done_to_stay_but_in_the_other_layout(found, tmp_path):
    found.follow, found.stay = False, "torch-cpu"
    assert how_to_follow(found, tmp_path) == []
    found.stay = CHANNELS_LAST
    assert "channels_last" in how_to_follow(found, tmp_path)[0]
    found.stay = COMPILED
    assert how_to_follow(found, tmp_path) == ["model = torch.compile(model)"]
    found.stay = AUTOCAST
    assert "torch.autocast" in how_to_follow(found, tmp_path)[0]
