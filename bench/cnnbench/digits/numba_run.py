"""The whole training of the digits CNN as one compiled function.

On images this small, most of a training's time passes between the layers; one compiled function
avoids that. Each vector lane holds one image, so a group has as many images as a vector has lanes.
Arrays are (height, width, channels, lanes), and weights (rows, columns, channels, filters), so each
layer is plain loops over whole vectors for any image size. A group's data stays in the first-level
cache. The linear layer is a convolution of one pixel, whose channels are the features.

It runs on one thread: a batch of 64 is only four groups, too few for threads to pay.
"""

from __future__ import annotations

import math
import time
from typing import NamedTuple

import numba
import numpy as np

from cnnbench.digits import data
from cnnbench.digits.network import State
from cnnbench.digits.options import Options
from cnnbench.digits.training import Epoch, Training, orders, start
from cnnkernels import arrays, geometry, jit, vectors
from cnnkernels.contract import Unsupported
from cnnkernels.simd import has_fma, lanes
from cnnkernels.vectors import ROWS

_NO_WINNER = 255
"""Winner of a window without a positive pixel: ReLU makes it zero and passes no gradient."""


class _Set(NamedTuple):
    """Images (N, 8, 8), their labels (N,), and their numbers from 0."""

    images: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray


class _Layer(NamedTuple):
    """Parameters of a layer, their gradients and their velocities.

    Attributes
    ----------
    w, dw, w_velocity : numpy.ndarray, (rows, columns, channels, filters)
    b, db, b_velocity : numpy.ndarray, (filters,)
    turned : numpy.ndarray, (rows, columns, filters, channels)
        The rotated weights: convolving dy with them gives dx.
    no_bias : numpy.ndarray, (channels,)
        Zeros.
    """

    w: np.ndarray
    b: np.ndarray
    dw: np.ndarray
    db: np.ndarray
    w_velocity: np.ndarray
    b_velocity: np.ndarray
    turned: np.ndarray
    no_bias: np.ndarray


class _Group(NamedTuple):
    """The intermediate arrays of a group of images, and their gradients.

    Attributes
    ----------
    x : numpy.ndarray, (8, 8, 1, lanes)
    y1, y2 : numpy.ndarray, (8, 8, 8, lanes) and (4, 4, 16, lanes)
        Outputs of the convolutions; later their gradients.
    pooled1, pooled2 : numpy.ndarray, (4, 4, 8, lanes) and (2, 2, 16, lanes)
    winners1, winners2 : numpy.ndarray of uint8, shaped like these
    features : numpy.ndarray, (1, 1, 64, lanes)
        A view of `pooled2`.
    logits : numpy.ndarray, (1, 1, 16, lanes)
        Later their gradient.
    dpooled1, dpooled2, dfeatures : numpy.ndarray
        Gradients of the arrays of the same name.
    """

    x: np.ndarray
    y1: np.ndarray
    pooled1: np.ndarray
    winners1: np.ndarray
    y2: np.ndarray
    pooled2: np.ndarray
    winners2: np.ndarray
    features: np.ndarray
    logits: np.ndarray
    dpooled1: np.ndarray
    dpooled2: np.ndarray
    dfeatures: np.ndarray


def train(options: Options) -> Training:
    """Train the digits CNN with the same initial weights and batches as every trainer.

    Parameters
    ----------
    options : Options
        Compiled code has no clock, so `budget_seconds` is ignored and `step_seconds` unknown.

    Raises
    ------
    Unsupported
        If this processor has no vector FMA instructions, or for another network, optimizer or data.
    """
    if not has_fma():
        raise Unsupported("this processor has no vector FMA instructions")
    for what, asked, able in (
        ("architecture", options.architecture, "digits"),
        ("optimizer", options.optimizer, "sgd"),
        ("batch normalization", options.batchnorm, False),
        ("data", options.data, ""),
    ):
        if asked != able:
            raise Unsupported(
                f"its one function is written for the digits CNN, SGD and the digits alone: {what} "
                f"{asked} is another"
            )
    digits, _, state = start(options)
    dtype = np.dtype(options.dtype)
    layers = _layers(state)
    group = _group(dtype)
    train_set, test_set = (
        _Set(np.ascontiguousarray(images[:, 0], dtype), labels, np.arange(len(labels)))
        for images, labels in (
            (digits.train_images, digits.train_labels),
            (digits.test_images, digits.test_labels),
        )
    )
    steps_an_epoch = -(-len(train_set.labels) // options.batch_size)
    done = Training(all_steps=options.epochs * steps_an_epoch)
    done.steps = min(done.all_steps, options.most_steps or done.all_steps)
    rates = np.array([options.learning_rate, options.momentum, options.weight_decay], dtype)
    losses, hits = np.zeros(done.steps, dtype), np.zeros((options.epochs, 2), np.int64)

    def arguments(shuffled: np.ndarray) -> tuple[object, ...]:
        sets = train_set, test_set, shuffled, options.batch_size
        return (*sets, rates, *layers, group, losses, hits)

    began = time.perf_counter()
    _run.compile(tuple(map(numba.typeof, arguments(train_set.numbers[None]))))
    done.compile_seconds = time.perf_counter() - began

    began = time.perf_counter()
    epochs = _run(*arguments(np.stack(list(orders(options)))))
    done.seconds = time.perf_counter() - began
    done.step_losses = losses.tolist()
    for number in range(epochs):
        of_epoch = done.step_losses[number * steps_an_epoch : (number + 1) * steps_an_epoch]
        right = hits[number] / (len(train_set.labels), len(test_set.labels))
        done.epochs.append(Epoch(float(np.mean(of_epoch)), *right.tolist()))
    done.state = _state(layers, data.CLASSES)
    return done


def _layers(state: State) -> tuple[_Layer, _Layer, _Layer]:
    linear = state["linear.weight"]
    features, classes = linear.shape
    # Elsewhere features are (channels, height, width); filters are padded to whole rows.
    by_pixel = linear.reshape(-1, 2, 2, classes).transpose(1, 2, 0, 3).reshape(1, 1, features, -1)
    spare = -classes % ROWS
    return (
        _layer(state["conv1.weight"].transpose(2, 3, 1, 0), state["conv1.bias"]),
        _layer(state["conv2.weight"].transpose(2, 3, 1, 0), state["conv2.bias"]),
        _layer(
            np.pad(by_pixel, [(0, 0), (0, 0), (0, 0), (0, spare)]),
            np.pad(state["linear.bias"], (0, spare)),
        ),
    )


def _state(layers: tuple[_Layer, _Layer, _Layer], classes: int) -> State:
    """Undo `_layers`."""
    one, two, linear = layers
    by_pixel = linear.w[0, 0, :, :classes].reshape(2, 2, -1, classes)
    return {
        "conv1.weight": np.ascontiguousarray(one.w.transpose(3, 2, 0, 1)),
        "conv1.bias": one.b,
        "conv2.weight": np.ascontiguousarray(two.w.transpose(3, 2, 0, 1)),
        "conv2.bias": two.b,
        "linear.weight": by_pixel.transpose(2, 0, 1, 3).reshape(-1, classes),
        "linear.bias": linear.b[:classes],
    }


def _layer(weights: np.ndarray, bias: np.ndarray) -> _Layer:
    rows, columns, channels, filters = weights.shape
    w = arrays.empty(weights.shape, weights.dtype.name)
    w[...] = weights
    return _Layer(
        w=w,
        b=bias.copy(),
        dw=np.zeros_like(w),
        db=np.zeros(filters, w.dtype),
        w_velocity=np.zeros_like(w),
        b_velocity=np.zeros(filters, w.dtype),
        turned=np.zeros((rows, columns, filters, channels), w.dtype),
        no_bias=np.zeros(channels, w.dtype),
    )


def _group(dtype: np.dtype) -> _Group:
    count = lanes(dtype.itemsize)

    def images(*shape: int, dtype: np.dtype = dtype) -> np.ndarray:
        array = arrays.empty((*shape, count), dtype.name)
        array[...] = 0
        return array

    pooled2, dpooled2 = images(2, 2, 16), images(2, 2, 16)
    return _Group(
        x=images(8, 8, 1),
        y1=images(8, 8, 8),
        pooled1=images(4, 4, 8),
        winners1=images(4, 4, 8, dtype=np.dtype(np.uint8)),
        y2=images(4, 4, 16),
        pooled2=pooled2,
        winners2=images(2, 2, 16, dtype=np.dtype(np.uint8)),
        features=pooled2.reshape(1, 1, 64, count),
        logits=images(1, 1, 16),
        dpooled1=images(4, 4, 8),
        dpooled2=dpooled2,
        dfeatures=dpooled2.reshape(1, 1, 64, count),
    )


# --------------------------------------------------------------------------------------------
# compiled

_tap_range = jit.inlined(geometry.tap_range)


@jit.kernel
def _run(  # type: ignore[no-untyped-def]
    train_set, test_set, shuffled, batch_size, rates, layer1, layer2, linear, group, losses, hits,
):  # fmt: skip
    """Train, and return the number of finished epochs.

    Parameters
    ----------
    train_set, test_set : _Set
    shuffled : numpy.ndarray of int64, (epochs, N)
        The numbers of the training images, in the order of each epoch.
    batch_size : int
    rates : numpy.ndarray, (3,)
        Learning rate, momentum and weight decay.
    layer1, layer2, linear : _Layer
    group : _Group
    losses : numpy.ndarray, (steps,)
        Filled by the training, which stops when it is full.
    hits : numpy.ndarray of int64, (epochs, 2)
        Filled with the correctly classified training and test images after each epoch.
    """
    epochs, count = shuffled.shape
    step = 0
    for epoch in range(epochs):
        for first in range(0, count, batch_size):
            if step == len(losses):
                return epoch
            batch = shuffled[epoch, first : first + batch_size]
            losses[step] = _gradients(train_set, batch, layer1, layer2, linear, group)
            _descend(layer1, rates)
            _descend(layer2, rates)
            _descend(linear, rates)
            step += 1
        if step == len(losses) and epoch + 1 < epochs:
            return epoch
        hits[epoch, 0] = _hits(train_set, layer1, layer2, linear, group)
        hits[epoch, 1] = _hits(test_set, layer1, layer2, linear, group)
    return epochs


@jit.spliced
def _gradients(images, batch, layer1, layer2, linear, group):  # type: ignore[no-untyped-def]
    """Set all gradients of a batch's mean loss, and return the loss."""
    for layer in (layer1, layer2, linear):
        layer.dw[...] = 0
        layer.db[...] = 0
        _turn(layer.w, layer.turned)
    loss = group.x.dtype.type(0)
    lanes = group.x.shape[3]
    for first in range(0, len(batch), lanes):
        members = batch[first : first + lanes]
        _gather(images.images, members, group.x)
        _forward(layer1, layer2, linear, group)
        loss += _loss(group.logits, images.labels, members, len(batch))
        _add_weight_gradients(group.features, group.logits, linear.dw, linear.db)
        _convolve(group.logits, linear.turned, linear.no_bias, group.dfeatures)
        _unpool(group.dpooled2, group.winners2, group.y2)
        _add_weight_gradients(group.pooled1, group.y2, layer2.dw, layer2.db)
        _convolve(group.y2, layer2.turned, layer2.no_bias, group.dpooled1)
        _unpool(group.dpooled1, group.winners1, group.y1)
        _add_weight_gradients(group.x, group.y1, layer1.dw, layer1.db)
    return loss


@jit.spliced
def _hits(images, layer1, layer2, linear, group):  # type: ignore[no-untyped-def]
    """Return the number of correctly classified images."""
    hits = 0
    lanes = group.x.shape[3]
    for first in range(0, len(images.numbers), lanes):
        members = images.numbers[first : first + lanes]
        _gather(images.images, members, group.x)
        _forward(layer1, layer2, linear, group)
        for lane in range(len(members)):
            logits = group.logits[0, 0, : data.CLASSES, lane]
            hits += np.argmax(logits) == images.labels[members[lane]]
    return hits


@jit.inlined
def _gather(images, members, x):  # type: ignore[no-untyped-def]
    """Copy images (N, 8, 8) to the lanes of x (8, 8, 1, lanes), with zeros in unused lanes."""
    height, width, _, _ = x.shape
    x[...] = 0
    for h in range(height):
        for v in range(width):
            for lane in range(len(members)):
                x[h, v, 0, lane] = images[members[lane], h, v]


@jit.spliced
def _forward(layer1, layer2, linear, group):  # type: ignore[no-untyped-def]
    _convolve(group.x, layer1.w, layer1.b, group.y1)
    _pool(group.y1, group.pooled1, group.winners1)
    _convolve(group.pooled1, layer2.w, layer2.b, group.y2)
    _pool(group.y2, group.pooled2, group.winners2)
    _convolve(group.features, linear.w, linear.b, group.logits)


@jit.inlined
def _convolve(x, w, b, y):  # type: ignore[no-untyped-def]
    """Convolve x (H, W, C, lanes) with w (R, S, C, K), padded by R // 2: y (H, W, K, lanes)."""
    height, width, channels, lanes = x.shape
    taps, pad = w.shape[0], w.shape[0] // 2
    # A row of pixels with its channels is contiguous, and so is a row of taps.
    pixels = x.reshape(height, width * channels, lanes)
    weights = w.reshape(taps, taps * channels, w.shape[3])
    for k in range(0, w.shape[3], ROWS):
        for p in range(height):
            first_r, last_r = _tap_range(taps, height, 1, p - pad)
            for q in range(width):
                first_s, last_s = _tap_range(taps, width, 1, q - pad)
                sums = vectors.broadcast(b, (k,))
                for r in range(first_r, last_r):
                    for j in range(first_s * channels, last_s * channels):
                        pixel = vectors.load(pixels, (p + r - pad, (q - pad) * channels + j))
                        sums = vectors.add_scaled(sums, weights, (r, j, k), pixel)
                vectors.store_rows(y, (p, q, k), sums)


@jit.inlined
def _add_weight_gradients(x, dy, dw, db):  # type: ignore[no-untyped-def]
    """Add the gradients of `_convolve`'s weights and bias; dy is shaped like y."""
    height, width, channels, _ = x.shape
    taps, pad = dw.shape[0], dw.shape[0] // 2
    one = vectors.filled(dy, 1)[0]
    for k in range(0, dw.shape[3], ROWS):
        sums = vectors.filled(dy, 0)
        for p in range(height):
            for q in range(width):
                sums = vectors.add_products(sums, dy, (p, q, k), one)
        vectors.add_totals(db, (k,), sums)
        for r in range(taps):
            first_p, last_p = _tap_range(height, height, 1, r - pad)
            for s in range(taps):
                first_q, last_q = _tap_range(width, width, 1, s - pad)
                for c in range(channels):
                    sums = vectors.filled(dy, 0)
                    for p in range(first_p, last_p):
                        for q in range(first_q, last_q):
                            pixel = vectors.load(x, (p + r - pad, q + s - pad, c))
                            sums = vectors.add_products(sums, dy, (p, q, k), pixel)
                    vectors.add_totals(dw, (r, s, c, k), sums)


@jit.inlined
def _turn(w, turned):  # type: ignore[no-untyped-def]
    """Write w (R, S, C, K) rotated by 180 degrees to turned (R, S, K, C)."""
    taps, _, channels, filters = w.shape
    for r in range(taps):
        for s in range(taps):
            for k in range(filters):
                for c in range(channels):
                    turned[taps - 1 - r, taps - 1 - s, k, c] = w[r, s, c, k]


@jit.inlined
def _pool(x, y, winners):  # type: ignore[no-untyped-def]
    """Pool x (2P, 2Q, C, lanes) by 2x2 windows, then apply ReLU."""
    height, width, channels, _ = y.shape
    zero = vectors.filled(x, 0)[0]
    for p in range(height):
        for q in range(width):
            for c in range(channels):
                h, v = 2 * p, 2 * q
                best, winner = vectors.larger(zero, _NO_WINNER, vectors.load(x, (h, v, c)), 0)
                best, winner = vectors.larger(best, winner, vectors.load(x, (h, v + 1, c)), 1)
                best, winner = vectors.larger(best, winner, vectors.load(x, (h + 1, v, c)), 2)
                best, winner = vectors.larger(best, winner, vectors.load(x, (h + 1, v + 1, c)), 3)
                vectors.store(y, (p, q, c), best)
                vectors.store(winners, (p, q, c), winner)


@jit.inlined
def _unpool(dy, winners, dx):  # type: ignore[no-untyped-def]
    """Write each window's gradient to its winner, and zero to the others."""
    height, width, channels, _ = dy.shape
    for p in range(height):
        for q in range(width):
            for c in range(channels):
                dy_there = vectors.load(dy, (p, q, c))
                for pixel in range(4):
                    passed = vectors.where(winners, (p, q, c), pixel, dy_there)
                    vectors.store(dx, (2 * p + pixel // 2, 2 * q + pixel % 2, c), passed)


@jit.inlined
def _loss(logits, labels, members, images):  # type: ignore[no-untyped-def]
    """Return a group's share of the mean cross-entropy; logits become their gradient."""
    loss = logits.dtype.type(0)
    # As in layers.softmax_cross_entropy.
    least = logits.dtype.type(1e-12)
    scale = logits.dtype.type(1 / images)
    for lane in range(logits.shape[3]):
        mine = logits[0, 0, :, lane]
        if lane >= len(members):
            mine[:] = 0
            continue
        top = mine[0]
        for k in range(1, data.CLASSES):
            top = max(top, mine[k])
        total = logits.dtype.type(0)
        for k in range(data.CLASSES):
            mine[k] = math.exp(mine[k] - top)
            total += mine[k]
        label = labels[members[lane]]
        loss -= math.log(mine[label] / total + least) * scale
        for k in range(data.CLASSES):
            mine[k] = (mine[k] / total - (k == label)) * scale
        mine[data.CLASSES :] = 0
    return loss


@jit.spliced
def _descend(layer, rates):  # type: ignore[no-untyped-def]
    """Take a step of gradient descent with momentum; biases do not decay."""
    learning_rate, momentum, weight_decay = rates[0], rates[1], rates[2]
    _move(
        layer.w.ravel(),
        layer.dw.ravel(),
        layer.w_velocity.ravel(),
        learning_rate,
        momentum,
        weight_decay,
    )
    _move(layer.b, layer.db, layer.b_velocity, learning_rate, momentum, 0 * weight_decay)


@jit.inlined
def _move(value, gradient, velocity, learning_rate, momentum, weight_decay):  # type: ignore[no-untyped-def]
    for i in range(len(value)):
        slope = gradient[i] + weight_decay * value[i]
        velocity[i] = momentum * velocity[i] - learning_rate * slope
        value[i] += velocity[i]
