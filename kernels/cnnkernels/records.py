"""Named tuples of integers and arrays that compiled code reads by name.

A kernel called by its address takes a table of int64. A `NamedTuple` class defines the contents of
such a table: Python fills it from a tuple of the class, and compiled code converts it back. Arrays
are stored as addresses.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numba
import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from cnnkernels.arrays import HEADER, POINTER_AT

Fields = TypeVar("Fields", bound=tuple[Any, ...])

_WORD = np.dtype(np.int64)


def words(fields: Iterable[Any]) -> np.ndarray:
    """Return the fields as int64: integers unchanged, arrays as addresses."""
    # `address_of` inlined: its call overhead would matter in the smallest calls.
    return np.array(
        [POINTER_AT(id(f) + HEADER).value if isinstance(f, np.ndarray) else f for f in fields],
        _WORD,
    )


@dataclass(frozen=True, eq=False)
class Record(Generic[Fields]):
    """A named tuple in memory that compiled code can read in every call.

    Attributes
    ----------
    fields : NamedTuple
        Integers and C-contiguous arrays.
    words : np.ndarray
        The fields as returned by `words`.
    address : int
        The address of `words`.
    """

    fields: Fields
    words: np.ndarray
    address: int


def record(fields: Fields) -> Record[Fields]:
    """Return the record of a named tuple; the record keeps the arrays alive."""
    table = words(fields)
    return Record(fields, table, table.ctypes.data)


@intrinsic  # type: ignore[untyped-decorator]
def read(typingctx: Any, kind: Any, table: Any) -> Any:
    """Return the named tuple of a class from a table or an address; all fields are integers."""
    del typingctx
    made = types.NamedUniTuple(types.int64, len(kind.instance_class._fields), kind.instance_class)

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        del signature
        word, place = ir.IntType(64), arguments[1]
        if isinstance(place.type, ir.IntType):
            place = builder.inttoptr(place, word.as_pointer())
        values = [
            builder.load(builder.gep(place, [word(number)]), align=8)
            for number in range(made.count)
        ]
        return context.make_tuple(builder, made, values)

    return made(kind, table), emit


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return like(address, like), emit


@numba.njit
def array_at(address, like, shape):  # type: ignore[no-untyped-def]
    """Return the array at an address, with the dtype of the pointer `like`."""
    return numba.carray(_pointer(address, like), shape)


@intrinsic  # type: ignore[untyped-decorator]
def _void(typingctx: Any, address: Any) -> Any:
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), emit


@numba.njit
def array_of(dtype, address, shape):  # type: ignore[no-untyped-def]
    """Return the array at an address, with the given dtype."""
    return numba.carray(_void(address), shape, dtype)
