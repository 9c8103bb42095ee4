"""A remote recording, a file or a folder of files: what is in it, its files by position, and whole ones as files of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any

from vla_ops.errors import RecordingError, UnsafePathError
from vla_ops.recordings.byte_file import ByteFile
from vla_ops.recordings.remote.cache import CacheFolder
from vla_ops.recordings.remote.errors import changed, is_missing, shown
from vla_ops.recordings.remote.fetch import Found, Store
from vla_ops.recordings.remote.objects import Objects
from vla_ops.recordings.remote.ranges import RangedFile
from vla_ops.recordings.remote.traffic import Traffic


class RemotePlace:
    """A recording in a remote store. `stamp` is what a listing said of its content, if it is to be that one.

    Safe to share between threads. Raise OutOfReachError where the store does not give what is asked for.
    """

    is_remote = True

    def __init__(self, uri: str, *, cache: Path | None = None, stamp: str = "") -> None:
        import fsspec

        self.path, self._stamp = uri, stamp
        self.traffic = Traffic()
        try:
            fs, self._root = fsspec.core.url_to_fs(uri)
        except (ImportError, ValueError) as error:
            raise RecordingError(f"cannot open the recording: {error}", uri=shown(uri)) from error
        self._store = Store(fs, self.traffic.stopped)
        self._lock = threading.RLock()
        self._cache = CacheFolder(cache, uri)
        self._mirror, self._here = self._cache.path / "files", set[Path]()
        self._files: dict[str, RangedFile] = {}
        self._objects = Objects(self._store, self._cache, self.traffic, self._found_file)
        self._found: dict[str, Found | None] = {}
        self._listings: dict[str, dict[str, Mapping[str, Any]]] = {}

    @property
    def fetched_bytes(self) -> int:
        """What was fetched since it was opened."""
        return self.traffic.fetched_bytes

    @property
    def failure(self) -> Exception | None:
        """Why something could not be fetched."""
        return self.traffic.failure

    @property
    def size_bytes(self) -> int:
        """Size of the file, or of the folder's files as far as they were listed or opened; 0 where it could not be asked."""
        if "_root_info" not in self.__dict__:
            return 0
        if not self.is_folder:
            return int(self._root_info.get("size") or 0)
        with self._lock:
            sizes = {name: int(info.get("size") or 0) for listing in self._listings.values() for name, info in listing.items()}
            sizes |= {name: found.size or 0 for name, found in self._found.items() if found is not None and name}
        return sum(sizes.values())

    @property
    def is_folder(self) -> bool:
        """True for a folder."""
        info = self._root_info
        # Servers show a folder as a page.
        is_page = self._store.is_http and (self.path.endswith("/") or info.get("mimetype") == "text/html")
        return info["type"] == "directory" or is_page

    @cached_property
    def _root_info(self) -> Mapping[str, Any]:
        def ask() -> Mapping[str, Any]:
            self._store.fs.invalidate_cache()
            return self._store.fs.info(self._root)

        try:
            return self._store.trying(ask, self.path)
        except Exception as error:
            self.traffic.failed(error)
            raise

    def file(self, name: str = "") -> ByteFile:
        """Open the file, or one of the folder's; until it is closed, it is the same one for all."""
        return self._ranged(name)

    def has(self, name: str) -> bool:
        """True if there is a file of this name in the folder."""
        with self._lock:
            for folder, listing in self._listings.items():
                if name.startswith(f"{folder}/") or not folder:
                    return name in listing
            return self._find(name) is not None

    def names(self, folder: str = "") -> list[str]:
        """The names of all files in a folder of the folder, at any depth."""
        with self._lock:
            if folder not in self._listings:
                self._listings[folder] = self._list(folder)
            return list(self._listings[folder])

    def folders(self, folder: str = "") -> list[str]:
        """The names of the folders directly in a folder of the folder."""
        place = self._place(folder)
        found = self._asking(lambda: self._store.fs.ls(place, detail=True))
        return sorted(self._name(info["name"]) for info in found if info["type"] == "directory" and info["name"].rstrip("/") != place)

    def local(self, name: str = "") -> Path:
        """The whole file, or one of the folder's, as a file of this machine whose path ends with its name."""
        path = self._mirror / (name or PurePosixPath(self._root).name)
        if path in self._here:
            return path
        file = self._ranged(name)
        whole = file.whole()
        with self._lock:
            if not (path.exists() and path.samefile(whole)):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.unlink(missing_ok=True)
                os.link(whole, path)
            # Datasets have more files than a process may have open.
            file.close()
            self._files.pop(name, None)
            self._here.add(path)
        return path

    def mirror(self, names: Iterable[str], folder: str) -> Path:
        """Fetch these files, so that exactly they are in `folder` below the path that is returned: there `local` puts files, too."""
        names = list(names)
        self.prefetch_local(names)
        there = {self.local(name) for name in names}
        for path in (self._mirror / folder).rglob("*"):
            if path.is_file() and path not in there:
                path.unlink(missing_ok=True)
        return self._mirror

    def read(self, name: str) -> bytes:
        """The whole of one of the folder's files, for files that are small and many."""
        return self._objects.read(name)

    def prefetch(self, names: Iterable[str]) -> None:
        """Say which of the folder's files will be read whole, in this order."""
        self._objects.prefetch(names)

    def prefetch_local(self, names: Iterable[str]) -> None:
        """Say which files will be asked for by `local`, in this order."""
        for name in names:
            file = self._ranged(name)
            file.prefetch([(0, file.size)])

    def close(self) -> None:
        """Close all files; what was fetched is kept in the cache. Closing twice is fine."""
        for file in list(self._files.values()):
            file.close()
        self._objects.close()
        self.traffic.close()
        self._cache.close()

    def _ranged(self, name: str) -> RangedFile:
        with self._lock:
            if name not in self._files or not self._files[name].is_open:
                try:
                    self._files[name] = self._open(name)
                except Exception as error:
                    self.traffic.failed(error)
                    raise
            return self._files[name]

    def _open(self, name: str) -> RangedFile:
        found = self._found_file(name)
        if not name and self._stamp and found.token != self._stamp:
            raise changed(self.path)
        return RangedFile(self._store, found, self._cache.file(name, f"{found.size}:{found.token}"), self.traffic)

    def _found_file(self, name: str) -> Found:
        """The file as its store shows it. Raise RecordingError if it is not there."""
        with self._lock:
            found = self._find(name)
        if found is None:
            raise RecordingError("a file is not in the recording", file=shown(self.path), found=name or None)
        return found

    def _find(self, name: str) -> Found | None:
        """The file as its store shows it, or None if it is not there."""
        if name not in self._found:
            listed = self._root_info if not name else next((one[name] for one in self._listings.values() if name in one), None)
            try:
                self._found[name] = self._store.find(self._uri(name), self._place(name), listed)
            except Exception as error:
                if not is_missing(error.__cause__ or error) or not name:
                    raise
                self._found[name] = None
        return self._found[name]

    def _list(self, folder: str) -> dict[str, Mapping[str, Any]]:
        found = self._asking(lambda: self._store.fs.find(self._place(folder), detail=True))
        return {self._name(info["name"]): info for info in found.values()}

    def _asking(self, ask: Any) -> Any:
        try:
            return self._store.trying(ask, self.path)
        except Exception as error:
            self.traffic.failed(error)
            raise

    def _name(self, place: str) -> str:
        """The name relative to the folder. Raise UnsafePathError where it leaves it: on object stores `..` is a name like others."""
        name = place.rstrip("/").removeprefix(self._root.rstrip("/") + "/")
        if {"", ".", ".."} & set(name.split("/")):
            raise UnsafePathError("the name of a file leads out of the recording", file=shown(self.path), found=repr(name))
        return name

    def _place(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}" if name else self._root

    def _uri(self, name: str) -> str:
        return f"{self.path.rstrip('/')}/{name}" if name else self.path
