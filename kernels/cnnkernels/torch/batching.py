"""Rules of `torch.func.vmap` for functions of images: fold the batch into N, or loop over it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor


class Batch:
    """The inputs of a function for each element of a batch.

    Parameters
    ----------
    size : int
        Number of elements.
    dims : sequence
        For each input, the axis of the batch, or None; a list of them for a list.
    inputs : sequence

    Attributes
    ----------
    size : int
    batched : list of bool
        Which inputs differ between elements.
    elements : list of list
        The inputs of each element.
    """

    def __init__(self, size: int, dims: Sequence[Any], inputs: Sequence[Any]) -> None:
        self.size = size
        self.batched = [_is_batched(dim) for dim in dims]
        self.elements = [_element(list(inputs), dims, index) for index in range(size)]

    def joined(self, position: int) -> Any:
        """Return an input, images or a list of such tensors, of all elements one after another."""
        parts = [element[position] for element in self.elements]
        if isinstance(parts[0], list):
            return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]
        return torch.cat(parts)


Fold: TypeAlias = Callable[[Batch], "list[Any] | None"]
"""Returns a function's inputs for the images of all elements, or None.

None if one call cannot compute all elements, as when each has weights of its own.
"""


def mapped(
    function: Callable[..., tuple[Tensor, ...]], fold: Fold, batch: Batch
) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
    """Return a function's outputs for each element of a batch, and the axis of the batch in each.

    Calls the function once, if `fold` can fold the batch, else for each element.
    """
    folded = fold(batch)
    if folded is not None:
        outputs = function(*folded)
        parted = tuple(y.unflatten(0, (batch.size, y.shape[0] // batch.size)) for y in outputs)
    else:
        of_each = [function(*element) for element in batch.elements]
        parted = tuple(map(torch.stack, zip(*of_each, strict=True)))
    return parted, (0,) * len(parted)


def _is_batched(dim: Any) -> bool:
    return any(map(_is_batched, dim)) if isinstance(dim, list | tuple) else dim is not None


def _element(one: Any, dim: Any, index: int) -> Any:
    if isinstance(one, list | tuple):
        return [_element(part, its, index) for part, its in zip(one, dim, strict=True)]
    return one if dim is None else one.select(dim, index)
