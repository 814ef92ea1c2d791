"""Images and labels: scikit-learn's handwritten digits, or the user's own, split the same way."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import importlib.metadata
import io
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import platformdirs

from cnnkernels import files

CLASSES = 10
"""Number of classes of the digits."""

_SPLIT_SEED = 42
_BRIGHTEST = 16
_WHITE = 255
_USUAL = 0.1, 10.0
"""Usual range of the largest absolute pixel, in images from 0 to 1 or of mean 0, deviation 1."""
_TEST_SHARE = 0.25
_PARTS = "train_images", "train_labels", "test_images", "test_labels"


class DataError(ValueError):
    """Images or labels that cannot be trained on; the message says what was expected."""


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
    """Return training and test images, three to one, with equal shares of each class in both.

    Parameters
    ----------
    path : str
        An npz file for `read`. If empty, the digits: 1347 and 450 images of one channel and 8x8
        pixels from 0 to 1.

    Raises
    ------
    DataError
        If the file cannot be trained on.
    """
    return _split(*unsplit(path)) if path else _kept_digits()


def _split(images: np.ndarray, labels: np.ndarray) -> Dataset:
    from sklearn.model_selection import train_test_split

    split = train_test_split(
        images, labels, test_size=_TEST_SHARE, random_state=_SPLIT_SEED, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = map(np.ascontiguousarray, split)
    return Dataset(train_images, train_labels, test_images, test_labels, int(labels.max()) + 1)


def unsplit(path: str = "") -> tuple[np.ndarray, np.ndarray]:
    """Return all images and labels of `load`, in the order of the file."""
    return read(Path(path)) if path else _digits()


def remark(path: str) -> str | None:
    """Return a remark on an unusual scale of a file's images, None if it is usual.

    Parameters
    ----------
    path : str
        As for `load`.
    """
    dataset = load(path)
    parts = (dataset.train_images, dataset.test_images)
    largest = max(float(np.abs(images).max()) for images in parts)
    if _USUAL[0] <= largest <= _USUAL[1]:
        return None
    return (
        f"{path}: pixels go up to {largest:.3g} in size, but initial weights and learning rates "
        "suit about 1: scale the images if training goes badly"
    )


def _kept_digits() -> Dataset:
    """Return the digits, which stay in a file of the user's cache folder once they are split.

    Importing scikit-learn takes a second, and every worker that trains would import it. The file's
    name changes with scikit-learn's version and with this module.
    """
    source = importlib.metadata.version("scikit-learn").encode() + Path(__file__).read_bytes()
    name = f"digits-{hashlib.sha256(source).hexdigest()[:16]}.npz"
    path = Path(platformdirs.user_cache_dir("cnnbench", False), name)
    with contextlib.suppress(OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        kept = np.load(io.BytesIO(path.read_bytes()), allow_pickle=False)
        return Dataset(**{part: kept[part] for part in _PARTS}, classes=CLASSES)
    made = _split(*_digits())
    packed = io.BytesIO()
    np.savez(packed, allow_pickle=False, **{part: getattr(made, part) for part in _PARTS})
    with contextlib.suppress(OSError):  # each process imports scikit-learn again
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, packed.getvalue())
    return made


def _digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = (digits.images.astype(np.float32) / _BRIGHTEST)[:, None]
    return images, digits.target.astype(np.int64)


def read(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return the images (N, C, H, W), float32, and the labels (N,), int64, of an npz file.

    The array `images` holds bytes (uint8), which are divided by 255, or floating-point numbers or
    booleans, used unchanged. Other integers are refused, as their white value is unknown. The array
    `labels` holds integers, the classes from 0.

    Raises
    ------
    DataError
        If the file holds anything else.
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
    _, channels, _, width = images.shape
    if width in (1, 3, 4) and channels > 4:
        raise DataError(
            f"{path}: expected images of shape (N, C, H, W), got {images.shape}, which looks like "
            "(N, H, W, C): images.transpose(0, 3, 1, 2) turns them"
        )
    if images.dtype == np.uint8:
        converted = images.astype(np.float32) / np.float32(_WHITE)
    elif images.dtype.kind in "fb":
        converted = _as_float32(path, images)
    elif images.dtype.kind in "iu":
        low, high = images.min(), images.max()
        as_bytes = "save images.astype(numpy.uint8), or " if low >= 0 and high <= _WHITE else ""
        raise DataError(
            f"{path}: expected images as bytes (uint8) or floating-point numbers, got "
            f"{images.dtype} from {low} to {high}: {as_bytes}divide them by the white value"
        )
    else:
        raise DataError(f"{path}: expected images of real numbers, got dtype {images.dtype}")
    if converted.min() == converted.max():
        raise DataError(f"{path}: expected images that differ; every pixel is {images.flat[0]}")
    return converted


def _as_float32(path: Path, images: np.ndarray) -> np.ndarray:
    if not np.isfinite(images).all():
        raise DataError(f"{path}: expected finite images; some pixels are NaN or infinite")
    with np.errstate(over="ignore"):
        converted = images.astype(np.float32)
    if not np.isfinite(converted).all():
        raise DataError(
            f"{path}: expected images that float32 can hold, up to {np.finfo(np.float32).max:.2g}; "
            f"some pixels are as large as {np.abs(images).max()}"
        )
    return converted


def _checked_labels(path: Path, labels: np.ndarray, images: int) -> np.ndarray:
    if labels.shape != (images,) or labels.dtype.kind not in "iu":
        raise DataError(
            f"{path}: expected labels of shape ({images},), one an image, and an integer dtype; "
            f"got shape {labels.shape} and {labels.dtype}"
        )
    if labels.min() < 0:
        raise DataError(f"{path}: expected labels from 0 on, got {labels.min()}")
    if labels.max() >= images:
        raise DataError(
            f"{path}: expected classes numbered from 0 without a gap, each with images of its own; "
            f"got the label {labels.max()} with {images} images"
        )
    labels = labels.astype(np.int64)
    counts = np.bincount(labels)
    if counts[0] == 0 and len(counts) > 2 and counts[1:].min() > 0:
        raise DataError(
            f"{path}: expected labels from 0 on, got 1 to {labels.max()}: subtract 1 from them"
        )
    if len(counts) < 2 or counts.min() < 2:
        raise DataError(
            f"{path}: expected at least two classes, numbered from 0 without a gap, with at least "
            f"two images each, one to train on and one to test; class {counts.argmin()} has "
            f"{counts.min()} of {len(counts)} classes"
        )
    if images * _TEST_SHARE < len(counts):
        raise DataError(
            f"{path}: expected at least {int(len(counts) / _TEST_SHARE)} images for {len(counts)} "
            f"classes, as a quarter is used for testing; got {images}"
        )
    return labels
