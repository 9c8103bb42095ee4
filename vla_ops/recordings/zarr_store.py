"""The files of a Zarr store, in a folder or a zip: which arrays there are, opened one by one, and none of them outside the store."""

from __future__ import annotations

import itertools
import json
import os
import re
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import closing
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vla_ops.errors import RecordingFormatError, UnsafePathError
from vla_ops.recordings import other_format
from vla_ops.recordings.byte_file import view
from vla_ops.recordings.place import Place

if TYPE_CHECKING:
    import zarr

_V2_ARRAY, _V2_GROUP, _V2_ATTRIBUTES, _V3 = ".zarray", ".zgroup", ".zattrs", "zarr.json"
MARKS = (_V2_ARRAY, _V2_GROUP, _V3)
_TODO_COPY = "Copy it again from the robot."


class ZarrFiles(ABC):
    """A store's entries by name relative to its root."""

    def __init__(self, path: str) -> None:
        _register_codecs()
        self.path = path

    @cached_property
    def array_paths(self) -> list[str]:
        """Paths of all arrays, sorted."""
        return sorted(self._find_arrays())

    @abstractmethod
    def _find_arrays(self) -> list[str]: ...

    @abstractmethod
    def has(self, key: str) -> bool:
        """True if there is an entry of this name."""

    @abstractmethod
    def close(self) -> None:
        """Close what is open."""

    @abstractmethod
    def check_links(self, array: str) -> None:
        """Raise UnsafePathError if a file of the array is a link out of the store."""

    def prefetch(self, keys: Iterable[str]) -> None:  # noqa: B027 - what is here needs not be fetched
        """Say which entries will be read, in this order."""

    @abstractmethod
    def read(self, key: str) -> bytes:
        """The bytes of an entry that is there."""

    @abstractmethod
    def _open(self, array: str, version: Any) -> zarr.Array[Any]: ...

    def array(self, name: str) -> tuple[zarr.Array[Any] | None, str]:
        """Open an array; None and the compressor's name if no codec of that name is installed, or if it unpickles."""
        from zarr.errors import UnknownCodecError

        self.check_links(name)
        if _unpickles(self._metadata(name)):
            return None, "codec pickle, which runs code that the store brings"
        try:
            return self._open(name, 3 if self.has(f"{name}/{_V3}") else 2), ""
        except UnknownCodecError as error:
            named = re.search(r"codec '([^']+)'", str(error))
            return None, f"compressor {named[1]}" if named else str(error)
        except Exception as error:  # Metadata can be wrong in as many ways as there are fields.
            raise RecordingFormatError(
                f"the array cannot be opened: {type(error).__name__}: {error}", stream=name, todo=_TODO_COPY
            ) from error

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of an array, from its metadata alone."""
        return tuple(int(n) for n in self._metadata(name)["shape"])

    def _metadata(self, name: str) -> dict[str, Any]:
        return self._json(f"{name}/{_V3}" if self.has(f"{name}/{_V3}") else f"{name}/{_V2_ARRAY}")

    def attributes(self) -> dict[str, object]:
        """Attributes of the groups that recorders write to: root, data and meta."""
        found: dict[str, object] = {}
        for group in ("", "data/", "meta/"):
            if self.has(f"{group}{_V2_ATTRIBUTES}"):
                found.update(self._json(f"{group}{_V2_ATTRIBUTES}"))
            elif self.has(f"{group}{_V3}"):
                found.update(self._json(f"{group}{_V3}").get("attributes", {}))
        return found

    def missing_rows(self, array: zarr.Array[Any], name: str, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Yield the first and last row of those of start..stop that have a chunk which is not in the store."""
        rows = (array.shards or array.chunks)[0]
        for chunk, keys in _chunk_keys(array, name, start, stop):
            if not all(map(self.has, keys)):
                yield chunk * rows, min((chunk + 1) * rows, array.shape[0])

    def prefetch_rows(self, array: zarr.Array[Any], name: str, start: int, stop: int) -> None:
        """Say that rows start..stop will be read."""
        if array.shape:
            self.prefetch(key for _, keys in _chunk_keys(array, name, start, stop) for key in keys)

    def _is_array(self, mark: str) -> bool:
        return mark.endswith(f"/{_V2_ARRAY}") or (mark.endswith(f"/{_V3}") and self._json(mark).get("node_type") == "array")

    def _json(self, key: str) -> dict[str, Any]:
        try:
            value = json.loads(self.read(key))
        except ValueError as error:
            raise RecordingFormatError(f"{key} is not JSON: {error}", file=self.path, todo=_TODO_COPY) from error
        return value if isinstance(value, dict) else {}


def _chunk_keys(array: zarr.Array[Any], name: str, start: int, stop: int) -> Iterator[tuple[int, Iterator[str]]]:
    """Yield the numbers of the stored chunks along the first axis that hold rows start..stop, with the entries of each."""
    stored = array.shards or array.chunks
    across = [range(-(-length // size)) for length, size in zip(array.shape[1:], stored[1:], strict=True)]
    for chunk in range(start // stored[0], -(-stop // stored[0])):
        yield chunk, (f"{name}/{array.metadata.encode_chunk_key((chunk, *rest))}" for rest in itertools.product(*across))


class FolderFiles(ZarrFiles):
    """A store whose entries are files of this machine."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self._root = Path(path).resolve()
        self._checked: set[str] = set()

    def _find_arrays(self) -> list[str]:
        found = []
        for folder, folders, files in os.walk(self._root):
            place = Path(folder).relative_to(self._root).as_posix()
            for name in folders:
                self._check_link(Path(folder, name))
            if any(name in (_V2_ARRAY, _V3) and self._is_array(f"{place}/{name}") for name in files):
                found.append(place)
                folders.clear()
        return found

    def has(self, key: str) -> bool:
        """True if there is an entry of this name."""
        return (self._root / key).exists()

    def close(self) -> None:
        """Nothing is kept open."""

    def check_links(self, array: str) -> None:
        """Raise UnsafePathError if an entry of the array leads out of the store."""
        if array in self._checked:
            return
        for folder, _, _ in os.walk(self._root / array):
            with os.scandir(folder) as entries:
                linked = [Path(entry.path) for entry in entries if entry.is_symlink()]
            for path in linked:
                self._check_link(path)
        self._checked.add(array)

    def _check_link(self, path: Path) -> None:
        if path.is_symlink() and not path.resolve().is_relative_to(self._root):
            where = path.relative_to(self._root).as_posix()
            raise UnsafePathError(
                "a symbolic link leaves the recording",
                stream=where,
                found=str(path.readlink()),
                todo="Copy the store with links followed: cp -rL.",
            )

    def read(self, key: str) -> bytes:
        """The bytes of an entry."""
        self._check_link(self._root / key)
        return (self._root / key).read_bytes()

    def _open(self, array: str, version: Any) -> zarr.Array[Any]:
        import zarr
        from zarr.storage import LocalStore

        return zarr.open_array(LocalStore(self._root, read_only=True), path=array, mode="r", zarr_format=version)


class ZipFiles(ZarrFiles):
    """A store in a zip."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.path)
        self._zip = _open_zip(place)
        self._entries = set(self._zip.namelist())
        self._prefix = self._find_prefix()

    def _find_arrays(self) -> list[str]:
        marks = [
            e.removeprefix(self._prefix) for e in self._entries if e.startswith(self._prefix) and e.endswith((f"/{_V2_ARRAY}", f"/{_V3}"))
        ]
        return [mark.rpartition("/")[0] for mark in marks if self._is_array(mark)]

    def has(self, key: str) -> bool:
        """True if there is an entry of this name."""
        return self._prefix + key in self._entries

    @cached_property
    def _store(self) -> Any:
        from zarr.storage import ZipStore

        return ZipStore(self.path, mode="r")

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()
        # A store that nothing was read from was never opened.
        if "_store" in self.__dict__ and self._store._is_open:
            self._store.close()

    def check_links(self, array: str) -> None:
        """An archive has no links that are followed."""

    def _find_prefix(self) -> str:
        """The folder in the archive that the store lies in: `zip -r x.zarr.zip x.zarr` puts it into one."""
        marks = [e for e in self._entries if e.rpartition("/")[2] in MARKS]
        tops = {e.partition("/")[0] for e in marks if "/" in e}
        at_root = len(tops) != 1 or not tops.isdisjoint(("data", "meta")) or any("/" not in e for e in marks)
        return "" if at_root or f"{min(tops)}/{_V2_ARRAY}" in self._entries else f"{min(tops)}/"

    def read(self, key: str) -> bytes:
        """The bytes of an entry that is there."""
        try:
            return self._zip.read(self._prefix + key)
        except (zipfile.BadZipFile, OSError, RuntimeError) as error:
            raise RecordingFormatError(f"{key} in the archive cannot be read: {error}", file=self.path, todo=_TODO_COPY) from error

    def _open(self, array: str, version: Any) -> zarr.Array[Any]:
        import zarr

        return zarr.open_array(self._store, path=self._prefix + array, mode="r", zarr_format=version)


def _open_zip(place: Place) -> zipfile.ZipFile:
    path, size = place.path, _size(place)
    if size == 0:
        raise RecordingFormatError("the file is empty (0 bytes)", file=path, todo=_TODO_COPY)
    try:
        archive = zipfile.ZipFile(view(place.file()) if place.is_remote else path)
    except zipfile.BadZipFile as error:
        with closing(place.file()) as file:
            is_zip = file.read(0, 4) == b"PK\x03\x04"
        said = "the zip is truncated: it begins as one but has no directory at its end" if is_zip else "neither a Zarr folder nor a zip"
        raise RecordingFormatError(f"{said} ({size} bytes)", file=path, todo=other_format(place, "zarr") or _TODO_COPY) from error
    for name in archive.namelist():
        if _escapes(name):
            archive.close()
            raise UnsafePathError(
                "an archive entry leaves the archive", file=path, found=repr(name), todo="Pack it again from inside its folder."
            )
    return archive


def _size(place: Place) -> int:
    return place.file().size if place.is_remote else Path(place.path).stat().st_size


def _unpickles(metadata: object) -> bool:
    """True where a filter, compressor or codec at any depth, as in shards, is numcodecs' `pickle`."""
    if isinstance(metadata, list):
        return any(map(_unpickles, metadata))
    if not isinstance(metadata, dict):
        return False
    names = (str(metadata.get(key, "")).lower().rpartition(".")[2] for key in ("id", "name"))
    return "pickle" in names or any(_unpickles(value) for key, value in metadata.items() if key != "attributes")


def _escapes(name: str) -> bool:
    name = name.replace("\\", "/")
    return name.startswith("/") or re.match(r"^[A-Za-z]:", name) is not None or ".." in PurePosixPath(name).parts


def _register_codecs() -> None:
    """Make the codecs of imagecodecs (JPEG-XL of UMI buffers) known to Zarr 2 and 3 stores."""
    import imagecodecs.numcodecs
    import imagecodecs.zarr

    imagecodecs.numcodecs.register_codecs(verbose=False)
    imagecodecs.zarr.register_codecs()
