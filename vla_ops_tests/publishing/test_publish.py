"""Uploaded, read back, and only then pointed to."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from vla_ops.errors import PublishError
from vla_ops.published.pull import published_at, pull
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import Pointer
from vla_ops_tests.publishing.packages import NAME, package_of, published


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def files_in(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_is_published_comes_back_as_it_was(store: LocalStore, tmp_path: Path) -> None:
    done = published(store, tmp_path, a="one", b="two")
    version = published_at(f"{store.uri}/{NAME}")
    assert version is not None
    assert version.manifest == done.manifest
    folder = pull(version, tmp_path / "cache")
    assert {name: (folder / name).read_text() for name in done.manifest.files} == {"params/a": "one", "params/b": "two"}
    assert done.bytes_sent == 6


def test_the_same_twice_is_one_version_and_nothing_is_sent(store: LocalStore, tmp_path: Path) -> None:
    first = published(store, tmp_path, a="one")
    before = files_in(store.folder)
    again = published(store, tmp_path, a="one")
    assert (again.manifest, again.bytes_sent) == (first.manifest, 0)
    assert files_in(store.folder) == before


def test_only_what_changed_is_sent_and_the_old_version_stays(store: LocalStore, tmp_path: Path) -> None:
    first = published(store, tmp_path / "1", a="one", b="two")
    second = published(store, tmp_path / "2", a="one", b="three", c="one")
    assert second.bytes_sent == len("three")
    old = published_at(f"{store.uri}/{NAME}@{first.manifest.version}")
    new = published_at(f"{store.uri}/{NAME}")
    assert old is not None
    assert new is not None
    assert (pull(old, tmp_path) / "params/b").read_text() == "two"
    assert (pull(new, tmp_path) / "params/b").read_text() == "three"


def test_another_origin_is_another_version(store: LocalStore, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")
    other = type(package)(package.kind, package.name, package.files, {**package.origin, "dataset_version": "d2"}, package.measured)
    first, second = (publish(each, store, work=tmp_path) for each in (package, other))
    assert first.manifest.version != second.manifest.version
    assert second.bytes_sent == 0


@dataclass(frozen=True)
class Meddling(LocalStore):
    """A store whose content is changed by somebody else when a file has been put there."""

    meddle: Callable[[Path], object] = lambda _: None

    def put(self, name: str, file: HashedFile, *, like: str | None, sent: Callable[[int], None], asked: bool = False) -> None:
        super().put(name, file, like=like, sent=sent, asked=asked)
        if not name.endswith(".json"):
            self.meddle(self.folder / name)


@pytest.mark.parametrize(
    ("meddle", "found"),
    [
        (lambda path: path.write_text("One"), "params/a has other bytes"),
        (lambda path: path.write_text("longer"), "params/a has 6 bytes instead of 3"),
        (lambda path: path.unlink(), "params/a is missing"),
        (lambda path: path.with_name("z").touch(), "params/z does not belong to it"),
    ],
)
def test_what_was_not_read_back_the_same_is_never_pointed_to(tmp_path: Path, meddle: Callable[[Path], object], found: str) -> None:
    store = Meddling(tmp_path / "store", meddle=meddle)
    with pytest.raises(PublishError, match=f"what the store has is not what was published.*{found}.*not pointed to"):
        published(store, tmp_path, a="one")
    assert published_at(f"{store.uri}/{NAME}") is None


def test_a_file_that_changes_after_it_was_hashed_is_refused(store: LocalStore, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")

    @dataclass(frozen=True)
    class Late(LocalStore):
        def differing(self, folder: str, files: Mapping[str, HashedFile]) -> Mapping[str, str]:
            # After it was hashed, before it is sent.
            package.files["params/a"].write_text("One")
            os.utime(package.files["params/a"], ns=(0, 0))
            return super().differing(folder, files)

    with pytest.raises(PublishError, match=r"a file changed while it was sent.*params/a"):
        publish(package, Late(store.folder), work=tmp_path)
    assert published_at(f"{store.uri}/{NAME}") is None


def test_who_is_killed_before_the_manifest_leaves_nothing_to_be_seen_and_the_next_goes_on(store: LocalStore, tmp_path: Path) -> None:
    code = (
        "import os, signal, sys; from pathlib import Path; from vla_ops_tests.publishing.packages import *; "
        "from vla_ops.publishing.stores import LocalStore; from vla_ops.publishing import publish as module; "
        "module._Upload._finish = lambda *_: os.kill(os.getpid(), signal.SIGKILL); "
        "published(LocalStore(Path(sys.argv[1])), Path(sys.argv[2]), a='one', b='two')"
    )
    command = [sys.executable, "-c", code, str(store.folder), str(tmp_path)]
    killed = subprocess.run(command, cwd=Path(__file__).parents[2], check=False)
    assert killed.returncode == -9
    assert published_at(f"{store.uri}/{NAME}") is None
    done = published(store, tmp_path, a="one", b="two")
    assert done.bytes_sent == 0
    assert published_at(f"{store.uri}/{NAME}") is not None


def test_of_two_who_finish_the_same_version_the_first_ones_manifest_stays(store: LocalStore, tmp_path: Path) -> None:
    first: list[Published] = []

    @dataclass(frozen=True)
    class Slower(LocalStore):
        def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
            if not first:
                first.append(published(store, tmp_path / "first", a="one"))
            return super().point(name, content, seen=seen)

    second = published(Slower(store.folder), tmp_path / "second", a="one")
    assert second.manifest == first[0].manifest
    version = published_at(f"{store.uri}/{NAME}")
    assert version is not None
    assert version.manifest == first[0].manifest


def test_a_pointer_that_others_move_meanwhile_is_looked_at_again(tmp_path: Path) -> None:
    moved: list[Pointer | None] = []

    @dataclass(frozen=True)
    class Racing(LocalStore):
        def point(self, name: str, content: bytes, *, seen: Pointer | None) -> bool:
            if name.endswith("latest.json"):
                moved.append(seen)
            if name.endswith("latest.json") and len(moved) == 1:
                super().point(name, json.dumps({"version": "theirs"}).encode(), seen=seen)
            return super().point(name, content, seen=seen)

    store = Racing(tmp_path / "store")
    done = published(store, tmp_path, a="one")
    assert [None if seen is None else json.loads(seen.content)["version"] for seen in moved] == [None, "theirs"]
    assert json.loads((store.folder / NAME / "latest.json").read_text())["version"] == done.manifest.version


def test_a_damaged_pointer_is_said(store: LocalStore, tmp_path: Path) -> None:
    published(store, tmp_path, a="one")
    (store.folder / NAME / "latest.json").write_text("{")
    with pytest.raises(PublishError, match=r"the pointer cannot be read.*latest.json"):
        published(store, tmp_path, a="two")
    with pytest.raises(PublishError, match=r"the pointer cannot be read.*latest.json"):
        published_at(f"{store.uri}/{NAME}")
