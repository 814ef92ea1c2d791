"""Charts of a trained network: filters, feature maps and mistakes."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from cnnbench.digits import data
from cnnbench.digits.network import Network
from cnnbench.digits.options import Options
from cnnbench.digits.training import planned
from cnnbench.digits.weights import Trained
from cnnbench.report.charts import Chart
from cnnbench.report.tables import Sheet
from cnnkernels import functional, registry
from cnnkernels.contract import Conv2D

SAMPLES = 36
_MOST_MAPS = 32
_SAMPLE_SEED = 42
_LABEL_PIXELS, _LEAST_WIDTH = 14, 320
"""Height of a label, and the width of a chart on a phone: labels must fit there."""

EDGES = {
    "left and right edges": ((1, 0, -1), (2, 0, -2), (1, 0, -1)),
    "upper and lower edges": ((1, 2, 1), (0, 0, 0), (-1, -2, -1)),
}
"""Sobel's two kernels [1]_.

References
----------
.. [1] I. Sobel, G. Feldman, "A 3x3 Isotropic Gradient Operator for Image Processing", 1968.
"""


def charts(trained: Trained) -> Iterator[Chart]:
    """Yield all charts of a trained network and its images.

    Parameters
    ----------
    trained : Trained

    Raises
    ------
    DataError
        If its images have moved.
    """
    yield from of_images(trained.options)
    yield from of_network(trained)


def of_images(options: Options) -> Iterator[Chart]:
    """Yield the charts that all networks trained with these options share.

    Raises
    ------
    DataError
        If the images have moved.
    """
    plan, dataset = planned(options), data.load(options.data)
    yield _samples(dataset)
    yield from _edges(dataset)
    yield _parameters(plan.layers, plan.classes, plan.features)


def of_network(trained: Trained) -> Iterator[Chart]:
    """Yield the charts of one network: filters, feature maps and mistakes.

    Raises
    ------
    DataError
        If its images have moved.
    """
    options = dataclasses.replace(trained.options, dtype="float32")
    plan, dataset = planned(options), data.load(options.data)
    state = {name: value.astype(np.float32) for name, value in trained.state.items()}
    network = Network(plan, registry.load("numpy"), state)
    network.train(False)
    yield _filters(state["conv1.weight"])
    image = dataset.test_images[:1]
    x = image
    for name, layer in network.layers.items():
        x = layer.forward(x)
        if name.startswith("relu"):
            yield _feature_maps(name.removeprefix("relu"), x[0], int(dataset.test_labels[0]))
    predicted = network.forward(dataset.test_images).argmax(axis=1)
    yield _confusion(dataset.test_labels, predicted, dataset.classes)
    if (predicted != dataset.test_labels).any():
        yield _errors(dataset.test_images, dataset.test_labels, predicted)


def _samples(dataset: data.Dataset) -> Chart:
    count = min(SAMPLES, len(dataset.train_images))
    chosen = np.random.default_rng(_SAMPLE_SEED).choice(
        len(dataset.train_images), size=count, replace=False
    )
    labels = dataset.train_labels[chosen]
    return _tiled(
        f"{count} of {len(dataset.train_images)} training images",
        "Images of the classes " + ", ".join(map(str, labels)) + ".",
        dataset.train_images[chosen].mean(axis=1),
        [str(label) for label in labels],
        9,
        "Greys",
        Sheet("Images", ("image", "label"), _pairs(enumerate(map(str, labels), start=1))),
    )


def _edges(dataset: data.Dataset) -> Iterator[Chart]:
    image = dataset.train_images[:1].mean(axis=1, keepdims=True)
    kernels = np.array(list(EDGES.values()), np.float32)[:, None]
    found = functional.conv2d(image, kernels, padding=1, backend="numpy")[0]
    strongest = [f"{abs(one).max():.2f}" for one in found]
    chart = _tiled(
        "Convolution: two 3x3 kernels find edges",
        "An image, and its convolution with Sobel's two kernels.",
        found,
        list(EDGES),
        2,
        "RdBu",
        Sheet("Edges", ("kernel", "largest response"), _pairs(zip(EDGES, strongest, strict=True))),
        around_zero=True,
    )
    yield _tiled(
        "The input image of the two edge kernels",
        f"A training image of class {int(dataset.train_labels[0])}.",
        image[0],
        [str(int(dataset.train_labels[0]))],
        1,
        "Greys",
        Sheet(
            "Image",
            ("row", *map(str, range(image.shape[3]))),
            tuple(
                (str(number), *(f"{pixel:.2f}" for pixel in line))
                for number, line in enumerate(image[0, 0])
            ),
        ),
    )
    yield chart


def _parameters(layers: dict[str, Any], classes: int, features: int) -> Chart:
    lines = []
    for name, problem in layers.items():
        if isinstance(problem, Conv2D):
            inputs, outputs = (int(np.prod(s[1:])) for s in (problem.shapes.x, problem.shapes.y))
            own = int(np.prod(problem.shapes.w)) + problem.out_channels
            lines.append((name, own, (inputs + 1) * outputs))
    lines.append(("linear", (features + 1) * classes, (features + 1) * classes))
    names = [name for name, *_ in lines]
    first = lines[0]
    return Chart(
        "Weight sharing: a convolution has far fewer parameters than a dense layer of the same "
        "input and output size",
        f"{first[0]} has {first[1]} parameters; a dense layer would have {first[2]}.",
        [
            {
                "type": "bar", "name": name, "x": names, "y": [line[at] for line in lines],
                "text": [f"{line[at]:,}" for line in lines], "textposition": "outside",
                "marker": {"color": colour}, "cliponaxis": False,
            }
            for name, at, colour in (
                ("convolution", 1, "#777777"), ("dense layer", 2, "#bbbbbb"),
            )
        ],
        {
            "barmode": "group", "xaxis": {},
            "yaxis": {"type": "log", "title": {"text": "parameters"}, "exponentformat": "power"},
        },
        360,
        Sheet(
            "Parameters",
            ("layer", "convolution", "dense layer"),
            tuple((name, f"{own:,}", f"{dense:,}") for name, own, dense in lines),
        ),
    )  # fmt: skip


def _filters(weights: np.ndarray) -> Chart:
    planes = weights.mean(axis=1)
    return _tiled(
        "Filters of conv1: red weights are positive, blue ones negative",
        f"{len(planes)} filters of 3x3, weights from {planes.min():.2f} to {planes.max():.2f}.",
        planes,
        [str(number) for number in range(1, len(planes) + 1)],
        4,
        "RdBu",
        Sheet(
            "Filters",
            ("filter", *(f"{r},{s}" for r in range(3) for s in range(3))),
            tuple(
                (str(number), *(f"{weight:.3f}" for weight in plane.ravel()))
                for number, plane in enumerate(planes, start=1)
            ),
        ),
        around_zero=True,
    )


def _feature_maps(number: str, maps: np.ndarray, label: int) -> Chart:
    shown = maps[:_MOST_MAPS]
    strengths = [float(one.max()) for one in shown]
    return _tiled(
        f"A test image (class {label}) after conv{number} and ReLU: where each filter responds",
        f"{len(maps)} feature maps of {maps.shape[1]}x{maps.shape[2]}; "
        f"{sum(strength == 0 for strength in strengths)} are zero everywhere.",
        shown,
        [str(index) for index in range(1, len(shown) + 1)],
        8,
        "Viridis",
        Sheet(
            "Feature maps",
            ("filter", "maximum"),
            _pairs((index, f"{strength:.3f}") for index, strength in enumerate(strengths, start=1)),
        ),
    )


def _confusion(labels: np.ndarray, predicted: np.ndarray, classes: int) -> Chart:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    right = int(np.trace(counts))
    names = [str(number) for number in range(classes)]
    off = counts - np.diag(np.diag(counts))
    true, predicted_as = np.unravel_index(off.argmax(), off.shape)
    worst = ""
    if off.max():
        worst = (
            f"; the most frequent mistake, {off.max()} times: {true} predicted as {predicted_as}"
        )
    return Chart(
        "Confusion: off the diagonal are the mistakes",
        f"{right} of {len(labels)} test images are classified correctly{worst}.",
        [
            {
                "type": "heatmap", "z": counts.tolist(), "x": names, "y": names,
                "text": counts.tolist(), "texttemplate": "%{text}", "colorscale": "Blues",
                "reversescale": True, "showscale": False,
                "hovertemplate": "%{y} predicted as %{x}: %{z} times",
                "name": "",
            }
        ],
        {
            "xaxis": {"title": {"text": "predicted"}, "type": "category", "tickmode": "linear"},
            "yaxis": {
                "title": {"text": "true class"}, "type": "category", "autorange": "reversed",
                "tickmode": "linear",
            },
        },
        420,
        Sheet(
            "Confusion",
            ("true", *names),
            tuple((name, *map(str, line)) for name, line in zip(names, counts, strict=True)),
        ),
    )  # fmt: skip


def _errors(images: np.ndarray, labels: np.ndarray, predicted: np.ndarray) -> Chart:
    wrong = np.flatnonzero(labels != predicted)
    shown = wrong[:SAMPLES]
    texts = [f"{labels[i]} as {predicted[i]}" for i in shown]
    return _tiled(
        f"Misclassified test images, {len(shown)} of {len(wrong)}: true class as predicted class",
        f"{len(wrong)} of {len(labels)} test images are misclassified.",
        images[shown].mean(axis=1),
        texts,
        6,
        "Greys",
        Sheet(
            "Misclassified",
            ("test image", "true as predicted"),
            _pairs(zip(shown, texts, strict=True)),
        ),
    )


def _pairs(pairs: Any) -> tuple[tuple[str, ...], ...]:
    return tuple(tuple(map(str, pair)) for pair in pairs)


def _tiled(
    title: str,
    alt: str,
    images: np.ndarray,
    labels: Sequence[str],
    columns: int,
    scale: str,
    sheet: Sheet,
    *,
    around_zero: bool = False,
) -> Chart:
    """Return a heatmap of images (N, H, W) side by side, with labels below."""
    count, height, width = images.shape
    columns = max(1, min(columns, count))
    rows = -(-count // columns)
    gap = max(1, width // 4)
    across = columns * (width + gap) - gap
    below = max(gap, math.ceil(_LABEL_PIXELS * across / _LEAST_WIDTH))
    plane = np.full((rows * (height + below), across), np.nan)
    notes = []
    for number, image in enumerate(images):
        top, left = number // columns * (height + below), number % columns * (width + gap)
        plane[top : top + height, left : left + width] = image
        notes.append(
            {
                "x": left + (width - 1) / 2, "y": top + height - 0.5, "text": labels[number],
                "showarrow": False, "yanchor": "top", "font": {"size": 9},
            }
        )  # fmt: skip
    largest = float(np.abs(images).max(initial=1e-9))
    hidden = {"visible": False, "showgrid": False, "zeroline": False}
    return Chart(
        title,
        alt,
        [
            {
                "type": "heatmap", "colorscale": scale, "showscale": False, "hoverongaps": False,
                "z": [[None if np.isnan(v) else round(float(v), 4) for v in row] for row in plane],
                "hovertemplate": "%{z:.3f}", "name": "",
                **({"zmin": -largest, "zmax": largest} if around_zero else {}),
            }
        ],
        {
            "xaxis": {**hidden, "constrain": "domain"},
            "yaxis": {**hidden, "scaleanchor": "x", "autorange": "reversed"},
            "annotations": notes,
        },
        24 + int(plane.shape[0] * min(24.0, 520 / plane.shape[1])),
        sheet,
    )  # fmt: skip
