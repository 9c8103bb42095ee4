"""Raw files -> named streams. `open_recording` picks the reader by format."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from pathlib import Path

from vla_ops.errors import RecordingFormatError, StreamNotFoundError, UnknownEncodingError
from vla_ops.recordings.base import OpenOptions, Recording

FORMATS = ("mcap", "hdf5", "zarr", "lerobot")
# What files of each format begin with; a Zarr store in a file is a zip.
MAGIC = {"mcap": b"\x89MCAP0\r\n", "hdf5": b"\x89HDF\r\n\x1a\n", "zarr": b"PK"}
_ZARR_MARKS = (".zgroup", ".zarray", "zarr.json", "data/.zgroup")
_LEROBOT_MARK = "meta/info.json"


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
        case "lerobot":
            from vla_ops.recordings.lerobot_dataset import LeRobotRecording

            return LeRobotRecording(path, options)
        case _:
            raise UnknownEncodingError(f"no reader for format {format!r}", expected=" | ".join(FORMATS), file=path)


def format_of(path: str | Path) -> str | None:
    """The format that a file's first bytes or a folder's marks say, or None. Raise OSError if it cannot be read."""
    path = Path(path)
    if path.is_dir():
        is_lerobot = (path / _LEROBOT_MARK).exists()
        return "lerobot" if is_lerobot else "zarr" if any((path / mark).exists() for mark in _ZARR_MARKS) else None
    with open(path, "rb") as handle:
        head = handle.read(8)
    return next((kind for kind, magic in MAGIC.items() if head.startswith(magic)), None)


def other_format(path: str | Path, format: str) -> str | None:
    """What to do where a file that the reader of `format` was given is plainly of another format; else None."""
    found = format_of(path)
    if found is None or found == format:
        return None
    folders = {"zarr": "is a Zarr store", "lerobot": "is a LeRobot dataset"}
    looks = folders[found] if Path(path).is_dir() else f"begins as {'zip files (zarr)' if found == 'zarr' else f'{found} files'} do"
    return f"It {looks}: check `recordings.format`, which says {format}."


def refuse_folder(path: str | Path, format: str) -> None:
    """Raise RecordingFormatError if `path` is a folder, for formats whose recordings are single files."""
    if Path(path).is_dir():
        todo = other_format(path, format) or "Check `recordings.pattern`: it should match the files in the folder."
        raise RecordingFormatError(f"a folder, and recordings of format {format} are files", file=path, todo=todo)


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
