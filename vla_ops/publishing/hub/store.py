"""A folder of a dataset repository on the Hub as a store: what machines share, each of which changes `main` by commits.

A commit takes a second or more there, and about a hundred an hour are allowed: many files are put by one. What is read is of the newest
commit that was heard of, so that a listing of several pages, and what a pointer names, are of one.
"""

from __future__ import annotations

import hashlib
import io
import random
import time
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any

from vla_ops.errors import FetchError, PublishError
from vla_ops.fetching.remote import RemoteFile
from vla_ops.published.hub_address import HubAddress
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.hub.additions import addition, calls_of, commits_of, is_read_by_the_commit, require_same
from vla_ops.publishing.hub.repo import HubRepo, Remote
from vla_ops.publishing.stores.base import NONE, NOWHERE, Pointer
from vla_ops.spec.publishing import hub_folder

_MAIN = "main"
_TRIES, _PAUSE_S, _LONGEST_PAUSE_S = 12, 0.5, 20.0


class HubStore:
    """`hf://datasets/OWNER/NAME[/PREFIX]`. Raise PublishError for a URI that is none.

    The repository is made, private, when it is first looked at and not there: a token that may not is found before anything is done. A
    public one is refused. `say` hears of that, and of waits.
    """

    def __init__(self, uri: str, *, say: Callable[[str], None] = lambda _: None, at_once: int = 8) -> None:
        try:
            repo_id, self._prefix = hub_folder(uri)
        except ValueError as error:
            raise PublishError("this is no place on the Hub", found=str(error), expected="hf://datasets/OWNER/NAME/PREFIX") from None
        self.uri, self.at_once = f"hf://datasets/{repo_id}/{self._prefix}".rstrip("/"), at_once
        self._repo = HubRepo(HubAddress(repo_id, is_dataset=True), say)
        # Of several threads none goes back behind a commit that another one has made or seen.
        self._looking, self._known = Lock(), ""
        self._writing = Lock()

    def check(self) -> None:
        """See Store.check."""
        self._look()
        self._repo.ensure(public=False)

    def listed(self, folder: str) -> Mapping[str, int]:
        """See Store.listed."""
        return {name: remote.size for name, remote in self._below(folder).items()}

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        """See Store.put. A commit of its own: `put_all` takes many."""
        self.put_all({name: file}, like={} if like is None else {name: like}, sent=sent, asked=asked)

    def put_all(
        self,
        files: Mapping[str, HashedFile],
        *,
        last: Mapping[str, HashedFile] = NONE,
        like: Mapping[str, str] = NOWHERE,
        sent: Callable[[int], None],
        asked: bool = False,
    ) -> None:
        """See Store.put_all: by one commit, or one for each 500 files or 20 GB, of which the last brings `last`.

        Large files that the Hub has are not sent again, whatever their names.
        """
        left = {name: files[name] for name in (files if asked else self._differing(files))} | dict(last)
        there = self._remotes(like[name] for name in left if name in like)
        not_sent = {name for name in left if name in like and _is(there.get(like[name]), left[name])} | last.keys()
        for names in commits_of(left, left):
            additions = {name: addition(self._key(name), left[name]) for name in names}
            for call in calls_of(names, left):
                self._upload({name: additions[name] for name in call}, left)
                sent(sum(left[name].size for name in call if name not in not_sent))
            self._put(additions)
            for file in (left[name] for name in names if is_read_by_the_commit(left[name])):
                file.require_unchanged()

    def remote_file(self, name: str) -> RemoteFile:
        """See Store.remote_file."""
        commit = self._known or self._look()
        found = self._repo.files([self._key(name)], commit).get(self._key(name))
        if found is None:
            todo = "It was removed there, or never sent."
            missing = FetchError("a file is not there", file=f"{self.uri}/{name}", found=f"nothing in commit {commit}", todo=todo)
            raise missing from FileNotFoundError(name)
        return RemoteFile(name.rpartition("/")[2], _Files(self._repo, commit, found.size), self._key(name), found.size, found.oid)

    def differs(self, name: str, file: HashedFile) -> str | None:
        """See Store.differs."""
        return self._differing({name: file}).get(name)

    def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
        """See Store.differing: a listing has the hashes."""
        return _compared(self._below(folder), files)

    def read(self, name: str) -> bytes | None:
        """See Store.read. A name that is found in the commit that was last heard of is not looked for in a newer one."""
        commit = self._known or self._look()
        content = self._repo.read_if_there(self._key(name), commit)
        if content is None and (newest := self._look()) != commit:
            content = self._repo.read_if_there(self._key(name), newest)
        return content

    def pointer(self, name: str) -> Pointer | None:
        """See Store.pointer: as it is in the newest commit. The mark is the hash of what it says."""
        return self._pointer_at(name, self._look())

    def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
        """See Store.point: by a commit onto the one in which it is what was seen. Another commit than of the pointer does no harm."""
        from huggingface_hub import CommitOperationAdd

        for number in range(_TRIES):
            head = self._look()
            if (now := self._pointer_at(name, head)) != seen:
                # Asked again because the first answer was lost, what it finds may be its own.
                return number > 0 and now is not None and now.content == content
            if self._committed([CommitOperationAdd(self._key(name), content)], parent=head):
                return True
            _wait(number)
        raise self._raced()

    def _put(self, additions: Mapping[str, Any]) -> None:
        """Commit files of which it does not matter what else was committed meanwhile."""
        for number in range(_TRIES):
            # The Hub refuses all but one of those that come in the same moment.
            with self._writing:
                if self._committed([*additions.values()], parent=None):
                    return
            _wait(number)
        raise self._raced()

    def _committed(self, operations: list[Any], *, parent: str | None) -> bool:
        names = [operation.path_in_repo for operation in operations]
        message = names[0] if len(names) == 1 else f"{len(names)} files below {self._prefix or 'this'}"
        commit = self._repo.commit(operations, message, branch=_MAIN, parent=parent)
        if commit is None:
            return False
        with self._looking:
            self._known = commit
        return True

    def _upload(self, additions: Mapping[str, Any], files: Mapping[str, HashedFile]) -> None:
        self._repo.upload([*additions.values()], _MAIN)
        require_same(additions, files)

    def _look(self) -> str:
        """The newest commit. Raise PublishError for a repository that is public."""
        with self._looking:
            self._repo.require_token()
            head = self._repo.head()
            if head is None:
                self._repo.ensure(public=False)
                self._repo.say(f"{self._repo.address.uri} was not there, and is a private repository now")
                head = self._repo.head()
            if head is None or not head[1]:
                raise self._unfit(is_there=head is not None)
            self._known = head[0]
            return self._known

    def _unfit(self, *, is_there: bool) -> PublishError:
        if not is_there:
            todo = "Look at its page, and run the same again."
            return PublishError("the repository was made, and is not there", file=self.uri, todo=todo)
        todo = "Make it private on its page (Settings), or name another one."
        what = "the repository is public, and a home holds recordings, which are its owner's"
        return PublishError(what, file=self.uri, found="public", expected="private", todo=todo)

    def _pointer_at(self, name: str, commit: str) -> Pointer | None:
        content = self._repo.read_if_there(self._key(name), commit)
        return None if content is None else Pointer(content, hashlib.sha256(content).hexdigest())

    def _below(self, folder: str) -> dict[str, Remote]:
        """All files below a folder, by name relative to it."""
        root = self._key(folder).rstrip("/")
        found = self._repo.tree(self._look(), below=root or None)
        return {name.removeprefix(f"{root}/"): remote for name, remote in found.items()}

    def _differing(self, files: Mapping[str, HashedFile]) -> dict[str, str]:
        return _compared(self._remotes(files), files)

    def _remotes(self, names: Iterable[str]) -> dict[str, Remote]:
        """Those of some files that are there, by name."""
        keys = {self._key(name): name for name in names}
        found = self._repo.files([*keys], self._look()) if keys else {}
        return {keys[key]: remote for key, remote in found.items()}

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}" if self._prefix else name

    def _raced(self) -> PublishError:
        todo = "Run the same again when fewer machines write to it: what is there is kept."
        return PublishError(
            "others committed to the repository every time", file=self.uri, found=f"{_TRIES} tries", expected="one of them alone", todo=todo
        )


class _Files:
    """Files of one commit, as what fetches them opens them."""

    def __init__(self, repo: HubRepo, commit: str, size: int) -> None:
        self._repo, self._commit, self._size = repo, commit, size

    def open(self, path: str, *_: Any, **__: Any) -> io.RawIOBase:
        return _Ranges(lambda start, stop: self._repo.read_range(path, self._commit, start, stop), self._size)

    def unstrip_protocol(self, path: str) -> str:
        return f"{self._repo.address.folder(self._commit)}/{path}"


class _Ranges(io.RawIOBase):
    """A file of which each read is a request."""

    def __init__(self, got: Callable[[int, int], bytes], size: int) -> None:
        self._got, self._size, self._at = got, size, 0

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        self._at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1, /) -> bytes:
        stop = self._size if size < 0 else min(self._at + size, self._size)
        content = self._got(self._at, stop) if self._at < stop else b""
        self._at += len(content)
        return content


def _compared(there: Mapping[str, Remote], files: Mapping[str, HashedFile]) -> dict[str, str]:
    found = {name: "is missing" if name not in there else there[name].differs(file) for name, file in files.items()}
    return {name: why for name, why in found.items() if why is not None}


def _is(remote: Remote | None, file: HashedFile) -> bool:
    return remote is not None and remote.differs(file) is None


def _wait(number: int) -> None:
    """So that those who came in the same moment do not all come again in the same moment."""
    time.sleep(random.uniform(0.5, 1) * min(_PAUSE_S * 2**number, _LONGEST_PAUSE_S))  # noqa: S311 - no secret
