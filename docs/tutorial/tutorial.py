# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Convolution, from nine numbers to a trained network, and why some code is faster
#
# A convolutional network slides small windows of weights over an image. This notebook builds one
# from a double loop. It trains the network on 8x8 handwritten digits with kernels in NumPy, Numba
# and PyTorch, then with PyTorch alone, and shows what the network has learned. Then it measures how
# fast each of these implementations is, and explains why.
#
# Everything runs offline on a CPU, in about two minutes. Set the environment variable
# `CNNBENCH_QUICK` to see it all in a few seconds, with less training.
#
# To open it as a notebook, run `make tutorial`, then `.venv/bin/pip install jupyterlab` and
# `.venv/bin/jupyter lab docs/tutorial/tutorial.ipynb`. Run as a script, it saves each chart as a
# page under `.cnnbench/tutorial/` and prints its name.

# %%
import os
import re
import statistics
import time
from pathlib import Path

import numpy as np
import plotly.graph_objects as go

from cnnbench import timing
from cnnbench.digits import data
from cnnbench.digits.options import Options
from cnnbench.digits.training import orders, start, train
from cnnbench.digits.weights import Trained
from cnnbench.judging import limits
from cnnbench.report import charts, learnt
from cnnbench.results import Row
from cnnkernels import functional, host, registry
from cnnkernels.contract import Conv2D, Unsupported

try:
    import torch
except ImportError:
    torch = None  # cells that need it are skipped

QUICK = bool(os.environ.get("CNNBENCH_QUICK"))
EPOCHS = 1 if QUICK else 10
IN_NOTEBOOK = "get_ipython" in globals()
CHARTS = Path(".cnnbench/tutorial")
saved = []


def show(figure):
    """Show a figure in a notebook; in a script, save it as a page and print where."""
    if IN_NOTEBOOK:
        figure.show()
        return
    CHARTS.mkdir(parents=True, exist_ok=True)
    title = re.sub(r"\W+", "-", re.sub("<.*?>", " ", figure.layout.title.text).lower()).strip("-")
    page = CHARTS / f"{len(saved) + 1:02d}-{title[:40].strip('-')}.html"
    figure.write_html(page, include_plotlyjs="directory")
    saved.append(page)
    print(f"chart: {page}")


def show_chart(chart):
    """Show a chart of `cnnbench` as a Plotly figure."""
    figure = go.Figure(chart.traces, chart.layout)
    show(figure.update_layout(title=chart.title, height=chart.height, template="plotly_white"))


# %% [markdown]
# ## 1. The images
#
# Scikit-learn has 1797 digits of 8x8 pixels. A quarter of them is used for testing. An array of
# images is always (images, channels, height, width), with one channel here, as they are gray.

# %%
digits = data.load()
print("training images", digits.train_images.shape, "test images", digits.test_images.shape)
image = digits.train_images[0, 0]
print(f"the first is a {digits.train_labels[0]}; its pixels go from {image.min()} to {image.max()}")

# %% [markdown]
# ## 2. Convolution by hand
#
# Lay a 3x3 kernel over the image, multiply each weight by the pixel below it, and add the products:
# this is one pixel of the result. Then move the kernel by one pixel. A frame of zeros around the
# image (*padding*) keeps its size. Strictly this is cross-correlation, as the kernel is not
# flipped, but networks learn their kernels, so it makes no difference.


# %%
def convolve(image, kernel, padding=1):
    """Convolve one image with one kernel: two loops, a sum in each."""
    padded = np.pad(image, padding)
    rows, columns = kernel.shape
    height, width = padded.shape[0] - rows + 1, padded.shape[1] - columns + 1
    result = np.zeros((height, width), image.dtype)
    for p in range(height):
        for q in range(width):
            result[p, q] = (padded[p : p + rows, q : q + columns] * kernel).sum()
    return result


for name, kernel in learnt.EDGES.items():
    kernel = np.array(kernel, np.float32)
    by_hand = convolve(image, kernel)
    by_library = functional.conv2d(
        image[None, None], kernel[None, None], padding=1, backend="numpy"
    )[0, 0]
    print(f"{name}: largest difference from the library {abs(by_hand - by_library).max():.1e}")

# %% [markdown]
# These two Sobel kernels respond to edges: one where the image gets brighter from left to right,
# the other from top to bottom. They were designed by hand; a network learns such kernels by itself.

# %%
kernels = np.array(list(learnt.EDGES.values()), np.float32)
for name, kernel in zip(learnt.EDGES, kernels, strict=True):
    figure = go.Figure(go.Heatmap(z=convolve(image, kernel), colorscale="RdBu", zmid=0))
    figure.update_layout(title=name, height=320, width=360, template="plotly_white")
    figure.update_yaxes(autorange="reversed", scaleanchor="x")
    show(figure)

# %% [markdown]
# ## 3. Why so few numbers are enough
#
# A dense layer that turns one 8x8 image into eight 8x8 maps connects each of 64 pixels with each of
# 512. A convolution needs only eight kernels of nine weights, the same everywhere in the image. It
# cannot look for different things in different corners, but images rarely need that.

# %%
dense, convolution = (64 + 1) * 512, 8 * (9 + 1)
print(
    f"dense: {dense} parameters; convolution: {convolution}, {dense / convolution:.0f} times fewer"
)

# %% [markdown]
# ## 4. One matrix product instead: im2col
#
# Python's loops are slow, and matrix products are fast. Copy each window of the image into a row of
# a matrix; then a single product multiplies all windows by all kernels. Each pixel is copied nine
# times, which trades memory for speed. The backend `numpy` does this for many images, channels and
# filters.


# %%
def im2col(images, size=3, padding=1):
    """Return all windows of images (N, C, H, W) as rows: (N*H*W, C*size*size)."""
    frame = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(images, frame), (size, size), (2, 3))
    return windows.transpose(0, 2, 3, 1, 4, 5).reshape(-1, images.shape[1] * size * size)


batch = digits.train_images[:64]
random = np.random.default_rng(0)
weights = random.standard_normal((8, 1, 3, 3)).astype(np.float32)
product = im2col(batch) @ weights.reshape(8, -1).T
product = product.reshape(64, 8, 8, 8).transpose(0, 3, 1, 2)
by_library = functional.conv2d(batch, weights, padding=1, backend="numpy")
print(f"largest difference {abs(product - by_library).max():.1e}")

# %% [markdown]
# ## 5. Backward, and how to trust it
#
# Training needs to know how the loss changes with every weight, every bias and every pixel of the
# input: three gradients, dw, db and dx. The first two follow from section 4. Each weight multiplies
# one pixel of every window, so dw is again one product: the gradient dy of the result times the
# same matrix of windows. A bias is added to every pixel of its map, so db is a sum.

# %%
x = random.standard_normal((2, 3, 6, 6))
w = random.standard_normal((4, 3, 3, 3))
b = random.standard_normal(4)
dy = random.standard_normal((2, 4, 6, 6))
gradients = functional.conv2d_backward(dy, x, w, padding=1, backend="numpy")

of_pixels = dy.transpose(0, 2, 3, 1).reshape(-1, len(w))  # a row a window, as im2col has them
dw = (of_pixels.T @ im2col(x)).reshape(w.shape)
db = of_pixels.sum(axis=0)
for name, mine in (("dw", dw), ("db", db)):
    largest = abs(mine - getattr(gradients, name)).max()
    print(f"{name} by hand: largest difference {largest:.1e}")

# %% [markdown]
# The third, dx, spreads each dy back over the window it came from. It is a forward convolution with
# kernels rotated by 180 degrees, and with channels and filters swapped. To test all three, move one
# number slightly up and down, in float64: the slope of the loss must equal the gradient.


# %%
def loss():
    """Return a loss whose gradient with respect to the result is dy."""
    return (functional.conv2d(x, w, b, padding=1, backend="numpy") * dy).sum()


def slope(array, at, step=1e-6):
    """Return the slope of the loss in one number of an array, which stays unchanged."""
    value = array[at]
    array[at] = value + step
    up = loss()
    array[at] = value - step
    down = loss()
    array[at] = value
    return (up - down) / (2 * step)


for name, array in (("dx", x), ("dw", w), ("db", b)):
    for _ in range(3):
        at = tuple(int(random.integers(size)) for size in array.shape)
        gradient = getattr(gradients, name)[at]
        print(f"{name}{list(at)}: gradient {gradient:9.5f}, slope {slope(array, at):9.5f}")

# %% [markdown]
# Slopes agree to some digits only. This library's own tests are stricter: on small integers every
# partial sum is exact in float32, in any order, so a correct kernel gives *equal* results, to the
# last bit.
#
# ## 6. Training, on three libraries
#
# The network: convolution to 8 channels, ReLU, max-pool; convolution to 16, ReLU, max-pool; a
# linear layer to 10 classes. Every backend starts from the same weights and sees the same batches
# in the same order; only the kernels of the convolutions and max-pools differ.

# %%
trained = {}
for name in ("numpy", "numba", "numba-simd", "torch-cpu"):
    try:
        backend = registry.load(name)
    except Unsupported as reason:
        print(f"{name}: {reason}")
        continue
    options = Options(epochs=EPOCHS)
    train(backend, Options(most_steps=1))  # compiles
    done = train(backend, options)
    trained[name] = Trained(name, options, done.state), done
    last = done.epochs[-1]
    print(
        f"{name:12s} {done.seconds:6.2f} s, loss {last.loss:.6f}, "
        f"{100 * last.test_accuracy:.1f} % of the test images right"
    )

# %%
figure = go.Figure()
for name, (_, done) in trained.items():
    figure.add_scatter(y=done.step_losses, name=name)
figure.update_layout(
    title="Loss of every batch: the curves lie on each other",
    xaxis_title="step", yaxis_title="cross-entropy", yaxis_type="log", template="plotly_white",
)  # fmt: skip
show(figure)

# %% [markdown]
# If one curve left the others, its backend would be wrong. A benchmark without this check may only
# measure how fast wrong results are.
#
# ### The same in PyTorch
#
# So far only the kernels changed; this library's own loop computed steps, loss and optimizer.
# PyTorch has all of these. Autograd records the forward pass and derives the backward pass from it,
# and SGD takes the step. From the same weights, with the same batches, it reaches the same loss.
# The two can be combined: `convert` leaves a model and its training unchanged, but lets a backend
# compute its convolutions and max-pools.


# %%
def train_in_pytorch(options, kernels=None):
    """Train the digits network by autograd; return the seconds it took and the last mean loss."""
    dataset, _, state = start(options)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(1, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Conv2d(8, 16, 3, padding=1), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
        torch.nn.Flatten(), torch.nn.Linear(64, 10),
    )  # fmt: skip
    with torch.no_grad():
        for parameter, (name, value) in zip(model.parameters(), state.items(), strict=True):
            parameter.copy_(torch.tensor(value.T if name == "linear.weight" else value))
    if kernels is not None:
        convert(model, kernels)
    weights = [parameter for parameter in model.parameters() if parameter.ndim > 1]
    biases = [parameter for parameter in model.parameters() if parameter.ndim == 1]
    optimizer = torch.optim.SGD(
        [{"params": weights, "weight_decay": options.weight_decay}, {"params": biases}],
        lr=options.learning_rate,
        momentum=options.momentum,
    )
    images, labels = map(torch.from_numpy, (dataset.train_images, dataset.train_labels))
    began = time.perf_counter()
    for order in orders(options):
        losses = []
        for batch in torch.from_numpy(order).split(options.batch_size):
            loss = torch.nn.functional.cross_entropy(model(images[batch]), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
    return time.perf_counter() - began, statistics.fmean(losses)


if torch is not None:
    from cnnkernels.torch import convert

    for kernels in (None, *(name for name in ("numba-simd",) if name in trained)):
        seconds, last = train_in_pytorch(Options(epochs=EPOCHS), kernels)
        whose = "its own kernels" if kernels is None else f"kernels of {kernels}"
        print(f"autograd with {whose}: {seconds:.2f} s, last loss {last:.6f}")

# %% [markdown]
# ## 7. What it has learned
#
# These charts show the filters of the first layer, their output for an image, the output of the
# deeper layer, and the remaining mistakes.

# %%
for chart in learnt.charts(trained["numpy"][0]):
    show_chart(chart)

# %% [markdown]
# ## 8. Why each backend is as fast as it is
#
# We time three layers: a typical one of real networks, 3x3 with 64 channels in and out on 28x28
# pixels; the same with a 1x1 kernel; and the first layer of our network. A multiplication and an
# addition count as two operations.

# %%
layers = {
    "3x3": Conv2D(1, 64, 28, 28, 64, 3, padding=1),
    "1x1": Conv2D(1, 64, 28, 28, 64, 1),
    "digits": Conv2D(64, 1, 8, 8, 8, 3, padding=1),
}


def seconds_of(name, problem, repeats=3 if QUICK else 15):
    """Return the median seconds of a forward call."""
    backend = registry.load(name)
    arrays = [
        backend.arrays.put(random.standard_normal(shape).astype(np.float32))
        for shape in (problem.shapes.x, problem.shapes.w, problem.shapes.b)
    ]
    taken = []
    for _ in range(repeats + 1):  # the first may compile, and is dropped
        began = time.perf_counter()
        backend.convolution.forward(problem, *arrays)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken[1:])


rows = []
for label, problem in layers.items():
    for name in trained:
        row = Row(label, str(problem), "conv2d", "forward", name, host.cores(), "ok")
        row.seconds = seconds_of(name, problem)
        row.gflops = problem.flops("forward") / row.seconds / 1e9
        rows.append(row)
        print(f"{label:6s} {name:12s} {1e3 * row.seconds:7.3f} ms, {row.gflops:6.1f} GFLOP/s")

# %% [markdown]
# - **naive**, the loops of section 2, would take minutes: interpreting each addition takes Python a
#   hundred times as long as the addition itself.
# - **numpy** copies the windows, then multiplies matrices at nearly the processor's peak. The
#   copies cost the rest.
# - **numba** compiles the loops, and copies nothing. Its limit is the number of loads for each
#   operation.
# - **numba-simd** keeps a tile of results in registers, and uses each loaded number for many
#   operations, eight or sixteen at once.
# - **torch-cpu** calls oneDNN, which works the same way, with code generated for each shape at run
#   time.
#
# ## 9. How fast could it be? The roofline
#
# A processor has a limit of operations a second, and its memory a limit of bytes a second. Calls
# with few operations per byte are limited by memory, those with many by arithmetic. Both limits can
# be measured and drawn as a roof: the slope of memory on the left, the flat top of arithmetic on
# the right. A layer's operations per byte give its position from left to right, and each backend is
# a mark below the roof.

# %%
ceilings = limits.measure_ceilings(host.cores())
if "reason" in ceilings:
    print("not measured here:", ceilings["reason"])
else:
    peak = ceilings["flops"]["float32"] / 1e9
    memory = ceilings["bandwidth"][max(ceilings["bandwidth"], key=int)] / 1e9
    print(f"peak {peak:.0f} GFLOP/s, memory {memory:.0f} GB/s, with {host.cores()} threads")
    for label, problem in layers.items():
        intensity = problem.flops("forward") / problem.bytes_moved("forward")
        print(
            f"{label:6s} does {intensity:5.1f} operations a byte: memory alone would allow "
            f"{intensity * memory:.0f} GFLOP/s"
        )
    for row in rows:
        row.ceiling_fraction = row.gflops / peak
        print(f"{row.case:6s} {row.backend:12s} {100 * row.ceiling_fraction:4.0f} % of the peak")
    for chart in charts.rooflines(rows, {str(host.cores()): ceilings}, charts.colours(trained)):
        show_chart(chart)

# %% [markdown]
# More than 100 % is impossible. A mark above the slope of memory belongs to a layer whose arrays
# fit in a cache; the dotted slope is that of the nearest cache. A mark far below both limits spends
# its time on other things: copies, calls, threads that wait for each other.
#
# ## 10. Reading a comparison
#
# Time the same call twice, and the two times differ. Is B faster than A, or was the machine busy?
# Time them in turns, A B B A, so a slow drift affects both equally. Take the ratio in every round,
# then the mean of all ratios, with an interval that contains the true ratio in 99 of 100 cases.
# Also time A against itself: that difference is noise, the *A/A floor*, and smaller differences
# don't count.

# %%
rounds = 6 if QUICK else 12


def in_turns(one, other):
    """Return the seconds of two backends, timed A B B A in each round."""
    samples = {0: [], 1: []}
    for _ in range(rounds):
        for which in (0, 1, 1, 0):
            samples[which].append(seconds_of((one, other)[which], layers["3x3"], repeats=3))
    return timing.Samples(samples[0]), timing.Samples(samples[1])


for one, other in (("numpy", "numpy"), ("numba-simd", "numpy")):
    if {one, other} <= set(trained):
        found = timing.ratio(*in_turns(one, other))
        interval = f"[{found.low:.2f}, {found.high:.2f}]"
        print(f"{one} is {found.value:.2f} times as fast as {other} {interval}")

# %% [markdown]
# `cnnbench time` does this with each backend in its own process, so thread pools do not disturb
# each other, and starts the processes anew several times, as each has a speed of its own. It checks
# each kernel before timing it, and says FASTER or SLOWER only if the interval is beyond 1 and the
# ratio beyond the floor.
#
# ## 11. Choosing
#
# - Small images and a small network: the time *between* the kernels decides. `cnnbench train` shows
#   it, and `numba (compiled run)` avoids it.
# - Large layers: the kernels decide. Time your own shapes: `cnnbench time --cases
#   "ic64ih56oc128kh3ph1"`.
# - A few seconds of work in all: look at the *first* call. Compiled code is cached, but must be
#   compiled once.
# - Differences within the interval are no reason for a choice.
#
# ## Exercises
#
# 1. A third convolution: `cnnbench train --arch digits-deep`. Does it learn faster per epoch? Per
#    second?
# 2. Strides instead of max-pools: `--arch digits-strided`. How does the time of each layer change?
# 3. `--batchnorm`, `--optimizer adam`: compare the loss curves.
# 4. Your own images: save `images` (N, C, H, W) and `labels` (N,) with `numpy.savez`, and pass the
#    file with `--data`.
# 5. Look at the feature maps of a deeper layer, for a misclassified digit.
