"""All machines' answers for PyTorch models in one table."""

import dataclasses

import pytest

from cnnbench.recommend import networks
from cnnbench.recommend.networks import Call
from cnnbench.recommend.recommendation import (
    CHANNELS_LAST,
    COMPILED_PLAN,
    Candidate,
    Decision,
    Recommendation,
)
from cnnbench.report import models
from cnnbench.results import Row, Run
from cnnkernels.plan import Plan
from cnnkernels.registry import AUTO

CONV = "mb2ic3ih6iw8oc4oh4ow6kh3kw3ph0"
STEPS = {"torch-cpu": 8e-3, CHANNELS_LAST: 6e-3, "numpy": 5e-3, AUTO: 4e-3, COMPILED_PLAN: 3e-3}


@pytest.fixture
def folder(tmp_path):
    """A folder of results, to which a test adds a machine's recommendation."""

    def add(machine, day=1, name="my:net", backends=("numpy", "naive"), **changes):
        calls = [Call(str(n), CONV.replace("ic3", f"ic{n + 1}"), False, True) for n in (0, 1)]
        network = networks.of_calls(name, calls)
        decisions = []
        for layer, backend in zip(network.layers, backends, strict=True):
            decision = Decision(layer, None, {backend: Candidate(1.0, [1.0] * 6)}, {})
            decision.choice = decision.choose(backend, "faster", "torch-cpu")
            decisions.append(decision)
        plan = Plan({d.layer.problem: d.choice for d in decisions}, "torch-cpu", 2)
        found = Recommendation(network, "model", plan, decisions, {}, "torch-cpu", answer="So.")
        found = dataclasses.replace(found, **changes)
        rows = [
            Row(name, "", "step", "step", way, 2, "ok", seconds=s, samples=[s] * 6)
            for way, s in STEPS.items()
        ]
        path = tmp_path / machine / f"recommend-{len(list(tmp_path.rglob('*.json')))}.json"
        path.parent.mkdir(exist_ok=True)
        environment = {"started": f"2026-11-{day:02d}", "recommendation": found.as_json()}
        Run(environment, rows, [path]).write()
        return tmp_path

    return add


def test_each_machine_has_the_recommended_way_and_the_newest_run_counts(folder):
    folder("b", follow=False, stay=CHANNELS_LAST)
    folder("a", name="other:net", backends=("numpy", "numpy"))
    folder("a", day=3)
    sheet = models.sheet(folder("a", day=2, backends=("naive", "naive")))
    assert sheet.columns == ("a step of", "a", "b")
    assert {line[0]: line[1:] for line in sheet.rows} == {
        "my:net, 2 images of 6x8": (
            "the mix 4.00 ms: 1.50x [1.50, 1.50]",
            "torch-cpu, channels_last 6.00 ms: stay",
        ),
        "other:net, 2 images of 6x8": ("numpy 5.00 ms: 1.20x [1.20, 1.20]", "-"),
    }


def test_a_compiled_plan_is_the_way_that_was_recommended(folder):
    sheet = models.sheet(folder("a", compiled=True))
    assert sheet.rows[0][1] == "the plan, torch.compile 3.00 ms: 2.00x [2.00, 2.00]"


def test_networks_of_the_suite_and_machines_without_models_are_left_out(folder):
    sheet = models.sheet(folder("a", kind="network"))
    assert (sheet.columns, sheet.rows) == (("a step of",), ())
