"""The digits are all there, split alike for everyone, classes in equal shares."""

import numpy as np
import pytest

from cnnbench.digits import data


@pytest.fixture(scope="module")
def digits():
    return data._split(*data._digits())


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


@pytest.mark.parametrize("kept", [None, b"", b"PK\x03\x04 half a file"])
def test_the_split_is_the_same_every_time_from_scikit_learn_or_a_file(
    kept, digits, tmp_path, monkeypatch
):
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda *_: tmp_path / "cache")
    if kept is not None:  # a file that nobody can read
        data._kept_digits()
        (path,) = (tmp_path / "cache").iterdir()
        path.write_bytes(kept)
    split = data._digits
    for source in (split, None):  # the second time it must be read from the file
        monkeypatch.setattr(data, "_digits", source)
        again = data._kept_digits()
        assert again.classes == digits.classes
        for part in data._PARTS:
            np.testing.assert_array_equal(getattr(again, part), getattr(digits, part))
            assert getattr(again, part).dtype == getattr(digits, part).dtype


def test_digits_that_cannot_be_kept_are_split_again(digits, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setattr(data.platformdirs, "user_cache_dir", lambda *_: tmp_path / "file")
    again = data._kept_digits()
    np.testing.assert_array_equal(again.train_images, digits.train_images)


# --------------------------------------------------------------------------------------------
# a person's own images


def saved(folder, **arrays):
    path = folder / "images.npz"
    np.savez(path, **arrays)
    return path


def own(count=12, classes=3, channels=2, dtype=np.uint8):
    random = np.random.default_rng(5)
    images = random.integers(0, 256, (count, channels, 6, 5)).astype(dtype)
    return {"images": images, "labels": np.arange(count) % classes}


def test_own_images_are_split_like_the_digits(tmp_path):
    arrays = own()
    dataset = data.load(str(saved(tmp_path, **arrays)))
    assert (dataset.shape, dataset.classes) == ((2, 6, 5), 3)
    assert (len(dataset.train_labels), len(dataset.test_labels)) == (9, 3)
    assert sorted(dataset.test_labels) == [0, 1, 2]
    found = np.concatenate([dataset.train_images, dataset.test_images])
    expected = arrays["images"].astype(np.float32) / 255
    assert sorted(map(bytes, found)) == sorted(map(bytes, expected))


def test_floating_point_pixels_are_taken_as_they_are(tmp_path):
    images, labels = data.read(saved(tmp_path, **own(dtype=np.float64)))
    assert (images.dtype, labels.dtype) == (np.float32, np.int64)
    assert images.max() > 200


def test_booleans_are_black_and_white(tmp_path):
    bright = own()["images"] > 100
    images, _ = data.read(saved(tmp_path, **own() | {"images": bright}))
    assert images.dtype == np.float32
    np.testing.assert_array_equal(images, bright)


@pytest.mark.parametrize(
    ("factor", "dtype", "remarked"),
    [
        (1, np.uint8, None),
        (1 / 255, np.float64, None),
        (-9 / 255, np.float16, None),
        (1, np.float32, "255"),
        (16 / 255, np.float32, "16"),
        (16 / 255, np.uint8, "0.0627"),
        (-1, np.float16, "255"),
        (1e36, np.float64, "2.55e+38"),
        (1 / 255**2, np.float32, "0.00392"),
    ],
)
def test_pixels_far_from_one_are_trained_on_and_remarked(tmp_path, factor, dtype, remarked):
    images = (own(dtype=np.float64)["images"] * factor).astype(dtype)
    images.flat[:2] = 0, 255 * factor
    path = str(saved(tmp_path, **own() | {"images": images}))
    told = data.remark(path)
    if remarked is None:
        assert told is None
    else:
        assert told.startswith(f"{path}: pixels go up to {remarked} in size, but ")
    assert data.remark("") is None


def images_with(pixel, dtype):
    images = own()["images"].astype(dtype)
    images.flat[:2] = 0, pixel
    return {"images": images}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"images": np.zeros((12, 6, 5))}, r"shape \(N, C, H, W\).* got \(12, 6, 5\)"),
        ({"images": np.zeros((12, 0, 6, 5))}, r"got \(12, 0, 6, 5\)"),
        ({"images": np.zeros((12, 2, 6, 5), complex)}, r"real numbers, got dtype complex128"),
        (images_with(np.nan, np.float32), r"NaN or infinite"),
        (images_with(-np.inf, np.float16), r"NaN or infinite"),
        (
            images_with(-1e300, np.float64),
            r"float32 can hold, up to 3\.4e\+38; .* large as 1e\+300",
        ),
        (
            images_with(255, np.int64),
            r"int64 from 0 to 255: save images\.astype\(numpy\.uint8\), or ",
        ),
        (
            images_with(4095, np.uint16),
            r"got uint16 from 0 to 4095: divide them by the white value",
        ),
        (images_with(2**63, np.uint64), r"got uint64 from 0 to 9223372036854775808: divide them"),
        (
            images_with(-1, np.int32),
            r"got int32 from -1 to 255: divide them by the white value",
        ),
        ({"images": own()["images"].view(np.int8)}, r"got int8 from -128 to 127: divide them"),
        ({"images": np.full((12, 2, 6, 5), 7, np.uint8)}, r"images that differ; every pixel is 7"),
        ({"images": np.full((12, 2, 6, 5), "x")}, r"real numbers, got dtype <U1"),
        ({"labels": np.zeros(11, int)}, r"labels of shape \(12,\).* got shape \(11,\)"),
        ({"labels": np.zeros(12)}, r"integer dtype; got .* float64"),
        ({"labels": np.arange(12) % 3 + 1}, r"labels from 0 on, got 1 to 3: subtract 1"),
        (
            {"images": np.zeros((12, 6, 5, 3))},
            r"got \(12, 6, 5, 3\), which looks like \(N, H, W, C\): .*transpose\(0, 3, 1, 2\)",
        ),
        ({"labels": np.arange(12) % 3 - 1}, r"labels from 0 on, got -1"),
        ({"labels": np.arange(12) % 2 == 0}, r"integer dtype; got .* bool"),
        ({"labels": np.arange(12, dtype=np.uint64) + 2**63}, r"got the label 9223372036854775819 "),
        ({"labels": np.arange(12) % 3 * 10**15}, r"got the label 2000000000000000 with 12 images"),
        ({"labels": np.arange(12) % 2 * 2}, r"without a gap.* class 1 has 0"),
        ({"labels": np.zeros(12, int)}, r"at least two classes"),
        ({"labels": np.arange(12) % 6}, r"at least 24 images for 6 classes.* got 12"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_with_what_was_expected(tmp_path, changed, message):
    with pytest.raises(data.DataError, match=message):
        data.read(saved(tmp_path, **own() | changed))


def test_a_file_that_is_none_or_has_other_arrays_is_refused(tmp_path):
    with pytest.raises(data.DataError, match=r"none\.npz: cannot be read: No such file"):
        data.read(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("images")
    with pytest.raises(data.DataError, match=r"expected a file that numpy\.savez wrote"):
        data.read(tmp_path / "text.npz")
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(data.DataError, match="expected a"):
        data.read(tmp_path / "one.npy")
    with pytest.raises(data.DataError, match="expected arrays 'images' and 'labels'; it has 'x'"):
        data.read(saved(tmp_path, x=np.zeros(3)))
    objects = own() | {"images": np.array([None] * 12)}
    with pytest.raises(data.DataError, match="without pickled objects"):
        data.read(saved(tmp_path, **objects))
