"""One repository on the Hub, as publishing needs it: what a revision holds, and commits that are tried again where that may help.

Large files go where the Hub keeps them (LFS, or Xet where the client has it) before a commit names them; who sends one that is there
already sends nothing.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.published.hub_reader import MISSING, HubReader
from vla_ops.publishing.hashing import HashedFile

_AT_ONCE = 5
# As many files as the client itself asks about in one request.
_ASKED_AT_ONCE = 500
# What the Hub says of a reference that is there, and of a parent that is not the head any more.
_THERE, _MOVED = {409}, {409, 412}


@dataclass(frozen=True)
class Remote:
    """A file of a revision: its size, and its SHA-256 where the Hub keeps it as a large one, else git's own hash."""

    size: int
    oid: str
    sha256: str | None

    def differs(self, file: HashedFile) -> str | None:
        """In which way it is not `file`; None where it is the same, byte for byte."""
        if self.size != file.size:
            return f"has {self.size} bytes instead of {file.size}"
        if self.sha256 is not None:
            return None if self.sha256 == file.sha256 else "has other bytes"
        # Git's hash says something of a file only while that is what it was.
        content = file.path.read_bytes()
        is_same = self.oid == git_oid(content) and hashlib.sha256(content).hexdigest() == file.sha256
        return None if is_same else "has other bytes"


@dataclass(frozen=True)
class Refs:
    """Commits by the names of branches and tags."""

    branches: Mapping[str, str]
    tags: Mapping[str, str]


def git_oid(content: bytes) -> str:
    """What git calls a file with this content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


class HubRepo(HubReader):
    """A repository that is written to. Methods raise PublishError that says what to do."""

    def require_token(self) -> None:
        """Raise PublishError where there is none, without asking the Hub."""
        from huggingface_hub import get_token

        if get_token() is None:
            todo = "Set HF_TOKEN, or log in (`hf auth login`), with a token that may write."
            raise PublishError("there is no token for the Hub", file=self.address.uri, todo=todo)

    def ensure(self, *, public: bool) -> None:
        """Make it where it is not there. Raise PublishError where it cannot be written, or is public and was to be private."""
        self.require_token()
        is_private = self.asked(lambda: bool(self.api.repo_info(**self.it).private), none_if=MISSING)
        if is_private is None:
            self.asked(lambda: self.api.create_repo(**self.it, private=not public, exist_ok=True))
            is_private = self.asked(lambda: bool(self.api.repo_info(**self.it).private))
        if is_private == public:
            raise self._other_visibility(is_public=not is_private)
        self.asked(lambda: self.api.auth_check(**self.it, write=True))

    def refs(self) -> Refs:
        """Its branches and tags."""
        refs = self.asked(lambda: self.api.list_repo_refs(**self.it))
        return Refs({each.name: each.target_commit for each in refs.branches}, {each.name: each.target_commit for each in refs.tags})

    def head(self) -> tuple[str, bool] | None:
        """The newest commit, and whether the repository is private; None where it is not there, or not for this token."""
        # Without its files' names, of which there may be many.
        ask = self.api.dataset_info if self.address.is_dataset else self.api.model_info
        told = self.asked(lambda: ask(self.address.repo_id, expand=["sha", "private"]), none_if=MISSING)
        return None if told is None else (str(told.sha), bool(told.private))

    def tree(self, revision: str, below: str | None = None) -> dict[str, Remote]:
        """All files of a revision by name, or those below a folder; none where there is no such folder."""
        listed = self.asked(
            lambda: list(self.api.list_repo_tree(**self.it, path_in_repo=below, revision=revision, recursive=True)),
            none_if=frozenset() if below is None else MISSING,
        )
        return _remotes(listed or [])

    def files(self, names: Sequence[str], commit: str) -> dict[str, Remote]:
        """Those of some files that a commit has, by name."""
        found: dict[str, Remote] = {}
        for start in range(0, len(names), _ASKED_AT_ONCE):
            some = list(names[start : start + _ASKED_AT_ONCE])
            found |= _remotes(self.asked(lambda some=some: self.api.get_paths_info(**self.it, paths=some, revision=commit)))
        return found

    def read(self, name: str, commit: str) -> bytes:
        """The content of a small file of a commit that has it."""
        return self.asked(lambda: self._got(name, commit).content)

    def read_if_there(self, name: str, commit: str) -> bytes | None:
        """The content of a small file of a commit; None where it has none of the name."""
        return self.asked(lambda: self._got(name, commit).content, none_if=MISSING)

    def read_range(self, name: str, commit: str, start: int, stop: int) -> bytes:
        """Bytes of a file of a commit that has it."""

        def content() -> bytes:
            answer = self._got(name, commit, **{"Range": f"bytes={start}-{stop - 1}", "Accept-Encoding": "identity"})
            return answer.content if answer.status_code == HTTPStatus.PARTIAL_CONTENT else answer.content[start:stop]

        return self.asked(content)

    def _got(self, name: str, commit: str, **headers: str) -> Any:
        from huggingface_hub import hf_hub_url
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        url = hf_hub_url(filename=name, revision=commit, **self.it)
        answer = get_session().get(url, headers=build_hf_headers(headers=headers), follow_redirects=True)
        hf_raise_for_status(answer)
        return answer

    def upload(self, additions: Sequence[Any], branch: str) -> None:
        """Bring what is large among `additions` (CommitOperationAdd) to where commits find it."""
        send = partial(self.api.preupload_lfs_files, self.address.repo_id, additions, repo_type=self.address.kind, revision=branch)
        with _bars_for_people():
            # A .gitignore there is for who works in the repository by git.
            self.asked(lambda: send(num_threads=_AT_ONCE, free_memory=False, gitignore_content=""))

    def commit(self, operations: Sequence[Any], message: str, *, branch: str, parent: str | None) -> str | None:
        """Commit to a branch whose head is `parent`: the new commit; None, and nothing done, where its head is another one by now.

        Without a parent onto what it is; None where another commit was made in the same moment.
        """
        from huggingface_hub import CommitOperationAdd

        # Before the commit, which would ask a .gitignore there.
        if additions := [each for each in operations if isinstance(each, CommitOperationAdd)]:
            self.upload(additions, branch)

        def commit() -> str:
            with _bars_for_people():
                return self.api.create_commit(
                    **self.it, operations=operations, commit_message=message, revision=branch, parent_commit=parent
                ).oid

        return self.asked(commit, none_if=_MOVED)

    def require_card(self, content: str) -> None:
        """Raise PublishError for a README.md that the Hub would refuse."""
        from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

        def ask() -> list[str]:
            told = {"content": content, "repoType": self.address.kind}
            answer = get_session().post(f"{self.api.endpoint}/api/validate-yaml", json=told, headers=build_hf_headers())
            if answer.status_code != 400:
                hf_raise_for_status(answer)
            found = answer.json()
            errors = found.get("errors") or ([found] if answer.status_code == 400 else [])
            return [str(each.get("message") or each.get("error") or each) for each in errors]

        if errors := self.asked(ask):
            todo = "Correct the licence (an id of the Hub's list, or `other`), or the metadata that stand at the top of README.md there."
            raise PublishError("the Hub refuses the card", file=f"{self.address.uri}/README.md", found="; ".join(errors)[:600], todo=todo)

    def branch(self, name: str, start: str) -> None:
        """A branch that begins at a commit; one of the name that is there stays as it is."""
        self.asked(lambda: self.api.create_branch(**self.it, branch=name, revision=start, exist_ok=True))

    def drop_branch(self, name: str) -> None:
        """Remove a branch."""
        self.asked(lambda: self.api.delete_branch(**self.it, branch=name), none_if=MISSING)

    def tag(self, name: str, commit: str) -> None:
        """A tag for a commit. One of the name that is there stays as it is."""
        self.asked(lambda: self.api.create_tag(**self.it, tag=name, revision=commit), none_if=_THERE)

    def drop_tag(self, name: str) -> None:
        """Remove a tag."""
        self.asked(lambda: self.api.delete_tag(**self.it, tag=name), none_if=MISSING)

    def _other_visibility(self, *, is_public: bool) -> PublishError:
        if is_public:
            todo = "Make it private on its page (Settings), name another, or say that it may be public: `private: false`, or --public."
            return PublishError("the repository is public, and private was asked", file=self.address.uri, todo=todo)
        todo = "Make it public on its page (Settings), name another, or leave `private: false` (or --public) out."
        return PublishError("the repository is private, and public was asked", file=self.address.uri, todo=todo)


def _remotes(listed: Sequence[Any]) -> dict[str, Remote]:
    from huggingface_hub import RepoFile

    files = [each for each in listed if isinstance(each, RepoFile)]
    return {each.path: Remote(each.size, each.blob_id, each.lfs.sha256 if each.lfs else None) for each in files}


@contextmanager
def _bars_for_people() -> Iterator[None]:
    """The client's progress bars go to a terminal, not into a log."""
    from huggingface_hub.utils import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars

    if sys.stderr.isatty() or are_progress_bars_disabled():
        yield
        return
    disable_progress_bars()
    try:
        yield
    finally:
        enable_progress_bars()
