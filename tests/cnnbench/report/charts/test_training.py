"""Charts of trainings: titles say what curves show, and parts of a step look different."""

import json

import pytest

from cnnbench.report import charts
from cnnbench.results import Row


def training_of(backend, losses, outcome="ok"):
    row = Row("digits", "digits CNN", "train", "train", backend, 1, "ok")
    row.details["epochs"] = [
        {"loss": loss, "train_accuracy": 0.5, "test_accuracy": 0.25} for loss in losses
    ]
    if outcome != "ok":
        row.withdraw(outcome, "the loss of step 1 is 3, not 2")
    return row


@pytest.mark.parametrize(
    ("others", "title"),
    [
        ([], "Loss on the training images"),
        ([training_of("b", [2.001, 1.001])], "Loss: all curves coincide"),
        (
            [training_of("b", [2.0, 0.8])],
            "Loss: the curves agree in the first epoch; rounding then separates them by up to 20 %",
        ),
        (
            [training_of("b", [2.0, 1.0], "wrong")],
            "Loss: wrong, differs from float64 by more than rounding: b (wrong)",
        ),
        (
            [training_of("b", [float("nan"), None], "wrong")],
            "Loss: wrong, differs from float64 by more than rounding: b (wrong)",
        ),
    ],
)
def test_the_title_of_the_losses_is_what_the_curves_show(others, title):
    rows = [training_of("a", [2.0, 1.0]), *others]
    loss, accuracy = charts.curves(rows, charts.colours("ab"))
    assert loss.title.startswith(title)
    assert len(loss.traces) == len(rows)
    json.dumps(loss.traces, allow_nan=False)
    drawn = [(trace["line"]["dash"], trace["y"]) for trace in accuracy.traces]
    assert drawn == [("solid", [0.25, 0.25])] * len(rows) + [("dash", [0.5, 0.5])] * len(rows)


@pytest.mark.parametrize("norms", [False, True])
def test_a_layer_has_one_colour_both_ways_and_no_two_look_alike(norms):
    layers = ["conv1", "relu1", "pool1", "conv2", "relu2", "pool2", "flatten", "linear"]
    if norms:
        layers += [f"norm{number}" for number in range(1, 5)]
    row = training_of("a", [1.0])
    times = {layer: {"forward": 1.0, "backward": 2.0} for layer in layers}
    row.details["profile"] = {"step": 99.0, "layers": times}
    (chart,) = charts.steps([row])
    fills = {trace["name"]: trace["marker"] for trace in chart.traces}
    for layer in layers:
        if not layer.startswith(("relu", "flatten")):
            assert fills[f"{layer} forward"]["color"] == fills[f"{layer} backward"]["color"]
    looks = [(fill["color"], fill.get("pattern", {}).get("shape")) for fill in fills.values()]
    assert len(set(looks)) == len(looks)
