"""Files on their way to the Hub: how many of them one commit takes, and that what arrives is what was hashed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from vla_ops.publishing.hashing import HashedFile, changed

# One upload call and one commit: what is in an unfinished one is sent again after a crash, or looked at again.
_CALL_BYTES, _CALL_FILES = 1 << 30, 100
_COMMIT_BYTES, _COMMIT_FILES = 20 << 30, 500
# Up to here the Hub may want a file within the commit, if it is a text; a commit takes 1 GB of them, in base64.
_REGULAR, _COMMIT_REGULAR_BYTES = 10 << 20, 512 << 20
# What is read and compared as a whole: of a commit it is in memory.
_WHOLE = 256 << 10


def commits_of(names: Iterable[str], files: Mapping[str, HashedFile]) -> Iterator[list[str]]:
    """The names in their order, as many at a time as one commit takes."""
    return _groups(names, files, most_bytes=_COMMIT_BYTES, most_files=_COMMIT_FILES)


def calls_of(names: Iterable[str], files: Mapping[str, HashedFile]) -> Iterator[list[str]]:
    """The names in their order, as many at a time as are uploaded by one call."""
    return _groups(names, files, most_bytes=_CALL_BYTES, most_files=_CALL_FILES)


def _groups(names: Iterable[str], files: Mapping[str, HashedFile], *, most_bytes: int, most_files: int) -> Iterator[list[str]]:
    """So many at a time; one that is larger by itself."""
    group, total, regular = list[str](), 0, 0
    for name in names:
        size = files[name].size
        within = size if size <= _REGULAR else 0
        if group and (len(group) == most_files or total + size > most_bytes or regular + within > _COMMIT_REGULAR_BYTES):
            yield group
            group, total, regular = [], 0, 0
        group.append(name)
        total += size
        regular += within
    if group:
        yield group


def addition(name: str, file: HashedFile) -> Any:
    """What adds a file to a commit (CommitOperationAdd). Raise PublishError for a file that is not what it was when it was hashed."""
    from huggingface_hub import CommitOperationAdd, constants

    file.require_unchanged()
    if file.size <= _WHOLE:
        content = file.path.read_bytes()
        if (found := hashlib.sha256(content).hexdigest()) != file.sha256:
            raise changed(file.path, f"sha256 {found}", f"sha256 {file.sha256}")
        return CommitOperationAdd(name, content)
    made = CommitOperationAdd(name, str(file.path))
    if constants.HF_HUB_DISABLE_XET:
        # LFS compares what arrives with this. Xet would take it as it is: there the client hashes what it sends, and that is compared.
        made.upload_info.sha256 = bytes.fromhex(file.sha256)
    return made


def is_read_by_the_commit(file: HashedFile) -> bool:
    """Whether the client may read a file once more when it commits, and nobody compares what it reads then."""
    return _WHOLE < file.size <= _REGULAR


def require_same(additions: Mapping[str, Any], files: Mapping[str, HashedFile]) -> None:
    """Raise PublishError where the client, which hashes what it sends, has sent something else."""
    for name, made in additions.items():
        if (found := made.upload_info.sha256.hex()) != files[name].sha256:
            raise changed(files[name].path, f"sha256 {found}", f"sha256 {files[name].sha256}")
