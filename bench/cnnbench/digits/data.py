"""Images and labels: scikit-learn's handwritten digits, or a person's own; split alike for all."""

from __future__ import annotations

import functools
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

CLASSES = 10
"""Of the digits."""

_SPLIT_SEED = 42
_BRIGHTEST = 16
_TEST_SHARE = 0.25


class DataError(ValueError):
    """Images or labels that nothing can be trained on; the message says what was expected."""


@dataclass(frozen=True)
class Dataset:
    """Images (N, C, H, W), float32, and labels (N,), int64 from 0 to `classes` - 1."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray
    classes: int

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width of an image."""
        channels, height, width = self.train_images.shape[1:]
        return channels, height, width


@functools.cache
def load(path: str = "") -> Dataset:
    """Return training and test images, three to one, classes in equal shares in both.

    Parameters
    ----------
    path : str
        An npz file, as `read` takes it; if empty, the digits: 1347 and 450 images of one channel
        and 8x8 pixels from 0 to 1.

    Raises
    ------
    DataError
        If nothing can be trained on what the file holds.
    """
    images, labels = read(Path(path)) if path else _digits()
    from sklearn.model_selection import train_test_split

    split = train_test_split(
        images, labels, test_size=_TEST_SHARE, random_state=_SPLIT_SEED, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = map(np.ascontiguousarray, split)
    return Dataset(train_images, train_labels, test_images, test_labels, int(labels.max()) + 1)


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images.astype(np.float32) / _BRIGHTEST)[:, None]
    return images, digits.target.astype(np.int64)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, C, H, W), float32, and the labels (N,), int64, of an npz file.

    Its array `images` has floating-point numbers, which are taken as they are, or integers, which
    are divided by the largest of their type: bytes become 0 to 1. Its array `labels` has integers,
    the classes from 0 on.

    Raises
    ------
    DataError
        If it has anything else.
    """
    try:
        with np.load(path, allow_pickle=False) as stored:
            missing = {"images", "labels"} - set(getattr(stored, "files", ()))
            if missing:
                raise DataError(
                    f"{path}: expected arrays 'images' and 'labels'; it has "
                    f"{', '.join(map(repr, stored.files)) or 'none'}"
                )
            images, labels = stored["images"], stored["labels"]
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    except (ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(
            f"{path}: expected a file that numpy.savez wrote, without pickled objects"
        ) from None
    return _checked_images(path, images), _checked_labels(path, labels, len(images))


def _checked_images(path: Path, images: np.ndarray) -> np.ndarray:
    if images.ndim != 4 or 0 in images.shape:
        raise DataError(
            f"{path}: expected images of shape (N, C, H, W), none of them zero; got {images.shape}"
        )
    if images.dtype.kind in "iu":
        return images.astype(np.float32) / np.float32(np.iinfo(images.dtype).max)
    if images.dtype.kind not in "fb":
        raise DataError(f"{path}: expected images of real numbers, got dtype {images.dtype}")
    converted = images.astype(np.float32)
    if not np.isfinite(converted).all():
        raise DataError(f"{path}: expected finite images; some pixels are NaN or infinite")
    return converted


def _checked_labels(path: Path, labels: np.ndarray, images: int) -> np.ndarray:
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected labels of shape ({images},), one an image, and an integer dtype; "
            f"got shape {labels.shape} and {labels.dtype}"
        )
    labels = labels.astype(np.int64)
    if labels.min() < 0:
        raise DataError(f"{path}: expected labels from 0 on, got {labels.min()}")
    counts = np.bincount(labels)
    if len(counts) < 2 or counts.min() < 2:
        raise DataError(
            f"{path}: expected at least two classes, numbered from 0 without a gap, with at least "
            f"two images each, one to train on and one to test; class {counts.argmin()} has "
            f"{counts.min()} of {len(counts)} classes"
        )
    if images * _TEST_SHARE < len(counts):
        raise DataError(
            f"{path}: expected at least {int(len(counts) / _TEST_SHARE)} images for {len(counts)} "
            f"classes, as a quarter is kept to test with; got {images}"
        )
    return labels
