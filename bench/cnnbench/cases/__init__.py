"""Sets of named problems: one file for each set, one descriptor a line.

A line ``--mb=N`` sets the batch of later descriptors without one; ``#`` starts a comment. The 2-D
files ``inputs/conv/shapes_*`` of oneDNN's benchdnn can be read unchanged.
"""

from __future__ import annotations

import dataclasses
import difflib
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from cnnkernels.conformance import CORNER, CORNER_ONNX
from cnnkernels.descriptor import Case, DescriptorError, parse_case

_BUILT_IN_BATCH = 8
_DESCRIPTOR = re.compile(r"_*(?:g|mb|[io]c|[iokspd][hw])\d")

SETS = (
    "digits",
    "digits-deep",
    "corner",
    "corner-onnx",
    "resnet18",
    "resnet50",
    "resnet50-v1.5",
    "vgg16",
    "alexnet",
    "mobilenet-v1",
    "pools",
)
"""The built-in sets."""


class CaseError(ValueError):
    """Cases that cannot be loaded; the message says what was expected."""


@dataclass(frozen=True)
class CaseSet:
    """A set of cases, such as the layers of a network; its times are also summed.

    Attributes
    ----------
    name : str
        Name of the set; empty for single descriptors, which are not summed.
    cases : tuple of Case
    """

    name: str
    cases: tuple[Case, ...]


def load(text: str, batch: int | None = None, dtype: str | None = None) -> list[CaseSet]:
    """Return the cases in a comma-separated list of sets, files and descriptors.

    Parameters
    ----------
    text : str
        For instance ``digits``, ``resnet50,my_layers.txt`` or ``mb8ic3ih32oc16kh3ph1``.
    batch : int, optional
        The batch of descriptors without one; it overrides the file's.
    dtype : str, optional
        'float32' or 'float64'; it overrides the descriptors'.

    Raises
    ------
    CaseError
        If a name is unknown, a file cannot be read, or a descriptor is malformed.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words:
        raise CaseError(f"no cases given; expected a set ({', '.join(SETS)}), file or descriptor")
    sets = [_load_one(word, batch) for word in words]
    if dtype is None:
        return sets
    return [
        CaseSet(
            group.name,
            tuple(
                dataclasses.replace(case, problem=dataclasses.replace(case.problem, dtype=dtype))
                for case in group.cases
            ),
        )
        for group in sets
    ]


def _load_one(word: str, batch: int | None) -> CaseSet:
    if word in SETS:
        return _load_set(word, batch)
    path = Path(word)
    if _is_file(path):
        try:
            text = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CaseError(f"{word}: cannot be read: {error}") from None
        return CaseSet(path.stem, _read(text, word, batch))
    if _DESCRIPTOR.match(word):
        try:
            return CaseSet("", (_parsed(word, _BUILT_IN_BATCH if batch is None else batch),))
        except DescriptorError as error:
            raise CaseError(str(error)) from None
    close = difflib.get_close_matches(word, SETS, n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise CaseError(
        f"{word!r} is no set{hint}, file or descriptor; the sets are {', '.join(SETS)}, "
        "and a descriptor looks like mb8ic3ih32oc16kh3ph1"
    )


def _parsed(text: str, batch: int | None) -> Case:
    """Parse a hand-written case; refuse an output size whose windows see only padding.

    The language allows such sizes, and `str` of a problem may have them. In a hand-written
    descriptor they are a typo.
    """
    case = parse_case(text, batch)
    problem = case.problem
    found = re.finditer(r"(?<![a-z])([op][hw])\d+", text.split('n"')[0])
    sizes = {match[1]: match for match in found}
    for axis, letter in enumerate("hw"):
        written = sizes.get(f"o{letter}", sizes.get("oh"))
        extent = problem.dilation[axis] * (problem.kernel_size[axis] - 1) + 1
        before, after = problem.padding[axis]
        symmetric = before == after and not {"ph", "pw"}.isdisjoint(sizes)
        if written and after >= extent and after >= before and not symmetric:
            what = f"'{written[0]}': {after} pixels of padding would follow the image"
            only = f"windows of {extent} pixels would see padding alone"
            raise DescriptorError(text, written.start(), f"{what}, and {only}")
    return case


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except OSError:  # such as a name that is too long
        return False


def _load_set(name: str, batch: int | None) -> CaseSet:
    corner = {"corner": CORNER, "corner-onnx": CORNER_ONNX}
    if name in corner:
        return CaseSet(name, tuple(parse_case(text) for text in corner[name]))
    text = resources.files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    return CaseSet(name, _read(text, name, batch))


def _read(text: str, source: str, batch: int | None) -> tuple[Case, ...]:
    cases = []
    usual = _BUILT_IN_BATCH
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.split("#", 1)[0].strip()
        if not line:
            continue
        option = re.fullmatch(r"--mb=(\d+)", line)
        if option:
            usual = int(option[1])
            continue
        if line.startswith("--"):
            raise CaseError(f"{source}, line {number}: expected the option --mb=N, got {line}")
        try:
            cases.append(_parsed(line, usual if batch is None else batch))
        except DescriptorError as error:
            raise CaseError(f"{source}, line {number}: {error}") from None
    if not cases:
        raise CaseError(f"{source}: expected at least one descriptor")
    return tuple(cases)
