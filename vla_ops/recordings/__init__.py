"""Raw files -> named streams. `open_recording` picks the reader by format."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

from vla_ops.errors import StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings.base import OpenOptions, Recording

FORMATS = ("mcap", "hdf5", "zarr")


def open_recording(path: str, format: str, options: OpenOptions | None = None) -> Recording:
    """Open a local recording file or folder with the reader of `format`."""
    options = options or OpenOptions()
    match format:
        case "mcap":
            from vla_ops.recordings.mcap import McapRecording

            return McapRecording(path, options)
        case "hdf5":
            from vla_ops.recordings.hdf5 import Hdf5Recording

            return Hdf5Recording(path, options)
        case "zarr":
            from vla_ops.recordings.zarr import ZarrRecording

            return ZarrRecording(path, options)
        case _:
            raise UnknownEncodingError(f"no reader for format {format!r}", expected=" | ".join(FORMATS), file=path)


def leading(data: bytes, size: int | None = None) -> str:
    """What errors say of bytes that are of no known kind: how many (`size` where `data` is only their beginning), and the first eight."""
    return f"{len(data) if size is None else size} bytes beginning with {data[:8]!r}" if data else "no bytes"


def missing_stream(name: str, known: Iterable[str], *, kind: str = "stream") -> StreamNotFoundError:
    """The error for a stream, field or joint that is not there, with the nearest names that are."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    listed = ", ".join(known[:12]) + (f", ... ({len(known)} in all)" if len(known) > 12 else "")
    todo = f"Did you mean {' or '.join(map(repr, near))}?" if near else "`vla-ops inspect FILE` lists what is in it."
    return StreamNotFoundError(f"no {kind} {name!r} in the recording", expected=f"one of: {listed or 'none'}", todo=todo)
