"""Scikit-learn's handwritten digits: 1797 images of 8x8 pixels, split alike for all backends."""

from __future__ import annotations

import functools
from dataclasses import dataclass

import numpy as np

CLASSES = 10
_SPLIT_SEED = 42
_BRIGHTEST = 16


@dataclass(frozen=True)
class Digits:
    """Images (N, 1, 8, 8), float32 from 0 to 1, and labels (N,), int64 from 0 to 9."""

    train_images: np.ndarray
    train_labels: np.ndarray
    test_images: np.ndarray
    test_labels: np.ndarray


@functools.cache
def load() -> Digits:
    """Return 1347 training and 450 test images, classes in equal shares in both."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images.astype(np.float32) / _BRIGHTEST)[:, None]
    labels = digits.target.astype(np.int64)
    split = train_test_split(
        images, labels, test_size=0.25, random_state=_SPLIT_SEED, stratify=labels
    )
    train_images, test_images, train_labels, test_labels = (
        np.ascontiguousarray(part) for part in split
    )
    return Digits(train_images, train_labels, test_images, test_labels)
