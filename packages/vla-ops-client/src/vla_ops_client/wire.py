"""Messages as openpi's server and client write them: msgpack, with arrays as maps of bytes. Nothing is ever unpickled."""

from typing import Any, Dict

import msgpack
import numpy as np

_ARRAY, _SCALAR = b"__ndarray__", b"__npgeneric__"
_KINDS = "biufUS"


def pack(value: Any) -> bytes:
    """Values with numpy arrays in them as bytes. Raise ValueError for arrays of objects, records or complex numbers."""
    return msgpack.packb(value, default=_encoded)


def unpack(message: bytes) -> Any:
    """The inverse of `pack`; arrays are read-only. Raise ValueError for bytes that are none."""
    return msgpack.unpackb(message, object_hook=_decoded)


def _encoded(value: Any) -> Any:
    if not isinstance(value, (np.ndarray, np.generic)):
        raise TypeError(f"a {type(value).__name__} cannot be sent")
    if value.dtype.kind in "VOc":
        raise ValueError(f"Unsupported dtype: {value.dtype}")
    if isinstance(value, np.generic):
        return {_SCALAR: True, b"data": value.item(), b"dtype": value.dtype.str}
    whole = value if value.flags.c_contiguous else np.array(value, order="C")
    # Without a copy where msgpack can read the array's memory itself.
    data = whole.data if whole.dtype.kind in "biuf" and whole.size else whole.tobytes()
    return {_ARRAY: True, b"data": data, b"dtype": value.dtype.str, b"shape": value.shape}


def _decoded(value: Dict[Any, Any]) -> Any:
    if _ARRAY in value:
        return np.ndarray(buffer=value[b"data"], dtype=_dtype(value), shape=tuple(value[b"shape"]))
    if _SCALAR in value:
        return _dtype(value).type(value[b"data"])
    return value


def _dtype(value: Dict[Any, Any]) -> Any:
    dtype = np.dtype(value[b"dtype"])
    if dtype.kind not in _KINDS:
        raise ValueError(f"Unsupported dtype: {dtype}")
    return dtype
