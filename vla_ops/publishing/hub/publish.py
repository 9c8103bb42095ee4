"""Onto the Hub: a branch of its own for a version, read back, then a tag, and `main` moved to it by one commit.

A repository holds one publication. `main` is its pointer: what loaders of LeRobot, openpi and others take without being told more. Nobody
who reads it, or a tag, sees less than a whole version; a tag is never moved, and only what the version before had is removed from `main`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vla_ops.errors import PublishError
from vla_ops.published.hub_address import HubAddress, tag_of
from vla_ops.published.manifest import MANIFEST_FILE, Manifest
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.hub.additions import addition, calls_of, commits_of, require_same
from vla_ops.publishing.hub.cards import CARD_FILE, Told, card_of, pictures_in
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.hub.pictures import pictures_of
from vla_ops.publishing.hub.repo import HubRepo, Remote, git_oid
from vla_ops.publishing.package import Package
from vla_ops.publishing.progress import Progress
from vla_ops.publishing.publish import Published, hashed, manifest_of
from vla_ops.spec.publishing import HUB

_AS_IT_IS = HubOptions()
_INFO_FILE = "meta/info.json"
# What a repository may have that was just made on the Hub's page.
_OF_THE_HUB = {".gitattributes", ".gitignore", CARD_FILE, "LICENSE"}
# Above this the Hub asks for fewer files to a repository, and answers slowly (its page on storage limits).
_MOST_FILES = 10_000
# Of the client: it takes no such names.
_NOT_TAKEN = {".git", ".cache"}
_TRIES = 5


def publish_to_hub(
    package: Package, address: HubAddress, *, work: Path, options: HubOptions = _AS_IT_IS, say: Callable[[str], None] = lambda _: None
) -> Published:
    """Publish a package to a repository, which is made where it is not there; `work` is a local folder that remembers hashes and rates.

    Raise PublishError where it cannot be written, is public and should not be, holds something else, or does not keep what was sent.
    """
    began_s = time.monotonic()
    address = address.of_kind(package.kind)
    if address.revision is not None:
        raise PublishError("versions name themselves", file=address.uri, found=f"@{address.revision}", todo="Leave it out.")
    own = package.files.get(CARD_FILE)
    card = None if own is None else own.read_text(encoding="utf-8")
    # The one there has more in it, and is written again when people changed it.
    package = replace(package, files={name: path for name, path in package.files.items() if name != CARD_FILE})
    _require_fits(package)
    repo = HubRepo(address, say)
    repo.ensure(public=options.public)
    files = hashed(package, work, say)
    manifest = manifest_of(package, files)
    extras = pictures_of(package)
    told = Told(package, manifest, address, options.licence, card, sorted(extras))
    # All repositories are as fast.
    version = _Version(repo, told, files, extras, Progress(say, work, HUB))
    manifest = version.run()
    return Published(
        address.uri, address.folder(tag_of(manifest.version)), manifest, version.pointed_to, version.sent_bytes, time.monotonic() - began_s
    )


def _require_fits(package: Package) -> None:
    if len(package.files) > _MOST_FILES:
        found, todo = f"{len(package.files)} files", "Publish it to s3://, or a dataset as LeRobot v3.0, which has few and large files."
        raise PublishError("too many files for the Hub", file=package.name, found=found, expected=f"at most {_MOST_FILES}", todo=todo)
    if odd := next((name for name in package.files if _NOT_TAKEN & set(name.split("/"))), None):
        raise PublishError("the Hub takes no file of this name", file=package.files[odd], found=odd, todo="Move it elsewhere.")


@dataclass(frozen=True)
class _State:
    """What a commit holds."""

    commit: str
    tree: Mapping[str, Remote]
    # None where it is of no publication, or of one that is not finished.
    manifest: Manifest | None


class _Version:
    """One version on its way into a repository."""

    def __init__(self, repo: HubRepo, told: Told, files: Mapping[str, HashedFile], extras: Mapping[str, bytes], progress: Progress) -> None:
        self._repo, self._told, self._files, self._extras, self._progress = repo, told, files, extras, progress
        self._manifest = told.manifest
        self._tag, self._branch = tag_of(self._manifest.version), f"publishing-{self._manifest.version}"
        self._is_new = False
        self.pointed_to: str | None = None

    @property
    def sent_bytes(self) -> int:
        """Of files that no version had that was looked at."""
        return self._progress.sent_bytes

    def run(self) -> Manifest:
        """Send what is not there, compare all of it, tag it, and move `main` to it; return the manifest that is there."""
        refs = self._repo.refs()
        main = self._at(refs.branches["main"])
        self._require_own(main)
        # Said now, not when all is uploaded.
        if _additions({CARD_FILE: (card := self._card(main)).encode()}, main.tree):
            self._repo.require_card(card)
        if (commit := refs.tags.get(self._tag)) is None:
            commit = self._sent(main.commit)
        else:
            self._progress.say(f"version {self._manifest.version} is there already")
        tagged = self._at(commit)
        self._require_whole(tagged)
        if self._branch in refs.branches or self._is_new:
            self._repo.drop_branch(self._branch)
        self._point(tagged, main)
        return tagged.manifest or self._manifest

    def _at(self, commit: str) -> _State:
        tree = self._repo.tree(commit)
        if MANIFEST_FILE not in tree:
            return _State(commit, tree, None)
        file = f"{self._repo.address.uri}@{commit}/{MANIFEST_FILE}"
        return _State(commit, tree, Manifest.from_json(self._repo.read(MANIFEST_FILE, commit), file=file))

    def _require_own(self, main: _State) -> None:
        """Raise PublishError where `main` holds what is not an earlier version of this."""
        uri, before, others = self._repo.address.uri, main.manifest, main.tree.keys() - _OF_THE_HUB
        if before is None and others:
            found, todo = ", ".join(sorted(others)[:3]), "Name another repository: publishing would mix both."
            raise PublishError("the repository holds something else", file=uri, found=found, todo=todo)
        if before is not None and (before.kind, before.name) != (self._manifest.kind, self._manifest.name):
            found, expected = f"{before.kind} {before.name}", f"{self._manifest.kind} {self._manifest.name}"
            todo = "Name another repository, or the publication as it is called there."
            raise PublishError("the repository holds another publication", file=uri, found=found, expected=expected, todo=todo)

    def _sent(self, start: str) -> str:
        """The tagged commit: our own, or that of another who has published the same meanwhile."""
        try:
            self._send(start)
        except PublishError:
            if (commit := self._repo.refs().tags.get(self._tag)) is None:
                raise
            return commit
        return self._repo.refs().tags[self._tag]

    def _send(self, start: str) -> None:
        self._is_new = True
        self._repo.branch(self._branch, start)
        self._send_files(self._repo.tree(self._branch))
        self._commit(lambda state: self._rest(state, {MANIFEST_FILE: self._manifest.to_json()}))
        if (head := self._repo.refs().branches.get(self._branch)) is None:
            raise self._raced("others publish the same version at the same time")
        self._require_whole(self._at(head))
        self._repo.tag(self._tag, head)

    def _send_files(self, there: Mapping[str, Remote]) -> None:
        """Everything but the manifest, by commits to the branch: one, unless there is much of it."""
        left = [name for name, file in self._files.items() if name not in there or there[name].differs(file)]
        known = {remote.sha256 for remote in there.values()}
        total = sum(self._files[name].size for name in left)
        commits = list(commits_of(left, self._files))
        how = "by one commit" if len(commits) <= 1 else f"by {len(commits)} commits, since it is much"
        to = self._repo.address.uri
        self._progress.begin(f"sending {len(left)} of {len(self._files)} files ({total / 1e6:.1f} MB) to {to}, {how}", total)
        for names in commits:
            additions = {name: addition(name, self._files[name]) for name in names}
            for call in calls_of(names, self._files):
                self._repo.upload([additions[name] for name in call], self._branch)
                require_same({name: additions[name] for name in call}, self._files)
                self._progress.sent(sum(self._files[name].size for name in call if self._files[name].sha256 not in known))
            self._commit(lambda _, all_=additions: list(all_.values()))
        self._progress.end()

    def _commit(self, operations: Callable[[_State], list[Any]]) -> None:
        """Commit to the version's own branch, on which others can only have put the same."""
        for _ in range(_TRIES):
            if (head := self._repo.refs().branches.get(self._branch)) is None:
                break  # Another one has finished.
            state = self._at(head)
            wanted = operations(state)
            if not wanted or self._repo.commit(wanted, self._message, branch=self._branch, parent=state.commit):
                return
        raise self._raced("others publish the same version at the same time")

    def _point(self, tagged: _State, main: _State) -> None:
        """Move `main`, and the tag by which LeRobot finds a dataset."""
        from huggingface_hub import CommitOperationAdd, CommitOperationCopy

        ours = {name: remote for name, remote in tagged.tree.items() if name in self._manifest.files or name == MANIFEST_FILE}
        for _ in range(_TRIES):
            moved = {name for name, remote in ours.items() if name not in main.tree or main.tree[name].oid != remote.oid}
            # The large ones by their hashes; the others, which the client would fetch one by one, from here.
            operations: list[Any] = [
                CommitOperationCopy(name, name, src_revision=self._tag) for name in sorted(moved) if ours[name].sha256 is not None
            ]
            small = {name: self._content(name, tagged) for name in sorted(moved) if ours[name].sha256 is None}
            operations += [CommitOperationAdd(name, content) for name, content in small.items()]
            operations += self._rest(main, {}, stays=ours)
            if not operations or self._repo.commit(operations, self._message, branch="main", parent=main.commit):
                self._point_lerobot()
                main = self._at(self._repo.refs().branches["main"]) if operations else main
                self.pointed_to = None if main.manifest is None else main.manifest.version
                self._progress.say(f"{self._repo.address.uri} is now version {self.pointed_to}")
                return
            main = self._at(self._repo.refs().branches["main"])
            self._require_own(main)
        raise self._raced("others publish to the repository at the same time")

    def _content(self, name: str, tagged: _State) -> bytes:
        """Of a small file of the version: from here, where it still is what was tagged."""
        if name in self._files and (path := self._files[name].path).is_file():
            content = path.read_bytes()
            if git_oid(content) == tagged.tree[name].oid:
                return content
        return self._repo.read(name, tagged.commit)

    def _card(self, state: _State) -> str:
        """The card for a revision: of one that is there, what people wrote around ours stays."""
        return card_of(self._told, self._card_before(state))

    def _card_before(self, state: _State) -> str | None:
        return self._repo.read(CARD_FILE, state.commit).decode("utf-8") if CARD_FILE in state.tree else None

    def _rest(self, state: _State, more: Mapping[str, bytes], stays: Iterable[str] = ()) -> list[Any]:
        """What brings the card and its pictures, and `more`, to a revision, and removes what only the version before had there."""
        from huggingface_hub import CommitOperationDelete

        before = set() if state.manifest is None else set(state.manifest.files)
        before |= pictures_in(self._card_before(state) or "")
        written = {**self._extras, CARD_FILE: self._card(state).encode(), **more}
        gone = (before & state.tree.keys()) - self._manifest.files.keys() - written.keys() - set(stays)
        return [*_additions(written, state.tree), *(CommitOperationDelete(name) for name in sorted(gone))]

    def _point_lerobot(self) -> None:
        """LeRobot reads a dataset by the tag of its format (`v3.0`), as its own upload makes it."""
        if self._manifest.kind != "dataset" or _INFO_FILE not in self._told.package.files:
            return
        tag = json.loads(self._told.package.files[_INFO_FILE].read_text(encoding="utf-8"))["codebase_version"]
        for _ in range(_TRIES):
            refs = self._repo.refs()
            if refs.tags.get(tag) == refs.branches["main"]:
                return
            if tag in refs.tags:
                self._repo.drop_tag(tag)
            self._repo.tag(tag, refs.branches["main"])
        raise self._raced(f"others move the tag {tag}, by which LeRobot finds the dataset, at the same time")

    def _raced(self, what: str) -> PublishError:
        return PublishError(what, file=self._repo.address.uri, todo="Publish once more when the others are done: what is there is kept.")

    @property
    def _message(self) -> str:
        return f"{self._manifest.name}, version {self._manifest.version}"

    def _require_whole(self, state: _State) -> None:
        """Raise PublishError where a revision has not what was to be sent, all of it compared by hashes."""
        tree = state.tree
        wrong = {name: "is missing" if name not in tree else tree[name].differs(file) for name, file in self._files.items()}
        if state.manifest is None or state.manifest.files != self._manifest.files:
            wrong[MANIFEST_FILE] = "is missing, or another one"
        if found := [f"{name} {why}" for name, why in sorted(wrong.items()) if why is not None]:
            shown = "; ".join(found[:4]) + (" ..." if len(found) > 4 else "")
            todo = f"It is not pointed to. Remove the branch {self._branch} and the tag {self._tag} there, then publish again."
            raise PublishError("what the Hub has is not what was published", file=self._repo.address.uri, found=shown, todo=todo)


def _additions(contents: Mapping[str, bytes], tree: Mapping[str, Remote]) -> list[Any]:
    """Of these small files those that are not there as they are."""
    from huggingface_hub import CommitOperationAdd

    def is_there(name: str, content: bytes) -> bool:
        remote = tree.get(name)
        return remote is not None and (remote.sha256 == hashlib.sha256(content).hexdigest() or remote.oid == git_oid(content))

    return [CommitOperationAdd(name, content) for name, content in contents.items() if not is_there(name, content)]
