"""What every store of publications must do: its tests subclass `StoreContract`, or `PrunableContract`, and say how to make one."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from vla_ops.errors import FetchError, PublishError
from vla_ops.fetching.download import fetch_file
from vla_ops.publishing.hashing import HashedFile, hash_file, part_size_of
from vla_ops.publishing.stores.base import Prunable, Store

PART = part_size_of(0)
SIZES = {"nothing": 0, "a byte": 1, "less than a part": 100_001, "one part": PART, "two parts and a bit": 2 * PART + PART // 2 + 1}


def content_of(size: int, seed: int = 0) -> bytes:
    """Bytes of which no two parts are the same."""
    return hashlib.shake_128(str(seed).encode()).digest(size)


def made(path: Path, content: bytes) -> HashedFile:
    """A file of this content, hashed."""
    path.write_bytes(content)
    return hash_file(path)


def put(store: Store, name: str, file: HashedFile, like: str | None = None) -> int:
    """Put a file there; how many bytes of it were sent."""
    sent: list[int] = []
    store.put(name, file, like=like, sent=sent.append)
    return sum(sent)


class StoreContract:
    """Subclasses override `store`, an empty one."""

    @pytest.fixture
    def store(self) -> Store:
        raise NotImplementedError

    def test_one_that_can_be_written_is_empty_when_that_is_known(self, store: Store) -> None:
        store.check()
        assert store.listed("pi0/v1") == {}
        assert store.at_once >= 1

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_a_file_that_was_put_is_there_byte_for_byte(self, store: Store, tmp_path: Path, size: int) -> None:
        file = made(tmp_path / "file", content_of(size))
        assert store.differs("pi0/v1/file", file) == "is missing"
        assert put(store, "pi0/v1/file", file) == size
        assert store.differs("pi0/v1/file", file) is None
        assert store.listed("pi0/v1") == {"file": size}
        assert store.read("pi0/v1/file") == content_of(size)

    def test_a_file_that_is_there_is_not_sent_again(self, store: Store, tmp_path: Path) -> None:
        file = made(tmp_path / "file", content_of(70_000))
        put(store, "pi0/v1/file", file)
        assert put(store, "pi0/v1/file", file) == 0

    @pytest.mark.parametrize("size", [70_000, 69_999])
    def test_other_content_under_the_name_is_replaced(self, store: Store, tmp_path: Path, size: int) -> None:
        put(store, "pi0/v1/file", made(tmp_path / "other", content_of(size, seed=1)))
        file = made(tmp_path / "file", content_of(70_000))
        assert put(store, "pi0/v1/file", file) == 70_000
        assert store.differs("pi0/v1/file", file) is None

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_what_the_store_has_already_is_copied_there(self, store: Store, tmp_path: Path, size: int) -> None:
        file = made(tmp_path / "file", content_of(size))
        put(store, "pi0/v1/file", file)
        assert put(store, "pi0/v2/same", file, like="pi0/v1/file") == 0
        assert store.differs("pi0/v2/same", file) is None
        assert store.differs("pi0/v1/file", file) is None

    @pytest.mark.parametrize("other", [None, content_of(70_000, seed=1)], ids=["not there", "of other bytes"])
    def test_what_cannot_be_copied_is_sent(self, store: Store, tmp_path: Path, other: bytes | None) -> None:
        if other is not None:
            put(store, "pi0/v1/file", made(tmp_path / "other", other))
        file = made(tmp_path / "file", content_of(70_000))
        assert put(store, "pi0/v2/file", file, like="pi0/v1/file") == 70_000
        assert store.differs("pi0/v2/file", file) is None

    @pytest.mark.parametrize("size", [70_000, SIZES["two parts and a bit"]])
    @pytest.mark.parametrize("now", ["longer", "shorter", "of other bytes"])
    def test_a_file_that_changed_since_it_was_hashed_never_gets_its_name(self, store: Store, tmp_path: Path, size: int, now: str) -> None:
        file = made(tmp_path / "file", content_of(size))
        file.path.write_bytes({"longer": content_of(size + 1), "shorter": content_of(size - 1)}.get(now, content_of(size, seed=1)))
        with pytest.raises(PublishError, match=r"a file changed while it was sent.*Run the same again"):
            put(store, "pi0/v1/file", file)
        assert store.differs("pi0/v1/file", file) == "is missing"
        assert store.listed("pi0/v1") == {}

    def test_it_says_in_which_way_a_file_differs(self, store: Store, tmp_path: Path) -> None:
        put(store, "pi0/v1/file", made(tmp_path / "file", content_of(100)))
        assert store.differs("pi0/v1/file", made(tmp_path / "other", content_of(100, seed=1))) == "has other bytes"
        assert store.differs("pi0/v1/file", made(tmp_path / "longer", content_of(101))) == "has 100 bytes instead of 101"
        assert store.differs("pi0/v1/elsewhere", made(tmp_path / "file", content_of(100))) == "is missing"

    def test_of_many_files_it_names_those_that_differ(self, store: Store, tmp_path: Path) -> None:
        sizes = {"small": 100, "changed": 100, "longer": 101, "missing": 100, "parts": PART + 1, "changed parts": PART + 1}
        files = {f"deep/{name}": made(tmp_path / name, content_of(size)) for name, size in sizes.items()}
        for name in ("small", "parts"):
            put(store, f"v1/deep/{name}", files[f"deep/{name}"])
        for name, size in (("changed", 100), ("longer", 100), ("changed parts", PART + 1), ("of others", 1)):
            put(store, f"v1/deep/{name}", made(tmp_path / "other", content_of(size, seed=1)))
        assert store.differing("v1", files) == {
            "deep/changed": "has other bytes",
            "deep/longer": "has 100 bytes instead of 101",
            "deep/missing": "is missing",
            "deep/changed parts": "has other bytes",
        }
        assert store.differing("v2", {}) == {}

    @pytest.mark.parametrize("size", [70_000, SIZES["two parts and a bit"]])
    def test_what_was_asked_for_is_put(self, store: Store, tmp_path: Path, size: int) -> None:
        file, sent = made(tmp_path / "file", content_of(size)), list[int]()
        assert store.differing("v1", {"file": file}) == {"file": "is missing"}
        store.put("v1/file", file, like=None, sent=sent.append, asked=True)
        assert sum(sent) == size
        assert store.differing("v1", {"file": file}) == {}

    def test_names_are_listed_below_their_folder_alone(self, store: Store, tmp_path: Path) -> None:
        names = ["file", "videos/front camera/episode 0+1%.mp4", "données/夹爪.json", "deep/er/and/deeper"]
        file = made(tmp_path / "file", b"content")
        for name in [*(f"pi0/v1/{name}" for name in names), "pi0/v10/file", "pi0/file", "v1/file"]:
            put(store, name, file)
        assert store.listed("pi0/v1") == dict.fromkeys(names, 7)
        assert all(store.read(f"pi0/v1/{name}") == b"content" for name in names)

    def test_many_files_are_put_at_once(self, store: Store, tmp_path: Path) -> None:
        files = {f"pi0/v1/{k}": made(tmp_path / str(k), content_of(1000 + k, seed=k)) for k in range(40)}
        with ThreadPoolExecutor(8) as pool:
            assert sum(pool.map(lambda name: put(store, name, files[name]), files)) == sum(file.size for file in files.values())
            assert set(pool.map(lambda name: store.differs(name, files[name]), files)) == {None}

    def test_many_files_are_put_by_one_call_and_what_is_last_comes_along(self, store: Store, tmp_path: Path) -> None:
        before = made(tmp_path / "before", content_of(70_000))
        put(store, "pi0/v1/same", before)
        files = {f"pi0/v2/deep/{k}": made(tmp_path / str(k), content_of(1000 + k, seed=k)) for k in range(20)}
        last, sent = made(tmp_path / "last", b"last"), list[int]()
        like = {"pi0/v2/copy": "pi0/v1/same"}
        store.put_all({**files, "pi0/v2/copy": before}, last={"pi0/states/1": last}, like=like, sent=sent.append)
        assert sum(sent) == sum(file.size for file in files.values())
        assert store.listed("pi0/v2") == {"copy": 70_000, **{name.removeprefix("pi0/v2/"): file.size for name, file in files.items()}}
        there = {**files, "pi0/v2/copy": before, "pi0/states/1": last}
        assert store.differing("pi0", {name.removeprefix("pi0/"): file for name, file in there.items()}) == {}
        store.put_all(files, sent=sent.append)
        assert sum(sent) == sum(file.size for file in files.values())

    def test_of_many_files_one_that_changed_stops_what_was_to_be_last(self, store: Store, tmp_path: Path) -> None:
        files = {f"v1/{k}": made(tmp_path / str(k), content_of(1000, seed=k)) for k in range(5)}
        files["v1/3"].path.write_bytes(b"changed")
        with pytest.raises(PublishError, match="a file changed while it was sent"):
            store.put_all(files, last={"state": made(tmp_path / "last", b"last")}, sent=lambda _: None)
        assert store.read("state") is None
        assert store.differs("v1/3", files["v1/3"]) == "is missing"

    @pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
    def test_a_file_of_any_size_is_fetched_going_on_where_it_ended(self, store: Store, tmp_path: Path, size: int) -> None:
        content = content_of(size)
        put(store, "v1/file", made(tmp_path / "file", content))
        target = tmp_path / "target"
        target.write_bytes(content[: size // 2])
        fetch_file(store.remote_file("v1/file"), target)
        assert target.read_bytes() == content

    def test_a_file_that_is_not_there_cannot_be_fetched(self, store: Store, tmp_path: Path) -> None:
        put(store, "v1/file", made(tmp_path / "file", b"content"))
        with pytest.raises(FetchError, match="v1/other") as missing:
            store.remote_file("v1/other")
        assert isinstance(missing.value.__cause__, FileNotFoundError)

    def test_what_is_not_there_reads_as_nothing(self, store: Store) -> None:
        assert store.read("pi0/latest.json") is None
        assert store.pointer("pi0/latest.json") is None

    def test_a_pointer_is_replaced_by_who_has_seen_it(self, store: Store) -> None:
        assert store.point("pi0/latest.json", b"v1", seen=None)
        first = store.pointer("pi0/latest.json")
        assert first is not None
        assert first.content == b"v1"
        assert store.point("pi0/latest.json", b"v2", seen=first)
        assert store.read("pi0/latest.json") == b"v2"

    def test_a_pointer_is_left_alone_by_who_has_not_seen_it(self, store: Store) -> None:
        assert store.point("pi0/latest.json", b"v1", seen=None)
        first = store.pointer("pi0/latest.json")
        assert store.point("pi0/latest.json", b"v2", seen=first)
        assert not store.point("pi0/latest.json", b"v3", seen=first)
        assert not store.point("pi0/latest.json", b"v3", seen=None)
        assert not store.point("pi0/other.json", b"v3", seen=first)
        assert store.read("pi0/latest.json") == b"v2"
        assert store.read("pi0/other.json") is None

    @pytest.mark.parametrize("round", range(5))
    def test_of_those_who_write_a_pointer_at_once_exactly_one_does(self, store: Store, round: int) -> None:
        if round % 2:
            assert store.point("pi0/latest.json", b"before", seen=None)
        seen, contents, together = store.pointer("pi0/latest.json"), [f"v{k}".encode() for k in range(6)], threading.Barrier(6)

        def write(content: bytes) -> bool:
            together.wait()
            return store.point("pi0/latest.json", content, seen=seen)

        with ThreadPoolExecutor(len(contents)) as pool:
            won = [content for content, is_ours in zip(contents, pool.map(write, contents), strict=True) if is_ours]
        assert won == [store.read("pi0/latest.json")]


class PrunableContract(StoreContract):
    """Of a store from which what is removed is gone."""

    def test_what_is_removed_is_gone_and_nothing_else(self, store: Prunable, tmp_path: Path) -> None:
        file = made(tmp_path / "file", b"content")
        names = [f"blobs/{k:02d}/a b+%é" for k in range(12)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda name: put(store, name, file), [*names, "blobs/kept"]))
        store.remove(iter(names[:-1]))
        assert store.listed("blobs") == {names[-1].removeprefix("blobs/"): 7, "kept": 7}
        # What is there no more, and never was.
        store.remove([*names, "blobs/never", "nowhere/at all"])
        assert store.listed("blobs") == {"kept": 7}
        assert store.read(names[0]) is None
        store.remove([])
        assert put(store, names[0], file) == 7

    def test_a_listing_says_when_what_was_written(self, store: Prunable, tmp_path: Path) -> None:
        put(store, "blobs/a/file", made(tmp_path / "file", b"content"))
        assert store.point("states/x", b"state", seen=None)
        (name, stored), *others = store.stored("blobs").items()
        assert (name, stored.size, others) == ("a/file", 7, [])
        assert abs(stored.written - datetime.now(UTC)) < timedelta(minutes=1)
        assert store.stored("elsewhere") == {}

    def test_the_folders_in_it_are_named(self, store: Prunable, tmp_path: Path) -> None:
        assert store.folders() == []
        file = made(tmp_path / "file", b"content")
        for name in ("arm/blobs/deep/file", "arm/state.json", "hand/state.json", "file"):
            put(store, name, file)
        assert sorted(store.folders()) == ["arm", "hand"]

    def test_what_is_whole_or_has_just_begun_is_not_cleared_away(self, store: Prunable, tmp_path: Path) -> None:
        put(store, "pi0/v1/file", made(tmp_path / "file", content_of(PART + 1)))
        later = datetime.now(UTC) + timedelta(days=1)
        assert store.clear_unfinished(later) == 0
        assert store.listed("") == {"pi0/v1/file": PART + 1}
