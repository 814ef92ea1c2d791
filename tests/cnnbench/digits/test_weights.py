"""What was learnt goes to a file and comes back, with the options that made it."""

import dataclasses

import numpy as np
import pytest

from cnnbench import trainings
from cnnbench.digits import weights
from cnnbench.digits.data import DataError
from cnnbench.digits.options import Options
from cnnbench.digits.training import planned, train
from cnnbench.results import Row
from cnnkernels import registry
from cnnkernels.files import WriteError

OPTIONS = Options(most_steps=3, batchnorm=True, learning_rate=0.01)


@pytest.fixture(scope="module")
def trained():
    return weights.Trained("numpy", OPTIONS, train(registry.load("numpy"), OPTIONS).state)


@pytest.fixture
def file(trained, tmp_path):
    path = tmp_path / "numpy.npz"
    path.write_bytes(weights.pack(trained))
    return path


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])


def test_a_file_holds_all_of_it(trained, file):
    found = weights.read(file)
    assert (found.backend, found.options) == ("numpy", OPTIONS)
    same(found.state, trained.state)
    same(weights.from_text(weights.as_text(trained), "here").state, trained.state)


def test_numpy_reads_the_file_without_pickles(trained, file):
    with np.load(file, allow_pickle=False) as stored:
        assert set(stored.files) == {"options", *trained.state}


def test_weights_go_where_a_link_leads_whole_or_not_at_all(trained, tmp_path, monkeypatch):
    row = Row("digits", "", "train", "train", "numpy", 1, "ok")
    row.details["weights"] = weights.as_text(trained)
    (tmp_path / "numpy.npz").symlink_to("kept.npz")
    assert trainings.save_weights(tmp_path, [row]) == [tmp_path / "numpy.npz"]
    assert (tmp_path / "numpy.npz").is_symlink()
    same(weights.read(tmp_path / "kept.npz").state, trained.state)
    before = (tmp_path / "kept.npz").read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("pathlib.Path.replace", full)
    with pytest.raises(WriteError, match=r"numpy\.npz: cannot be written: No space left"):
        trainings.save_weights(tmp_path, [row])
    assert (tmp_path / "kept.npz").read_bytes() == before


def test_training_goes_on_from_a_file(trained, file):
    start = weights.start(planned(OPTIONS), dataclasses.replace(OPTIONS, weights=str(file)))
    same(start, trained.state)
    on = train(registry.load("numpy"), dataclasses.replace(OPTIONS, weights=str(file)))
    again = train(registry.load("numpy"), OPTIONS)
    assert on.step_losses[0] != again.step_losses[0]


def test_without_a_file_the_seed_draws(trained):
    one, other = (
        weights.start(planned(OPTIONS), dataclasses.replace(OPTIONS, seed=seed)) for seed in (1, 2)
    )
    assert (one["conv1.weight"] != other["conv1.weight"]).any()
    assert (trained.state["conv1.weight"] != one["conv1.weight"]).any()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"architecture": "digits-deep"}, "--arch digits-deep --batchnorm"),
        ({"batchnorm": False}, "--arch digits"),
    ],
)
def test_weights_of_another_network_are_refused_with_the_options_that_made_them(
    file, change, expected
):
    options = dataclasses.replace(OPTIONS, weights=str(file), **change)
    message = (
        f"to another network: expected {expected}, got --arch digits --batchnorm, trained by numpy "
        "with digits CNN, 10 epochs, batch 64, float32, learning rate 0.01, batch normalization, "
        "seed 42; use the same --arch"
    )
    with pytest.raises(DataError, match=message):
        weights.start(planned(options), options)


def test_weights_for_other_images_are_refused(file, tmp_path):
    mine = tmp_path / "mine.npz"
    images, labels = np.zeros((8, 3, 8, 8), np.float32), np.arange(8) % 2
    images[labels == 1] = 1
    np.savez(mine, images=images, labels=labels)
    options = dataclasses.replace(OPTIONS, weights=str(file), data=str(mine))
    with pytest.raises(DataError, match=r"expected conv1\.weight of shape \(8, 3, 3, 3\), got"):
        weights.start(planned(options), options)


def test_what_is_no_file_of_weights_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read: No such file"):
        weights.read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("weights")
    with pytest.raises(DataError, match="expected weights saved by cnnbench train"):
        weights.read(tmp_path / "text.npz")
    np.savez(tmp_path / "other.npz", x=np.zeros(3))
    with pytest.raises(DataError, match="expected weights saved by cnnbench train"):
        weights.read(tmp_path / "other.npz")
    with pytest.raises(DataError, match="expected weights"):
        weights.from_text("no base64!", "here")
