"""The digits are all there, split alike for everyone, classes in equal shares."""

import numpy as np
import pytest

from cnnbench.digits import data


@pytest.fixture(scope="module")
def digits():
    return data.load()


def test_images_and_labels_have_their_shapes_and_dtypes(digits):
    for images, labels, count in (
        (digits.train_images, digits.train_labels, 1347),
        (digits.test_images, digits.test_labels, 450),
    ):
        assert images.shape == (count, 1, 8, 8)
        assert labels.shape == (count,)
        assert images.dtype == np.float32
        assert labels.dtype == np.int64
        assert images.flags.c_contiguous


def test_pixels_are_sixteenths_from_zero_to_one(digits):
    for images in (digits.train_images, digits.test_images):
        assert (images.min(), images.max()) == (0, 1)
        assert (images * 16 == np.round(images * 16)).all()


def test_the_parts_are_scikit_learns_digits_each_once(digits):
    from sklearn.datasets import load_digits

    whole = load_digits()
    expected = np.column_stack([whole.images.reshape(-1, 64), whole.target])
    parts = [
        np.column_stack([images.reshape(-1, 64) * 16, labels])
        for images, labels in (
            (digits.train_images, digits.train_labels),
            (digits.test_images, digits.test_labels),
        )
    ]
    found = np.concatenate(parts)
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_every_class_has_its_share_in_both_parts(digits):
    train, test = (
        np.bincount(labels, minlength=data.CLASSES)
        for labels in (digits.train_labels, digits.test_labels)
    )
    assert len(train) == data.CLASSES == 10
    assert np.abs(test - (train + test) / 4).max() <= 1


def test_the_split_is_the_same_every_time(digits):
    data.load.cache_clear()
    again = data.load()
    np.testing.assert_array_equal(again.train_images, digits.train_images)
    np.testing.assert_array_equal(again.test_labels, digits.test_labels)
