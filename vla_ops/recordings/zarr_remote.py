"""Zarr stores in a remote store, as a folder of objects or as a zip: only the chunks of the arrays that are read are fetched.

Of a folder, the chunks of an array are listed when they are first asked for, those of other arrays never.
"""

from __future__ import annotations

import asyncio
import bisect
from collections.abc import AsyncIterator, Iterable
from functools import cached_property
from typing import TYPE_CHECKING, Any

from zarr.abc.store import ByteRequest, OffsetByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer, BufferPrototype, default_buffer_prototype

from vla_ops.recordings.byte_file import ByteFile
from vla_ops.recordings.place import Place
from vla_ops.recordings.zarr_store import MARKS, ZarrFiles, ZipFiles

if TYPE_CHECKING:
    import zarr


class RemoteFolderFiles(ZarrFiles):
    """A store whose entries are objects below a prefix."""

    def __init__(self, place: Place) -> None:
        super().__init__(place.path)
        self._place = place
        self._listed: dict[str, frozenset[str]] = {}
        self._store = _FilesStore(self)

    def _find_arrays(self) -> list[str]:
        found, groups = list[str](), [""]
        while groups:
            for folder in self._place.folders(groups.pop()):
                if any(self.has(f"{folder}/{mark}") and self._is_array(f"{folder}/{mark}") for mark in MARKS):
                    found.append(folder)
                else:
                    groups.append(folder)
        return found

    def has(self, key: str) -> bool:
        """True if there is an entry of this name."""
        if key.rpartition("/")[2] in MARKS or key.rpartition("/")[2].startswith(".z"):
            return self._place.has(key)
        array = next((array for array in self.array_paths if key.startswith(f"{array}/")), "")
        if array not in self._listed:
            self._listed[array] = frozenset(self._place.names(array))
        return key in self._listed[array]

    def read(self, key: str) -> bytes:
        """The bytes of an entry that is there."""
        return self._place.read(key)

    def prefetch(self, keys: Iterable[str]) -> None:
        """Say which entries will be read, in this order."""
        self._place.prefetch(filter(self.has, keys))

    def part(self, key: str) -> ByteFile:
        """An entry to be read in parts."""
        return self._place.file(key)

    def close(self) -> None:
        """The place is closed by who opened it."""

    def check_links(self, array: str) -> None:
        """Objects are no links."""

    def _open(self, array: str, version: Any) -> zarr.Array[Any]:
        import zarr

        return zarr.open_array(self._store, path=array, mode="r", zarr_format=version)


class RemoteZipFiles(ZipFiles):
    """A store in a remote zip."""

    def __init__(self, place: Place) -> None:
        self._place = place
        super().__init__(place)

    @cached_property
    def _store(self) -> Any:
        return _FilesStore(self)

    @cached_property
    def _starts(self) -> list[int]:
        return sorted([*(entry.header_offset for entry in self._zip.infolist()), self._zip.start_dir])

    def close(self) -> None:
        """Close the archive."""
        self._zip.close()

    def prefetch(self, keys: Iterable[str]) -> None:
        """Say which entries will be read, in this order."""
        self._place.file().prefetch(self._range(self._prefix + key) for key in keys if self.has(key))

    def _range(self, name: str) -> tuple[int, int]:
        start = self._zip.getinfo(name).header_offset
        return start, self._starts[bisect.bisect_right(self._starts, start)] - start

    def _open(self, array: str, version: Any) -> zarr.Array[Any]:
        import zarr

        return zarr.open_array(self._store, path=array, mode="r", zarr_format=version)


class _FilesStore(Store):
    """The entries as Zarr's library reads them."""

    def __init__(self, files: RemoteFolderFiles | RemoteZipFiles) -> None:
        super().__init__(read_only=True)
        self._files = files

    @property
    def supports_writes(self) -> bool:
        """No."""
        return False

    @property
    def supports_deletes(self) -> bool:
        """No."""
        return False

    @property
    def supports_listing(self) -> bool:
        """No."""
        return False

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None  # pyright: ignore[reportAssignmentType]

    async def get(self, key: str, prototype: BufferPrototype | None = None, byte_range: ByteRequest | None = None) -> Buffer | None:
        """The bytes of an entry, or of a part of it; None if it is not there."""
        data = await asyncio.to_thread(self._get, key, byte_range)
        return None if data is None else (prototype or default_buffer_prototype()).buffer.from_bytes(data)

    def _get(self, key: str, asked: ByteRequest | None) -> bytes | None:
        if not self._files.has(key):
            return None
        if asked is None or isinstance(self._files, RemoteZipFiles):
            return _part(self._files.read(key), asked)
        file = self._files.part(key)
        start, stop = _bounds(asked, file.size)
        return file.read(start, stop - start)

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[Buffer | None]:
        """Parts of several entries."""
        return list(await asyncio.gather(*(self.get(key, prototype, asked) for key, asked in key_ranges)))

    async def exists(self, key: str) -> bool:
        """True if there is such an entry."""
        return await asyncio.to_thread(self._files.has, key)

    async def set(self, key: str, value: Buffer) -> None:
        """Not possible."""
        raise NotImplementedError

    async def delete(self, key: str) -> None:
        """Not possible."""
        raise NotImplementedError

    def list(self) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError

    def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError

    def list_dir(self, prefix: str) -> AsyncIterator[str]:
        """Not possible."""
        raise NotImplementedError


def _part(data: bytes, asked: ByteRequest | None) -> bytes:
    if asked is None:
        return data
    start, stop = _bounds(asked, len(data))
    return data[start:stop]


def _bounds(asked: ByteRequest, size: int) -> tuple[int, int]:
    match asked:
        case RangeByteRequest():
            return asked.start, min(asked.end, size)
        case OffsetByteRequest():
            return asked.offset, size
        case SuffixByteRequest():
            return max(0, size - asked.suffix), size
