"""A line says what is trained, and how, so that two trainings are the same if their lines are."""

import pytest

from cnnbench.digits.options import Options, describe

ADAM = {"optimizer": "adam", "learning_rate": 1e-3}


def test_what_is_usual_goes_without_saying():
    assert describe(Options()) == "digits CNN, 10 epochs, batch 64, float32, seed 42"
    assert "adam, seed" in describe(Options(**ADAM))


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"learning_rate": 0.01}, "learning rate 0.01"),
        ({"momentum": 0.0}, "momentum 0"),
        ({"weight_decay": 0.0}, "weight decay 0"),
        ({**ADAM, "learning_rate": 0.05}, "adam, learning rate 0.05"),
        ({"batchnorm": True}, "batch normalization"),
        ({"data": "/somewhere/mine.npz"}, "images of mine.npz"),
        ({"weights": "/somewhere/w.npz"}, "from w.npz"),
    ],
)
def test_what_is_not_is_in_it(changed, told):
    assert f", {told}, " in describe(Options(**changed))
