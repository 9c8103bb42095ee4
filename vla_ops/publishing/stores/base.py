"""What a place for publications must do. Names are relative to the store's URI, with slashes.

A file gets its name when it is whole, and what it holds is asked of the store, not believed: `differs` reads it back as cheaply as
the store allows. A pointer is a small file that is only replaced by who has seen what it was before.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType
from typing import Protocol, runtime_checkable

from vla_ops.fetching.remote import RemoteFile
from vla_ops.publishing.hashing import HashedFile

NONE: Mapping[str, HashedFile] = MappingProxyType({})
NOWHERE: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class Pointer:
    """What a pointer said, and the store's mark of it, for who would replace it."""

    content: bytes
    mark: str


@dataclass(frozen=True)
class Stored:
    """What a listing says of a file: its size in bytes, and when it was written, by the store's clock."""

    size: int
    written: datetime


class Store(Protocol):
    """A folder of publications. Methods may be called from several threads; each raises PublishError saying what to do.

    What passes by itself (a busy server, a broken connection) is tried again within the call.
    """

    @property
    def uri(self) -> str:
        """Where it is, for messages and manifests: never with a password, a token or a signature."""
        ...

    @property
    def at_once(self) -> int:
        """How many calls at once it is best used with."""
        ...

    def check(self) -> None:
        """Raise PublishError where it cannot be written, before anything is read or hashed for it."""
        ...

    def listed(self, folder: str) -> Mapping[str, int]:
        """Size in bytes of every file below a folder, by name relative to it. Empty where there is none."""
        ...

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        """Make `name` the content of `file`: whole or not at all, and going on with what a killed call left there.

        `like` is another name in the store with the same content, which may be copied instead. `sent` hears of bytes as they go. `asked`
        says that `differing` has just named it, so that a store need not ask again where that costs as much as sending it.
        Raise PublishError for a file that is not what it was when it was hashed.
        """
        ...

    def put_all(
        self,
        files: Mapping[str, HashedFile],
        *,
        last: Mapping[str, HashedFile] = NONE,
        like: Mapping[str, str] = NOWHERE,
        sent: Callable[[int], None],
        asked: bool = False,
    ) -> None:
        """`put` all of `files` by name, and `last` when the others are there, or along with them where that happens at once.

        `like` are other names with the same content by name. `sent` hears nothing of `last`.
        """
        ...

    def differs(self, name: str, file: HashedFile) -> str | None:
        """In which way what the store has under `name` is not `file`; None where it is the same, byte for byte."""
        ...

    def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
        """What `differs` says of those of `files`, by name below a folder, of which it says something: of all of them at once."""
        ...

    def read(self, name: str) -> bytes | None:
        """The content of a small file, None where there is none."""
        ...

    def remote_file(self, name: str) -> RemoteFile:
        """A file of any size, to be fetched range by range. Raise FetchError, caused by FileNotFoundError, where there is none."""
        ...

    def pointer(self, name: str) -> Pointer | None:
        """What a pointer says now, None where there is none yet."""
        ...

    def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        """Replace a pointer, or make the first with `seen` None. False, and nothing done, where it is not what was seen any more."""
        ...


@runtime_checkable
class Prunable(Store, Protocol):
    """A store of which something can be removed, so that it takes no room there any more."""

    def folders(self) -> list[str]:
        """Names of the folders that are directly in it."""
        ...

    def stored(self, folder: str) -> Mapping[str, Stored]:
        """What `listed` names, with the time of each."""
        ...

    def remove(self, names: Iterable[str]) -> None:
        """Remove files; what is not there is no error. What was to be removed before an error may be gone or not."""
        ...

    def clear_unfinished(self, before: datetime) -> int:
        """Remove what killed calls of `put` that began before a time have left, of which nothing is listed; return how many there were."""
        ...


class OneByOne:
    """Of stores into which files are put one by one: many of them by as many calls at once as the store is best used with."""

    def put_all(
        self: Store,
        files: Mapping[str, HashedFile],
        *,
        last: Mapping[str, HashedFile] = NONE,
        like: Mapping[str, str] = NOWHERE,
        sent: Callable[[int], None],
        asked: bool = False,
    ) -> None:
        """See Store.put_all."""
        with ThreadPoolExecutor(self.at_once, thread_name_prefix="put") as pool:
            # The list makes errors of the threads errors of this one.
            list(pool.map(lambda name: self.put(name, files[name], like=like.get(name), sent=sent, asked=asked), files))
        for name, file in last.items():
            self.put(name, file, like=None, sent=lambda _: None, asked=asked)
