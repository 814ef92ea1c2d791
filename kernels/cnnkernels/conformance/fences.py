"""Poisoned, fenced memory that reveals reads before writes, and writes out of bounds."""

from __future__ import annotations

import numpy as np

_FENCE = 64
"""Elements of the fence on each side; a multiple of the vectors' alignment."""


class Fences:
    """An allocator for `arrays.allocating` that detects writes to the fences afterwards."""

    def __init__(self) -> None:
        self._fenced: list[np.ndarray] = []

    def __call__(self, shape: tuple[int, ...], dtype: str) -> np.ndarray:
        """Return a new array filled with poison: NaN, or the dtype's largest integer."""
        elements = int(np.prod(shape, dtype=np.int64))
        memory = np.full(elements + 2 * _FENCE, _poison(dtype), dtype)
        self._fenced.append(memory)
        return memory[_FENCE : _FENCE + elements].reshape(shape)

    def trodden(self) -> str | None:
        """Return a message about the first damaged fence, or None."""
        for memory in self._fenced:
            poison = np.full(_FENCE, _poison(memory.dtype.name), memory.dtype)
            for side, fence in (("before", memory[:_FENCE]), ("beyond", memory[-_FENCE:])):
                if fence.tobytes() != poison.tobytes():
                    return f"wrote {side} an array of {memory.size - 2 * _FENCE} elements"
        return None


def _poison(dtype: str) -> float | int:
    kind = np.dtype(dtype)
    return float("nan") if kind.kind == "f" else int(np.iinfo(kind).max)
