"""Raw files -> named streams. `open_recording` picks the reader by format."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from vla_ops.errors import RecordingFormatError, StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings.base import OpenOptions, Recording
from vla_ops.recordings.place import Place, as_place

FORMATS = ("mcap", "hdf5", "zarr", "lerobot")
# What files of each format begin with; a Zarr store in a file is a zip.
MAGIC = {"mcap": b"\x89MCAP0\r\n", "hdf5": b"\x89HDF\r\n\x1a\n", "zarr": b"PK"}
_ZARR_MARKS = (".zgroup", ".zarray", "zarr.json", "data/.zgroup")
_LEROBOT_MARK = "meta/info.json"


def open_recording(recording: str | Place, format: str, options: OpenOptions | None = None) -> Recording:
    """Open the recording at a path or URI with the reader of `format`; closing it closes its place, too."""
    options, place = options or OpenOptions(), as_place(recording)
    try:
        match format:
            case "mcap":
                from vla_ops.recordings.mcap import McapRecording

                return McapRecording(place, options)
            case "hdf5":
                from vla_ops.recordings.hdf5 import Hdf5Recording

                return Hdf5Recording(place, options)
            case "zarr":
                from vla_ops.recordings.zarr import ZarrRecording

                return ZarrRecording(place, options)
            case "lerobot":
                from vla_ops.recordings.lerobot_dataset import LeRobotRecording

                return LeRobotRecording(place, options)
            case _:
                raise UnknownEncodingError(f"no reader for format {format!r}", expected=" | ".join(FORMATS), file=place.path)
    except BaseException:
        place.close()
        raise


def format_of(recording: str | Path | Place) -> str | None:
    """The format that a file's first bytes or a folder's marks say, or None. Raise RecordingError if it cannot be read."""
    place = as_place(recording)
    if place.is_folder:
        return "lerobot" if place.has(_LEROBOT_MARK) else "zarr" if any(map(place.has, _ZARR_MARKS)) else None
    with closing(place.file()) as file:
        head = file.read(0, 8)
    return next((kind for kind, magic in MAGIC.items() if head.startswith(magic)), None)


def other_format(recording: str | Path | Place, format: str) -> str | None:
    """What to do where a file that the reader of `format` was given is plainly of another format; else None."""
    place = as_place(recording)
    found = format_of(place)
    if found is None or found == format:
        return None
    folders = {"zarr": "is a Zarr store", "lerobot": "is a LeRobot dataset"}
    looks = folders[found] if place.is_folder else f"begins as {'zip files (zarr)' if found == 'zarr' else f'{found} files'} do"
    return f"It {looks}: check `recordings.format`, which says {format}."


def refuse_folder(place: Place, format: str) -> None:
    """Raise RecordingFormatError if `place` is a folder, for formats whose recordings are single files."""
    if place.is_folder:
        todo = other_format(place, format) or "Check `recordings.pattern`: it should match the files in the folder."
        raise RecordingFormatError(f"a folder, and recordings of format {format} are files", file=place.path, todo=todo)


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
