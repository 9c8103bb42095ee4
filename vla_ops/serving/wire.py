"""Messages as openpi's clients and server write them: msgpack, with arrays as maps of bytes. Nothing is ever unpickled.

An array is `{b"__ndarray__": True, b"data": bytes in C order, b"dtype": "<f4", b"shape": [..]}`, a numpy scalar `{b"__npgeneric__": True,
b"data": value, b"dtype": ..}`.
"""

from __future__ import annotations

import math
from typing import Any

import msgpack
import numpy as np

from vla_ops.errors import RequestError

# Numbers and text; never objects, records or complex numbers.
_KINDS = "biufUS"
# Kinds whose memory msgpack takes without a copy.
_BUFFERS = "biuf"
_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"


class UnreadableError(RequestError):
    """Bytes that are no message: what follows them need not be one either."""


def pack(value: Any) -> bytes:
    """Values with numpy arrays in them as bytes. Raise ValueError for arrays that no client could read."""
    packed = msgpack.packb(value, default=_encoded)
    return bytes(packed or b"")


def unpack(message: bytes | bytearray) -> Any:
    """The inverse of `pack`; arrays are read-only views of the message. Raise UnreadableError for bytes that are none."""
    try:
        return msgpack.unpackb(message, object_hook=_decoded)
    except UnreadableError:
        raise
    # msgpack raises its own and ValueError; numpy TypeError for a dtype that is none.
    except (ValueError, TypeError, RecursionError) as error:
        raise UnreadableError(
            "the message cannot be read",
            found=f"{len(message)} bytes: {type(error).__name__}: {str(error)[:200]}",
            expected="msgpack, arrays as openpi-client packs them",
        ) from error


def _encoded(value: Any) -> Any:
    if not isinstance(value, np.ndarray | np.generic):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    if value.dtype.kind in "VOc":
        raise ValueError(f"Unsupported dtype: {value.dtype}")
    if isinstance(value, np.generic):
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    whole = value if value.flags.c_contiguous else np.array(value, order="C")
    data = whole.data if value.dtype.kind in _BUFFERS and value.size else whole.tobytes()
    return {_ARRAY: True, b"data": data, b"dtype": value.dtype.str, b"shape": value.shape}


def _decoded(value: dict[Any, Any]) -> Any:
    if _ARRAY in value:
        return _array(value)
    if _SCALAR in value:
        return _dtype(value).type(value.get(b"data"))
    return value


def _array(value: dict[Any, Any]) -> np.ndarray[Any, Any]:
    data, dtype, shape = value.get(b"data"), _dtype(value), value.get(b"shape")
    is_shape = isinstance(shape, list | tuple) and all(type(side) is int and side >= 0 for side in shape)
    if not isinstance(data, bytes) or not is_shape or len(data) != dtype.itemsize * math.prod(shape or ()):
        there = f"{len(data)} bytes" if isinstance(data, bytes) else type(data).__name__
        raise UnreadableError("an array is not of its shape", found=f"{there}, dtype {dtype}, shape {shape}", expected="C order, all of it")
    return np.ndarray(tuple(shape or ()), dtype, data)


def _dtype(value: dict[Any, Any]) -> np.dtype[Any]:
    name = value.get(b"dtype")
    dtype = np.dtype(name) if isinstance(name, str) and len(name) < 16 else None
    if dtype is None or dtype.kind not in _KINDS or dtype.subdtype is not None:
        raise UnreadableError("arrays of this dtype are refused", found=str(name)[:40], expected="numbers, booleans or text, such as '<f4'")
    return dtype
