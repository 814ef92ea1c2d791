"""Trained weights in an npz file without pickles, with the options that made them.

Arrays are named as in `cnnbench.digits.network.initial_state`. The array ``options`` holds the
options and the backend's name, as JSON in bytes.
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
    """Trained weights, with the backend and options that produced them."""

    backend: str
    options: Options
    state: State


def pack(trained: Trained) -> bytes:
    """Return a trained network as the bytes of an npz file."""
    described = {"backend": trained.backend, **dataclasses.asdict(trained.options)}
    buffer = io.BytesIO()
    options = np.frombuffer(json.dumps(described).encode(), np.uint8)
    np.savez(buffer, allow_pickle=False, options=options, **trained.state)
    return buffer.getvalue()


def unpack(packed: bytes, source: str) -> Trained:
    """Return the trained network from the bytes of `pack`.

    Parameters
    ----------
    packed : bytes
    source : str
        Their origin, for error messages.

    Raises
    ------
    DataError
        If they are not from `pack`.
    """
    try:
        with np.load(io.BytesIO(packed), allow_pickle=False) as stored:
            state = dict(stored)
        described = json.loads(state.pop("options").tobytes())
        backend = described.pop("backend")
        return Trained(backend, Options(**described), state)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, EOFError, zipfile.BadZipFile):
        raise DataError(f"{source}: expected weights saved by cnnbench train") from None


def as_text(trained: Trained) -> str:
    """Return a trained network as text for JSON."""
    return base64.b64encode(pack(trained)).decode("ascii")


def from_text(text: str, source: str) -> Trained:
    """Return the trained network from the text of `as_text`.

    Raises
    ------
    DataError
        If the text is not from `as_text`.
    """
    try:
        packed = base64.b64decode(text, validate=True)
    except ValueError:
        packed = b""
    return unpack(packed, source)


def read(path: Path) -> Trained:
    """Read a trained network from a file.

    Raises
    ------
    DataError
        If the file cannot be read, or holds no trained network.
    """
    try:
        packed = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}") from None
    return unpack(packed, str(path))


def _network(options: Options) -> str:
    """Return the command-line options that select a network."""
    return f"--arch {options.architecture}{' --batchnorm' if options.batchnorm else ''}"


def start(plan: Plan, options: Options) -> State:
    """Return the initial weights: drawn by the seed, or from a file.

    Raises
    ------
    DataError
        If the file's weights belong to another network, by its options or their shapes.
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
            f"{options.weights}: its weights belong to another network: expected {expected}, got "
            f"{got}, trained by {stored.backend} with {describe(made)}; "
            "use the same --arch, --batchnorm and --data"
        )
    return {name: state[name].astype(drawn[name].dtype) for name in drawn}
