"""A step's time, layer by layer: every layer, and no more than the step."""

import pytest

from cnnbench.digits.options import Options
from cnnbench.digits.profile import FullBatches, profile
from cnnbench.digits.training import LayerByLayer
from cnnkernels import registry


@pytest.mark.parametrize("architecture", ["digits", "digits-strided"])
def test_every_layer_has_both_directions_and_together_they_are_less_than_the_step(architecture):
    options = Options(architecture=architecture, batchnorm=True, batch_size=8)
    found = profile(registry.load("numpy"), options, 0.0)
    pools = ["pool1", "pool2"] if architecture == "digits" else []
    names = set(found.layers)
    assert {"conv1", "norm1", "relu1", "conv2", "flatten", "linear", *pools} <= names
    seconds = [time for layer in found.layers.values() for time in layer.values()]
    assert all(set(layer) == {"forward", "backward"} for layer in found.layers.values())
    assert min(seconds) > 0
    assert sum(seconds) < found.step


def test_every_batch_is_full_however_many_steps_are_taken(monkeypatch):
    sizes = []
    step = LayerByLayer.step
    monkeypatch.setattr(
        LayerByLayer, "step", lambda self, batch: (sizes.append(len(batch)), step(self, batch))
    )
    batches = FullBatches(registry.load("numpy"), Options(batch_size=400))
    assert batches.seconds(5) > 0  # an epoch's fourth batch has 147 images
    assert sizes == [400] * 5
