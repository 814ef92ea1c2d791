"""The compiled training is the one layer by layer: its losses, its rules for ties and NaNs."""

import dataclasses

import numpy as np
import pytest

pytest.importorskip("numba")

from cnnbench.digits import numba_run
from cnnbench.digits.options import Options
from cnnbench.digits.training import train
from cnnkernels import Unsupported, registry
from cnnkernels.contract import MaxPool2D
from cnnkernels.pooling import naive

STEPS = 22  # 1347 images, 64 at once

pytestmark = pytest.mark.slow


def assert_same(options, rtol):
    """Train compiled, and layer by layer in float64, and compare all that came of it."""
    done = numba_run.train(options)
    exact = train(registry.load("numpy"), dataclasses.replace(options, dtype="float64"))
    np.testing.assert_allclose(done.step_losses, exact.step_losses, rtol=rtol)
    assert (done.steps, done.all_steps) == (exact.steps, exact.all_steps)
    assert len(done.epochs) == len(exact.epochs)
    for mine, right in zip(done.epochs, exact.epochs, strict=True):
        assert mine.loss == pytest.approx(right.loss, rel=rtol)
        assert mine.train_accuracy == pytest.approx(right.train_accuracy, abs=1.01 / 1347)
        assert mine.test_accuracy == pytest.approx(right.test_accuracy, abs=1.01 / 450)


def test_a_training_in_float32_is_that_of_float64_within_rounding():
    assert_same(Options(), rtol=1e-3)
    assert_same(Options(epochs=1), rtol=1e-5)


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.0, "weight_decay": 0.0},
        {"momentum": 0.5, "weight_decay": 0.3, "learning_rate": 0.01},
        {"seed": 7, "skipped_draws": 36},
        {"batch_size": 37},
        {"batch_size": 1347},
        {"batch_size": 5000},
        {"batch_size": 1, "most_steps": 5},
        {"batch_size": 5, "most_steps": 5},
        {"most_steps": STEPS},
        {"most_steps": 2 * STEPS},
    ],
    ids=str,
)
def test_a_training_in_float64_is_the_same_to_the_last_digits(options):
    assert_same(Options(epochs=2, dtype="float64", **options), rtol=1e-10)


def test_without_vector_fmas_it_declines(monkeypatch):
    monkeypatch.setattr(numba_run, "has_fma", lambda: False)
    with pytest.raises(Unsupported, match="no vector FMA instructions"):
        numba_run.train(Options(most_steps=1))


def test_a_training_repeats_itself_to_the_bit():
    one, other = (numba_run.train(Options(epochs=2)) for _ in range(2))
    assert one.step_losses == other.step_losses
    assert one.epochs == other.epochs


def test_times_are_those_of_the_run_and_of_compiling():
    done = numba_run.train(Options(epochs=1))
    assert done.seconds > 0
    assert done.compile_seconds > 0
    assert done.step_seconds is None


def test_a_diverging_training_shows_it():
    done = numba_run.train(Options(epochs=1, learning_rate=1e20))
    assert not np.isfinite(done.step_losses[-1])
    assert done.epochs[0].test_accuracy < 0.2


@pytest.mark.parametrize(
    "values", [[-1.0, 0.0, 1.0, 2.0], [-1.0, 1.0, np.nan]], ids=["ties", "nan"]
)
def test_pooling_has_the_contracts_winners_where_relu_lets_them_pass(values):
    lanes = numba_run._group(np.dtype("float32")).x.shape[-1]
    random = np.random.default_rng(11)
    x = random.choice(np.float32(values), (4, 4, 3, lanes))
    dy = random.standard_normal((2, 2, 3, lanes), np.float32)
    y, dx = np.empty_like(dy), np.empty_like(x)
    winners = np.empty(y.shape, np.uint8)
    numba_run._pool(x, y, winners)
    numba_run._unpool(dy, winners, dx)

    problem = MaxPool2D(lanes, 3, 4, 4, 2)
    images = np.ascontiguousarray(x.transpose(3, 2, 0, 1))
    pooled, cache = naive.forward(problem, images)
    passing = ~(pooled <= 0)
    np.testing.assert_array_equal(y, np.where(passing, pooled, 0).transpose(2, 3, 1, 0))
    expected = naive.backward(problem, np.where(passing, dy.transpose(3, 2, 0, 1), 0), cache)
    np.testing.assert_array_equal(dx, expected.transpose(2, 3, 1, 0))
