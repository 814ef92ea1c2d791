"""Named tuples as compiled code reads them: a row of integers and of arrays' addresses."""

from __future__ import annotations

from typing import Any

import numba
from numba import types
from numba.extending import intrinsic


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typingctx: Any, address: Any, like: Any) -> Any:
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return like(address, like), emit


@numba.njit
def array_at(address, like, shape):  # type: ignore[no-untyped-def]
    """Return the array at an address, of the dtype that the pointer `like` points to."""
    return numba.carray(_pointer(address, like), shape)


@intrinsic  # type: ignore[untyped-decorator]
def _void(typingctx: Any, address: Any) -> Any:
    del typingctx

    def emit(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

    return types.voidptr(address), emit


@numba.njit
def array_of(dtype, address, shape):  # type: ignore[no-untyped-def]
    """Return the array of a dtype at an address."""
    return numba.carray(_void(address), shape, dtype)
