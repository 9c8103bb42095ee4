"""Files by their hashes."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vla_ops.errors import PublishError
from vla_ops.publishing import hashing
from vla_ops.publishing.hashing import Hashes, hash_file, part_size_of


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hashing, "_PART", 10)
    monkeypatch.setattr(hashing, "_BLOCK", 3)


@pytest.mark.usefixtures("small_parts")
@pytest.mark.parametrize("size", [0, 1, 9, 10, 11, 20, 25])
def test_parts_are_hashed_as_s3_would(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "f").write_bytes(content)
    found = hash_file(tmp_path / "f")
    parts = [content[k : k + 10] for k in range(0, size, 10)] or [b""]
    assert found.md5s == tuple(hashlib.md5(part, usedforsecurity=False).hexdigest() for part in parts)
    assert (found.size, found.sha256, found.part_size) == (size, hashlib.sha256(content).hexdigest(), 10)
    together = hashlib.md5(b"".join(hashlib.md5(part, usedforsecurity=False).digest() for part in parts), usedforsecurity=False)
    assert found.etag == (found.md5s[0] if len(parts) == 1 else f"{together.hexdigest()}-{len(parts)}")


@given(st.integers(0, 5 << 40))
def test_no_file_has_more_parts_than_s3_takes(size: int) -> None:
    part = part_size_of(size)
    assert part >= 16 << 20
    assert -(-size // part) <= 10_000


def test_what_has_not_changed_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [tmp_path / name for name in "ab"]
    for file in files:
        file.write_text(file.name)
    first = Hashes(tmp_path / "hashes.json").of(files)
    files[1].write_text("other")
    read: list[Path] = []
    monkeypatch.setattr(hashing, "hash_file", lambda path: (read.append(path), hash_file(path))[1])
    second = Hashes(tmp_path / "hashes.json").of(files)
    assert read == [files[1]]
    assert second[0] == first[0]
    assert second[1].sha256 == hashlib.sha256(b"other").hexdigest()


def test_a_file_that_was_written_to_since_is_found(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("as it was")
    found = hash_file(tmp_path / "f")
    found.require_unchanged()
    (tmp_path / "f").write_text("otherwise")
    os.utime(tmp_path / "f", ns=(0, found.mtime_ns + 1))
    with pytest.raises(PublishError, match=r"a file changed while it was sent.*Run the same again"):
        found.require_unchanged()
    (tmp_path / "f").unlink()
    with pytest.raises(PublishError, match=r"a file changed while it was sent.*No such file"):
        found.require_unchanged()
