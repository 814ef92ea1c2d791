"""What a network has learnt, in an npz file without pickles, with the options that made it.

Arrays have the names of `cnnbench.digits.network.initial_state`; the array ``options`` is JSON in
bytes: the options, and the name of the backend.
"""

from __future__ import annotations

import base64
import dataclasses
import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from cnnbench.digits.data import DataError
from cnnbench.digits.network import Plan, State, initial_state
from cnnbench.digits.options import Options, describe


@dataclass(frozen=True)
class Trained:
    """A network that has been trained: by what, how, and to what."""

    backend: str
    options: Options
    state: State


def pack(trained: Trained) -> bytes:
    """Return the bytes of an npz file."""
    told = {"backend": trained.backend, **dataclasses.asdict(trained.options)}
    buffer = io.BytesIO()
    options = np.frombuffer(json.dumps(told).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, options=options, **trained.state)
    return buffer.getvalue()


def unpack(packed: bytes, source: str) -> Trained:
    """Return what was packed.

    Parameters
    ----------
    packed : bytes
    source : str
        Where they come from, for errors.

    Raises
    ------
    DataError
        If they are no such file.
    """
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            state = dict(stored)
        told = json.loads(state.pop("options").tobytes())
        backend = told.pop("backend")
        return Trained(backend, Options(**told), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise DataError(
            f"{source}: expected weights that cnnbench train has saved, and this is none"
        ) from None


def as_text(trained: Trained) -> str:
    """Return what `from_text` reads: for JSON."""
    return base64.b64encode(pack(trained)).decode("ascii")


def from_text(text: str, source: str) -> Trained:
    """Return what `as_text` wrote.

    Raises
    ------
    DataError
        If the text is no such one.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        packed = b""
    return unpack(packed, source)


def read(path: Path) -> Trained:
    """Return what a file has.

    Raises
    ------
    DataError
        If it cannot be read, or is no such file.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return unpack(packed, str(path))


def _network(options: Options) -> str:
    """Return which layers options mean, as the command line has it."""
    return f"--arch {options.architecture}{' --batchnorm' if options.batchnorm else ''}"


def start(plan: Plan, options: Options) -> State:
    """Return what a training starts from: weights drawn by its seed, or those of a file.

    Raises
    ------
    DataError
        If the file's weights are of another network: by its options, or by their shapes.
    """
    drawn = initial_state(plan, np.random.default_rng(options.seed))
    if not options.weights:
        return drawn
    stored = read(Path(options.weights))
    state, made = stored.state, stored.options
    wanted = {name: value.shape for name, value in drawn.items()}
    found = {name: value.shape for name, value in state.items()}
    expected, got = _network(options), _network(made)
    if got == expected and found != wanted:
        name = min({*wanted.items()} ^ {*found.items()})[0]
        expected, got = (
            f"{name} of shape {shapes.get(name, 'none')}" for shapes in (wanted, found)
        )
    if got != expected:
        raise DataError(
            f"{options.weights}: its weights are of another network: expected {expected}, got "
            f"{got}, trained by {stored.backend} with {describe(made)}; "
            "give the --arch, --batchnorm and --data that it was trained with"
        )
    return {name: state[name].astype(drawn[name].dtype) for name in drawn}
