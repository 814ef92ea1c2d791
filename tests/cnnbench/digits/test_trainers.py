"""Whatever trains the digits CNN has a name, and losses that rounding explains, or a reason."""

import sys

import numpy as np
import pytest

from cnnbench.digits import trainers
from cnnbench.digits.options import Options
from cnnbench.digits.training import train
from cnnkernels import Unsupported, registry
from cnnkernels.registry import UnknownBackendError

STEPS = 22  # 1347 images, 64 at once

COMPILERS = ("numba (compiled run)", "torch eager", "torch.compile", "jax")


def loaded(name):
    try:
        return trainers.load(name)
    except Unsupported as reason:
        pytest.skip(str(reason))


def trained(name, options):
    try:
        return loaded(name).train(options)
    except Unsupported as reason:
        pytest.skip(str(reason))


@pytest.fixture(scope="module")
def exact():
    """Two epochs in float64."""
    return train(registry.load("numpy"), Options(epochs=2, dtype="float64"))


def test_every_backend_is_a_trainer_and_so_are_programs():
    assert trainers.names() == (*registry.names(), *trainers.PROGRAMS)
    assert trainers.PROGRAMS == COMPILERS
    for name in trainers.names():
        trainers.require_known(name)


@pytest.mark.parametrize("use", [trainers.require_known, trainers.load])
def test_an_unknown_name_is_refused_with_those_there_are(use):
    with pytest.raises(UnknownBackendError, match=r"'jux' \(did you mean 'jax'\?\).* torch eager"):
        use("jux")


def test_a_backends_trainer_trains_layer_by_layer():
    trainer = trainers.load("numpy")
    assert (trainer.name, trainer.backend) == ("numpy", registry.load("numpy"))
    done = trainer.train(Options(most_steps=2))
    assert done.step_losses == train(trainer.backend, Options(most_steps=2)).step_losses


@pytest.mark.parametrize("name", trainers.PROGRAMS)
def test_a_program_whose_library_is_missing_says_so(name, monkeypatch):
    library = name.split()[0].split(".")[0]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(Unsupported, match=f"^{library} is not installed here"):
        trainers.load(name)


def test_a_program_that_numba_cannot_compile_says_so(monkeypatch):
    numba = pytest.importorskip("numba")
    monkeypatch.setattr(numba.config, "DISABLE_JIT", 1)
    with pytest.raises(Unsupported, match="NUMBA_DISABLE_JIT is set, so that nothing is compiled"):
        trainers.load("numba (compiled run)")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # of PyTorch's own code
@pytest.mark.parametrize("name", trainers.PROGRAMS)
def test_a_programs_losses_differ_by_rounding_alone(name, exact):
    trainer = loaded(name)
    assert trainer.backend is None
    assert trainer.description
    done = trained(name, Options(epochs=2))
    np.testing.assert_allclose(done.step_losses[:STEPS], exact.step_losses[:STEPS], rtol=1e-5)
    np.testing.assert_allclose(done.step_losses, exact.step_losses, rtol=1e-3)
    assert done.steps == done.all_steps == 2 * STEPS
    for mine, right in zip(done.epochs, exact.epochs, strict=True):
        assert mine.loss == pytest.approx(right.loss, rel=1e-3)
        assert mine.train_accuracy == pytest.approx(right.train_accuracy, abs=2.01 / 1347)
        assert mine.test_accuracy == pytest.approx(right.test_accuracy, abs=1.01 / 450)
    assert min(done.seconds, done.compile_seconds) > 0


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch eager", "jax"])
@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.5, "weight_decay": 0.3, "learning_rate": 0.01},
        {"seed": 7, "skipped_draws": 36, "batch_size": 100},
        {"batch_size": 5000},
    ],
    ids=str,
)
def test_a_program_in_float64_takes_the_same_steps(name, options):
    options = Options(epochs=2, dtype="float64", **options)
    done = trained(name, options)
    right = train(registry.load("numpy"), options)
    np.testing.assert_allclose(done.step_losses, right.step_losses, rtol=1e-8)
    assert [e.test_accuracy for e in done.epochs] == [e.test_accuracy for e in right.epochs]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["torch eager", "jax"])
def test_a_program_begins_anew_each_time_and_stops_when_it_is_told(name):
    options = Options(epochs=1, most_steps=3)
    one, other = trained(name, options), trained(name, options)
    assert one.step_losses == other.step_losses
    assert (one.steps, one.all_steps, one.epochs) == (3, STEPS, [])
