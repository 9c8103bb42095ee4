"""A folder of a repository on the Hub as a store: the contract, and what is the Hub's own."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
from aiohttp import web

from vla_ops.errors import PublishError
from vla_ops.fetching.download import fetch_file
from vla_ops.publishing.hashing import HashedFile
from vla_ops.publishing.hub import additions
from vla_ops.publishing.hub.store import HubStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.publishing.stores.contract import PART, StoreContract, content_of, made, put
from vla_ops_tests.services.hub import READ, WRITE, HubServer, Repo, Trouble

URI = "hf://datasets/lab/home/arm"


class TestOnTheHub(StoreContract):
    @pytest.fixture
    def store(self, hub: HubServer) -> Store:
        assert hub.endpoint
        return HubStore(URI)


@pytest.fixture
def store(hub: HubServer) -> HubStore:
    hub.make("lab/home", "dataset")
    return HubStore(URI)


def commits(hub: HubServer) -> int:
    """How many there are but for the first."""
    return len(hub.repo("lab/home", "dataset").commits) - 1


def somebody_commits(hub: HubServer, path: str, content: bytes) -> Repo:
    repo = hub.repo("lab/home", "dataset")
    repo.commit({**repo.head.tree, path: hub.add(content)}, "main", "of somebody else")
    return repo


def before_commits(hub: HubServer, act: Callable[[], object], *, times: int = 1) -> Callable[[str, str], Trouble]:
    """Do it before so many commits, which have looked at what there was before."""
    left = [times]

    def trouble(_: str, path: str) -> Trouble:
        if "/commit/" in path and left[0]:
            left[0] -= 1
            act()
        return None

    return trouble


def test_many_files_are_one_commit_and_what_is_to_be_last_comes_along(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    files = {f"v1/{k}": made(tmp_path / str(k), content_of(100 + k, seed=k)) for k in range(60)}
    sent: list[int] = []
    store.put_all(files, last={"state": made(tmp_path / "state", b"state")}, sent=sent.append)
    assert commits(hub) == 1
    assert sum(sent) == sum(file.size for file in files.values())
    assert store.differing("v1", {name.removeprefix("v1/"): file for name, file in files.items()}) == {}
    assert store.read("state") == b"state"
    store.put_all(files, sent=sent.append)
    assert commits(hub) == 1


def test_more_than_a_commit_takes_are_several_and_the_last_of_them_brings_what_is_to_be_last(
    store: HubStore, hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(additions, "_COMMIT_FILES", 3)
    monkeypatch.setattr(additions, "_CALL_FILES", 2)
    files = {f"v1/{k}": made(tmp_path / str(k), content_of(100 + k, seed=k)) for k in range(7)}
    store.put_all(files, last={"state": made(tmp_path / "state", b"state")}, sent=lambda _: None)
    repo = hub.repo("lab/home", "dataset")
    trees = [commit.tree for commit in repo.commits.values()][1:]
    assert [len(tree) - 1 for tree in trees] == [3, 6, 8]
    assert ["arm/state" in tree for tree in trees] == [False, False, True]


def test_contents_that_the_hub_has_are_not_sent_again_under_another_name(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    file = made(tmp_path / "file", content_of(PART + 1))
    put(store, "v1/file", file)
    hub.asked.clear()
    put(HubStore("hf://datasets/lab/home/other"), "v1/file", file)
    assert not any(line.startswith("PUT") for line in hub.asked)


def changing(hub: HubServer, folder: Path, text: bytes) -> HashedFile:
    """A text that is written to when the Hub is asked how it wants it."""
    file = made(folder / "file", text)

    def trouble(_: str, path: str) -> Trouble:
        if "/preupload/" in path:
            file.path.write_bytes(text + b" and more")
        return None

    hub.trouble = trouble
    return file


def test_a_small_text_that_changes_in_the_moment_of_the_commit_is_sent_as_it_was(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    put(store, "v1/file", changing(hub, tmp_path, b"a small text"))
    assert store.read("v1/file") == b"a small text"


def test_a_larger_text_that_changes_in_the_moment_of_the_commit_is_refused(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    text = b"a text " * 100_000
    with pytest.raises(PublishError, match=r"a file changed while it was sent.*Run the same again"):
        put(store, "v1/file", changing(hub, tmp_path, text))
    hub.trouble = lambda *_: None
    put(store, "v1/file", made(tmp_path / "file", text))
    assert store.read("v1/file") == text


def test_another_commit_between_look_and_point_does_no_harm(store: HubStore, hub: HubServer) -> None:
    hub.trouble = before_commits(hub, lambda: somebody_commits(hub, "other/state.json", b"theirs"))
    assert store.point("state.json", b"ours", seen=None)
    assert store.read("state.json") == b"ours"
    assert set(hub.repo("lab/home", "dataset").head.tree) == {".gitattributes", "other/state.json", "arm/state.json"}


def test_a_pointer_that_another_one_replaces_between_look_and_point_is_left_alone(store: HubStore, hub: HubServer) -> None:
    hub.trouble = before_commits(hub, lambda: somebody_commits(hub, "arm/state.json", b"theirs"))
    assert not store.point("state.json", b"ours", seen=None)
    assert store.read("state.json") == b"theirs"


def test_where_others_commit_every_time_it_ends_and_says_so(store: HubStore, hub: HubServer) -> None:
    count = iter(range(1000))
    hub.trouble = before_commits(hub, lambda: somebody_commits(hub, "other/state.json", str(next(count)).encode()), times=1000)
    with pytest.raises(PublishError, match=r"others committed to the repository every time.*lab/home/arm.*Run the same again"):
        store.point("state.json", b"ours", seen=None)
    assert next(count) <= 20
    assert store.read("state.json") is None


def test_files_are_put_where_the_hub_refuses_commits_of_the_same_moment(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    left = [3]

    def trouble(_: str, path: str) -> Trouble:
        if "/commit/" not in path or not left[0]:
            return None
        left[0] -= 1
        return web.json_response({"error": "A commit has happened since. Please refresh and try again."}, status=412)

    hub.trouble = trouble
    file = made(tmp_path / "file", content_of(100))
    assert put(store, "v1/file", file) == 100
    assert store.differs("v1/file", file) is None


@pytest.mark.parametrize("which", ["/commit/", "/preupload/", "/batch", "PUT"])
def test_an_answer_that_is_lost_does_no_harm(store: HubStore, hub: HubServer, tmp_path: Path, which: str) -> None:
    left = [True]
    hub.trouble = lambda method, path: which in f"{method} {path}" and bool(left) and left.pop()
    file = made(tmp_path / "file", b"\0" + content_of(100))
    assert put(store, "v1/file", file) == 101
    assert store.differs("v1/file", file) is None
    left.append(which in ("/commit/", "/preupload/"))
    assert store.point("state.json", b"ours", seen=None)
    assert left == [] or not left.pop()


def test_a_large_file_is_fetched_by_ranges_of_one_commit_going_on_where_it_ended(store: HubStore, hub: HubServer, tmp_path: Path) -> None:
    content = content_of(2 * PART + 5)
    put(store, "v1/file", made(tmp_path / "file", content))
    target = tmp_path / "target"
    target.write_bytes(content[:PART])
    file = store.remote_file("v1/file")
    somebody_commits(hub, "arm/v1/file", b"another one")
    busy = [2]

    def trouble(_: str, path: str) -> Trouble:
        if "/resolve/" not in path or not busy[0]:
            return None
        busy[0] -= 1
        return web.json_response({"error": "slow down"}, status=429, headers={"Retry-After": "3"})

    hub.trouble = trouble
    hub.asked.clear()
    fetch_file(file, target)
    assert target.read_bytes() == content
    # Two that were refused, and two parts.
    assert sum("/resolve/" in line for line in hub.asked) == 4


def test_what_another_process_put_is_found(store: HubStore, tmp_path: Path) -> None:
    assert store.read("states/1") is None
    put(HubStore(URI), "states/1", made(tmp_path / "file", b"content"))
    assert store.read("states/1") == b"content"


def test_a_repository_that_is_not_there_is_made_private(hub: HubServer) -> None:
    assert HubStore(URI).pointer("state.json") is None
    assert hub.repo("lab/home", "dataset").private
    assert set(hub.repos) == {("dataset", "lab/home")}


def test_a_public_repository_is_neither_read_nor_written(hub: HubServer, tmp_path: Path) -> None:
    hub.make("lab/home", "dataset", private=False)
    store = HubStore(URI)
    for call in (store.check, lambda: store.pointer("a"), lambda: store.read("a"), lambda: put(store, "a", made(tmp_path / "a", b"a"))):
        with pytest.raises(PublishError, match=r"the repository is public.*hf://datasets/lab/home/arm.*expected private.*Make it private"):
            call()
    assert commits(hub) == 0


@pytest.mark.parametrize(
    ("token", "uri", "said"),
    [
        ("hf_unknownunknown", URI, r"does not know the token.*HF_TOKEN"),
        (READ, "hf://datasets/lab/new/arm", r"the token may not do this.*HF_TOKEN"),
        (WRITE, "hf://datasets/others/new/arm", r"the token may not do this.*namespace"),
        (None, URI, r"there is no token for the Hub.*HF_TOKEN"),
    ],
)
def test_a_token_that_may_not_is_found_by_the_first_look(
    hub: HubServer, monkeypatch: pytest.MonkeyPatch, token: str | None, uri: str, said: str
) -> None:
    hub.make("lab/home", "dataset")
    monkeypatch.setenv("HF_TOKEN", token or "")
    with pytest.raises(PublishError, match=said) as caught:
        HubStore(uri).pointer("state.json")
    assert not token or token not in "".join(traceback.format_exception(caught.value))


def test_a_token_that_may_only_read_reads(store: HubStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store.point("state.json", b"v1", seen=None)
    monkeypatch.setenv("HF_TOKEN", READ)
    reader = HubStore(URI)
    assert reader.read("state.json") == b"v1"
    with pytest.raises(PublishError, match="the token may not do this"):
        reader.point("state.json", b"v2", seen=reader.pointer("state.json"))
    with pytest.raises(PublishError, match="the token may not do this"):
        put(reader, "file", made(tmp_path / "file", b"content"))


@pytest.mark.parametrize(
    "uri", ["hf://lab/home", "hf://datasets/lab", "s3://lab/home", "hf://datasets/lab/home/.git", "hf://datasets/lab/a--b"]
)
def test_what_is_no_place_there_is_refused(hub: HubServer, uri: str) -> None:
    with pytest.raises(PublishError, match="this is no place on the Hub"):
        HubStore(uri)
    assert hub.asked == []
