"""Problems as one line of text, in the language of oneDNN's benchdnn.

``g1mb64ic1ih8oc8oh8kh3ph1n"digits.conv1*1"`` describes a convolution of 64 images with one channel
of 8x8 pixels, into 8 channels, with a 3x3 kernel and one pixel of padding. Its name is
digits.conv1, and it occurs once in its network. Each key is followed by an integer; keys may come
in any order [1]_:

=====================  ====================================================================
``g mb ic oc``         groups (1), batch, channels in and out; without ``oc``, a max-pool
``ih oh kh sh ph dh``  rows: input, output, kernel, stride (1), padding before, dilation - 1 (0)
``iw ow kw sw pw dw``  columns; each defaults to the ``h`` key of its kind
``n"NAME*LAYERS"``     a name, and the number of layers with this problem in its network (1)
``f64``                computed in float64 instead of float32
``bias0``              without bias
``_``                  ignored
=====================  ====================================================================

Numbers in parentheses are the defaults. ``oh`` and ``ph`` are optional. ``ph`` alone means equal
padding on both sides. ``oh`` alone means the padding that this output needs, with the smaller half
before the image. With both, the padding after the image follows from the output, so that asymmetric
padding needs no keys of its own. Without both, there is no padding. A max-pool's stride defaults to
1, as in benchdnn.

References
----------
.. [1] oneDNN, tests/benchdnn/doc/driver_conv.md and driver_pool.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cnnkernels.contract import Conv2D, MaxPool2D, Problem
from cnnkernels.geometry import MOST, Pair, out_size

_TOKEN = re.compile(r'_|n"(?P<name>[^"]*)"|(?P<key>[a-z]+)(?P<value>\d+)', re.ASCII)
_NAME = re.compile(r"(?P<name>.*?)(?:\*(?P<layers>\d+))?", re.DOTALL | re.ASCII)
_AXIS_KEYS = frozenset(kind + axis for kind in "ioksdp" for axis in "hw")
_KEYS = _AXIS_KEYS | {"g", "mb", "ic", "oc", "f", "bias"}
_DEPTH = frozenset(("id", "od", "kd", "sd", "pd", "dd"))


class DescriptorError(ValueError):
    """A descriptor cannot be parsed; the message marks the position of the error."""

    def __init__(self, text: str, place: int, what: str) -> None:
        super().__init__(f"descriptor: {what}\n  {text}\n  {' ' * place}^")


@dataclass(frozen=True)
class Case:
    """A problem with a name, and the number of layers in its network that share it."""

    problem: Problem
    name: str = ""
    layers: int = 1

    def __str__(self) -> str:
        """Return the canonical descriptor with name and layers, the inverse of `parse_case`."""
        named = self.name or self.layers != 1
        return str(self.problem) + (f'n"{self.name}*{self.layers}"' if named else "")

    @property
    def label(self) -> str:
        """The name, or the descriptor if the case has no name."""
        return self.name or str(self.problem)


def parse(text: str, batch: int | None = None) -> Problem:
    """Return the problem of a descriptor; ignore its name.

    Parameters
    ----------
    text : str
        The descriptor.
    batch : int, optional
        The batch if the descriptor has no ``mb``.

    Raises
    ------
    DescriptorError
        If the descriptor is malformed, incomplete or inconsistent; the message marks the position.
    """
    return parse_case(text, batch).problem


def parse_case(text: str, batch: int | None = None) -> Case:
    """Return the problem of a descriptor with its name and layers; otherwise like `parse`."""
    text = text.strip()
    values, places = _tokens(text)
    end = len(text)
    name, layers = "", 1
    if "n" in places:
        matched = _NAME.fullmatch(str(values.pop("n")))
        assert matched is not None  # it matches any text
        name, layers = matched["name"], _number(text, places, "n", matched["layers"] or "1")
        if layers < 1:
            raise DescriptorError(text, places["n"], "expected at least one layer, got *0")
    numbers = {key: _number(text, places, key, value) for key, value in values.items()}

    for key in ("ic", "ih", "kh"):
        if key not in numbers:
            raise DescriptorError(text, end, f"'{key}' is missing")
    if "mb" not in numbers and batch is None:
        raise DescriptorError(text, end, "'mb', the batch, is missing and none was given")
    bits = numbers.get("f", 32)
    if bits not in (32, 64):
        raise DescriptorError(text, places["f"], f"expected f32 or f64, got f{bits}")
    if numbers.get("bias", 1) not in (0, 1):
        raise DescriptorError(text, places["bias"], "expected bias0 or bias1")

    sizes: dict[str, Pair] = {}
    for key, usual in (("i", None), ("k", None), ("s", 1), ("d", 0)):
        high = numbers.get(f"{key}h", usual)
        assert high is not None  # ih and kh were asked for above
        sizes[key] = (high, numbers.get(f"{key}w", high))
    square = all(high == wide for high, wide in sizes.values())
    pads = []
    for axis, letter in enumerate("hw"):
        out, before = numbers.get(f"o{letter}"), numbers.get(f"p{letter}")
        if letter == "w":
            if before is None:
                before = numbers.get("ph")
            if out is None and square and "pw" not in numbers:
                out = numbers.get("oh")
        place = places.get(f"o{letter}", places.get("oh", end))
        size, kernel, stride, dilation = (sizes[key][axis] for key in "iksd")
        if size < 1 or kernel < 1 or stride < 1:
            bad = next(k for k in "iks" if sizes[k][axis] < 1)
            where = places.get(f"{bad}{letter}", places.get(f"{bad}h", end))
            raise DescriptorError(text, where, f"expected '{bad}{letter}' to be at least 1")
        try:
            pads.append(_pads(size, kernel, stride, dilation + 1, out, before))
        except ValueError as error:
            raise DescriptorError(text, place, f"'o{letter}': {error}") from None

    common = {
        "batch": numbers.get("mb", batch),
        "height": sizes["i"][0],
        "width": sizes["i"][1],
        "kernel_size": sizes["k"],
        "stride": sizes["s"],
        "dilation": (sizes["d"][0] + 1, sizes["d"][1] + 1),
        "padding": tuple(pads),
        "dtype": f"float{bits}",
    }
    try:
        if "oc" in numbers:
            problem: Problem = Conv2D(
                in_channels=numbers["ic"],
                out_channels=numbers["oc"],
                groups=numbers.get("g", 1),
                bias=bool(numbers.get("bias", 1)),
                **common,  # type: ignore[arg-type]
            )
        else:
            for key in ("g", "bias"):
                if key in numbers:
                    raise DescriptorError(
                        text, places[key], f"'{key}' without 'oc': a max-pool has none"
                    )
            problem = MaxPool2D(channels=numbers["ic"], **common)  # type: ignore[arg-type]
    except DescriptorError:
        raise
    except ValueError as error:
        raise DescriptorError(text, end, str(error)) from None
    return Case(problem, name, layers)


def _number(text: str, places: dict[str, int], key: str, digits: str) -> int:
    """Return a key's integer; check its length first, as Python limits the digits it parses."""
    digits = digits.lstrip("0") or "0"
    if len(digits) > len(str(MOST)) or int(digits) > MOST:
        raise DescriptorError(text, places[key], f"'{key}': expected a number of at most {MOST}")
    return int(digits)


def _tokens(text: str) -> tuple[dict[str, str], dict[str, int]]:
    values: dict[str, str] = {}
    places: dict[str, int] = {}
    place = 0
    while place < len(text):
        token = _TOKEN.match(text, place)
        if token is None:
            raise DescriptorError(
                text, place, 'expected a key and an integer, such as ic16, or n"name*layers"'
            )
        named = token["name"] is not None
        key = "n" if named else token["key"]
        if key is not None:
            if key in _DEPTH:
                raise DescriptorError(text, place, f"'{key}': only 2-D problems are known here")
            if not named and key not in _KEYS:
                raise DescriptorError(text, place, f"unknown key '{key}'")
            if key in values:
                raise DescriptorError(text, place, f"'{key}' is given twice")
            values[key] = token["name"] if named else token["value"]
            places[key] = place
        place = token.end()
    return values, places


def _pads(
    size: int, kernel: int, stride: int, dilation: int, out: int | None, before: int | None
) -> Pair:
    """Return the padding before and after along one axis."""
    if out is None:
        return before or 0, before or 0
    if out < 1:
        raise ValueError(f"expected at least 1, got {out}")
    total = (out - 1) * stride + dilation * (kernel - 1) + 1 - size
    if before is None:
        before = max(0, total) // 2
    after = max(0, total - before)
    fitting = out_size(size, (before, after), kernel, stride, dilation)
    if fitting != out:
        raise ValueError(
            f"{out} windows would leave pixels unread (negative padding); {fitting} fit"
        )
    return before, after
