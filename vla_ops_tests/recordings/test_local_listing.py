"""A local folder is listed in one walk, and what matches is what fsspec's glob says, whatever the tree and the pattern."""

from __future__ import annotations

import errno
import glob
import posixpath
import tempfile
from pathlib import Path

import pytest
from fsspec.implementations.local import LocalFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from vla_ops.recordings.discover import list_recordings
from vla_ops.recordings.local_listing import is_plain, local_matches

NAMES = st.sampled_from(["a", "b", "a.mcap", "b.mcap", ".c.mcap", "x[1]", "x1", "rec*", "s 1"])
PARTS = st.sampled_from(["*", "**", "a", "b", "*.mcap", "?", "[ab]", "[!a]*", "x[[]1]", "x[1]", "s*", ".c*"])


def make(root: Path, paths: list[list[str]], linked: set[int]) -> None:
    """Files at the paths as far as they can be; some are links to folders or to nothing."""
    for k, parts in enumerate(paths):
        path = root.joinpath(*parts)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            if k in linked:
                path.symlink_to(root / "a" if k % 2 else root / "nothing")
            else:
                path.write_text("x")
        except OSError as error:
            # What is in the way of another one, or leads back to itself.
            if error.errno not in {errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}:
                raise


@settings(max_examples=150, deadline=None)
@given(st.lists(st.lists(NAMES, min_size=1, max_size=3), max_size=8), st.sets(st.integers(0, 7)), st.lists(PARTS, min_size=1, max_size=3))
def test_the_same_paths_match_as_with_fsspec(paths: list[list[str]], linked: set[int], parts: list[str]) -> None:
    pattern = "/".join(parts)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "root [1]"
        root.mkdir()
        make(root, paths, linked)
        theirs = LocalFileSystem().glob(posixpath.join(glob.escape(str(root)), pattern))
        if is_plain(pattern):
            assert sorted(key for key, _ in local_matches(str(root), pattern)) == sorted(str(Path(p).relative_to(root)) for p in theirs)


@pytest.mark.parametrize("pattern", ["**", "a/**", "*/", "./*", "../*", "/x/*", "a//b"])
def test_a_pattern_of_another_kind_is_left_to_fsspec(pattern: str) -> None:
    assert not is_plain(pattern)


def test_a_bad_pattern_is_refused_as_before(tmp_path: Path) -> None:
    with pytest.raises(Exception, match=r"'\*\*' can only be an entire path component"):
        list_recordings(str(tmp_path), "a**/*.mcap")
