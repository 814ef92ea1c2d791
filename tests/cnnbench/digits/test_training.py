"""The same training on every backend: same weights, same batches, losses that rounding explains."""

import numpy as np
import pytest

from cnnbench.digits.layers import softmax_cross_entropy
from cnnbench.digits.network import Network
from cnnbench.digits.options import Options
from cnnbench.digits.training import start, train
from cnnkernels import Unsupported, registry

STEPS = 22  # 1347 images, 64 at once


@pytest.fixture(scope="module")
def exact():
    """One epoch in float64."""
    return train(registry.load("numpy"), Options(epochs=1, dtype="float64"))


@pytest.mark.parametrize(
    "name",
    [
        "numpy",
        pytest.param("numba", marks=pytest.mark.slow),
        pytest.param("torch-cpu", marks=pytest.mark.slow),
        pytest.param("torch-cpu-nhwc", marks=pytest.mark.slow),
    ],
)
def test_losses_of_the_first_epoch_differ_by_rounding_alone(name, exact):
    try:
        backend = registry.load(name)
    except Unsupported as reason:
        pytest.skip(str(reason))
    done = train(backend, Options(epochs=1))
    assert done.steps == len(done.step_losses) == STEPS
    np.testing.assert_allclose(done.step_losses, exact.step_losses, rtol=1e-5)
    assert done.step_losses != exact.step_losses
    (epoch,) = done.epochs
    assert epoch.train_accuracy == pytest.approx(exact.epochs[0].train_accuracy, abs=0.01)


def test_naive_takes_the_same_first_steps():
    options = Options(most_steps=2, batch_size=4, dtype="float64")
    naive, numpy = (train(registry.load(name), options) for name in ("naive", "numpy"))
    np.testing.assert_allclose(naive.step_losses, numpy.step_losses, rtol=1e-12)


def by_hand(options, steps):
    """Return the losses of the first steps, the update written out for every weight."""
    digits, planned, state = start(options)
    network = Network(planned, registry.load("numpy"), state)
    order = np.random.default_rng(options.seed).permutation(len(digits.train_images))
    velocities = [np.zeros_like(parameter.value) for parameter in network.parameters]
    losses = []
    for step in range(steps):
        batch = order[step * options.batch_size : (step + 1) * options.batch_size]
        wanted = np.eye(10)[digits.train_labels[batch]]
        images = digits.train_images[batch].astype(options.dtype)
        loss, dlogits = softmax_cross_entropy(network.forward(images), wanted)
        network.backward(dlogits)
        for at, parameter in enumerate(network.parameters):
            gradient = parameter.gradient
            if parameter.value.ndim > 1:  # biases do not decay
                gradient = gradient + options.weight_decay * parameter.value
            velocities[at] = options.momentum * velocities[at] - options.learning_rate * gradient
            parameter.value = parameter.value + velocities[at]
        losses.append(float(loss))
    return losses


@pytest.mark.parametrize(
    ("momentum", "weight_decay"), [(0.0, 0.0), (0.9, 0.0), (0.0, 0.3), (0.5, 0.3)]
)
def test_a_step_is_momentum_and_weight_decay_worked_out_by_hand(momentum, weight_decay):
    options = Options(
        momentum=momentum, weight_decay=weight_decay, dtype="float64", batch_size=16, most_steps=4
    )
    found = train(registry.load("numpy"), options).step_losses
    np.testing.assert_allclose(found, by_hand(options, 4), rtol=1e-12)
    plain = by_hand(Options(momentum=0.0, weight_decay=0.0, dtype="float64", batch_size=16), 4)
    same = momentum == weight_decay == 0
    assert np.allclose(found, plain, rtol=1e-9) == same


def test_an_epoch_is_the_mean_of_its_batches_and_the_last_batch_is_what_is_left(exact):
    (epoch,) = exact.epochs
    assert epoch.loss == pytest.approx(np.mean(exact.step_losses))
    assert (exact.steps, exact.all_steps) == (STEPS, STEPS)
    for accuracy, images in ((epoch.train_accuracy, 1347), (epoch.test_accuracy, 450)):
        assert 0 < accuracy < 1
        assert accuracy * images == pytest.approx(round(accuracy * images))
    assert 0 < exact.step_seconds <= exact.seconds


def test_every_epoch_has_an_order_of_its_own_and_training_learns():
    done = train(registry.load("numpy"), Options(epochs=3))
    assert done.steps == done.all_steps == 3 * STEPS
    assert len(done.epochs) == 3
    assert done.epochs[-1].loss < done.epochs[0].loss
    assert done.epochs[-1].test_accuracy > 0.7


def losses(**options):
    return train(registry.load("numpy"), Options(epochs=1, most_steps=3, **options)).step_losses


def test_a_training_repeats_itself_to_the_bit_and_another_seed_does_not():
    assert losses() == losses()
    assert losses() != losses(seed=43)


def test_draws_before_training_change_the_order_and_not_the_weights():
    one, other = losses(), losses(skipped_draws=36)
    assert one != other
    assert losses(batch_size=1347) == pytest.approx(
        losses(batch_size=1347, skipped_draws=36), rel=1e-3
    )


@pytest.mark.parametrize(
    "limit", [{"most_steps": 1}, {"budget_seconds": 0.0}, {"most_steps": 5, "budget_seconds": 0.0}]
)
def test_a_training_that_is_stopped_says_how_far_it_came_and_is_not_evaluated(limit):
    done = train(registry.load("numpy"), Options(epochs=2, **limit))
    assert (done.steps, done.all_steps) == (1, 2 * STEPS)
    assert len(done.step_losses) == 1
    assert done.epochs == []


def test_a_training_stopped_at_the_end_of_an_epoch_has_no_more_than_it_did():
    done = train(registry.load("numpy"), Options(epochs=2, most_steps=STEPS))
    assert (done.steps, len(done.step_losses)) == (STEPS, STEPS)
    assert len(done.epochs) <= 1


def test_a_diverging_training_shows_it():
    with np.errstate(all="ignore"):
        done = train(registry.load("numpy"), Options(epochs=1, learning_rate=1e20))
    assert not np.isfinite(done.step_losses[-1]) or done.step_losses[-1] > 10
