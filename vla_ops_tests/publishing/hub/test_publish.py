"""Onto the Hub: a branch, read back, a tag, and only then `main`."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from aiohttp import web

from vla_ops.errors import PublishError
from vla_ops.published.manifest import MANIFEST_FILE
from vla_ops.published.pull import published_at, pull
from vla_ops.publishing import progress
from vla_ops.publishing.hub import additions, publish
from vla_ops.publishing.hub.options import HubOptions
from vla_ops.publishing.publish import Published
from vla_ops_tests.publishing.hub.packages import URI, package_of, published
from vla_ops_tests.services.hub import HubServer


def files_of(hub: HubServer, revision: str = "main") -> dict[str, bytes]:
    """What a revision holds below data/."""
    repo = hub.repo("lab/pick", "dataset")
    commit = repo.at(revision)
    assert commit is not None
    return {name: hub.content(repo, name, revision) for name in commit.tree if name.startswith("data/")}


def test_what_is_published_is_private_and_comes_back_as_it_was(hub: HubServer, tmp_path: Path) -> None:
    done = published(package_of(tmp_path, text="one", large=b"two"), tmp_path)
    assert hub.repo("lab/pick", "dataset").private
    assert (done.uri, done.pointed_to) == (URI, done.manifest.version)
    version = published_at(URI)
    assert version is not None
    assert version.manifest == done.manifest
    folder = pull(version, tmp_path / "cache")
    assert {name: (folder / name).read_bytes() for name in done.manifest.files} == {"data/text": b"one", "data/large": b"\0two"}


def test_a_version_is_a_tag_and_main_is_the_newest(hub: HubServer, tmp_path: Path) -> None:
    first = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    second = published(package_of(tmp_path / "2", a="one", c=b"three"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    assert set(repo.tags) == {f"version-{done.manifest.version}" for done in (first, second)}
    assert set(repo.branches) == {"main"}
    assert files_of(hub) == {"data/a": b"one", "data/c": b"\0three"}
    assert files_of(hub, f"version-{first.manifest.version}") == {"data/a": b"one", "data/b": b"\0two"}
    old, new = published_at(f"{URI}@{first.manifest.version}"), published_at(URI)
    assert old is not None
    assert new is not None
    assert (old.manifest, new.manifest) == (first.manifest, second.manifest)


def test_the_same_twice_makes_no_commit_and_sends_nothing(hub: HubServer, tmp_path: Path) -> None:
    first = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    commits = len(hub.repo("lab/pick", "dataset").commits)
    hub.asked.clear()
    again = published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    assert (again.manifest, again.bytes_sent) == (first.manifest, 0)
    assert len(hub.repo("lab/pick", "dataset").commits) == commits
    assert {line.split()[0] for line in hub.asked} == {"GET"}


def test_only_what_changed_is_sent(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a=b"one", b=b"two"), tmp_path)
    hub.asked.clear()
    done = published(package_of(tmp_path, a=b"one", b=b"other", c=b"one"), tmp_path)
    assert done.bytes_sent == len(b"\0other")
    assert sum(line.startswith("PUT") for line in hub.asked) == 1


def test_an_older_version_is_the_newest_again_when_it_is_published_again(hub: HubServer, tmp_path: Path) -> None:
    first = published(package_of(tmp_path / "1", a=b"one"), tmp_path)
    published(package_of(tmp_path / "2", a=b"two", b=b"three"), tmp_path)
    again = published(package_of(tmp_path / "1", a=b"one"), tmp_path)
    assert (again.pointed_to, again.bytes_sent) == (first.manifest.version, 0)
    assert files_of(hub) == {"data/a": b"\0one"}


def test_files_of_others_in_main_stay(hub: HubServer, tmp_path: Path) -> None:
    hub.make("lab/pick", "dataset", files={"README.md": b"by hand", "LICENSE": b"MIT"})
    published(package_of(tmp_path, a="one"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    assert hub.content(repo, "LICENSE") == b"MIT"
    assert b"by hand" in hub.content(repo, "README.md")


@pytest.mark.parametrize(
    ("files", "said"), [({"model.bin": b"x"}, r"holds something else.*model.bin"), ({MANIFEST_FILE: b"{}"}, "cannot be read")]
)
def test_a_repository_of_something_else_is_left_alone(hub: HubServer, tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    before = hub.make("lab/pick", "dataset", files=files).branches["main"]
    with pytest.raises(PublishError, match=said):
        published(package_of(tmp_path, a="one"), tmp_path)
    assert hub.repo("lab/pick", "dataset").branches == {"main": before}


def test_a_repository_of_another_publication_is_left_alone(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path)
    before = files_of(hub)
    with pytest.raises(PublishError, match=r"holds another publication.*dataset arm/lerobot_v3.*dataset arm/other"):
        published(package_of(tmp_path, name="arm/other", a="two"), tmp_path)
    assert files_of(hub) == before


@pytest.mark.parametrize(("asked", "said"), [("private", "public, and private was asked"), ("public", "private, and public was asked")])
def test_a_repository_that_others_see_otherwise_than_asked_is_left_alone(hub: HubServer, tmp_path: Path, asked: str, said: str) -> None:
    hub.make("lab/pick", "dataset", private=asked == "public")
    with pytest.raises(PublishError, match=said):
        published(package_of(tmp_path, a="one"), tmp_path, options=HubOptions(public=asked == "public"))
    assert files_of(hub) == {}


def test_public_is_what_is_asked_to_be(hub: HubServer, tmp_path: Path) -> None:
    published(package_of(tmp_path, a="one"), tmp_path, options=HubOptions(public=True))
    assert not hub.repo("lab/pick", "dataset").private


def test_much_goes_by_several_commits_and_is_seen_at_once(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(additions, "_COMMIT_FILES", 3)
    monkeypatch.setattr(additions, "_CALL_FILES", 2)
    said: list[str] = []
    done = published(package_of(tmp_path, **{f"f{k}": bytes([k]) * 10 for k in range(8)}), tmp_path, said=said)
    assert any("by 3 commits" in line for line in said)
    repo = hub.repo("lab/pick", "dataset")
    main = [commit for commit in repo.commits.values() if commit.oid == repo.branches["main"]]
    assert [len(files_of(hub, str(commit.parent))) for commit in main] == [0]
    assert len(files_of(hub)) == len(done.manifest.files) == 8


def test_a_large_file_goes_in_parts_where_the_hub_asks_for_it(hub: HubServer, tmp_path: Path) -> None:
    hub.part_size = 1000
    published(package_of(tmp_path, a=bytes(range(256)) * 20), tmp_path)
    assert sum("/part/" in line for line in hub.asked) == 6
    assert files_of(hub) == {"data/a": b"\0" + bytes(range(256)) * 20}


def test_more_files_than_the_hub_is_good_for_are_refused_before_anything_is_made(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "_MOST_FILES", 1)
    with pytest.raises(PublishError, match=r"too many files for the Hub.*2 files.*s3://"):
        published(package_of(tmp_path, a="one", b="two"), tmp_path)
    assert not hub.repos


def test_who_is_killed_leaves_nothing_to_be_seen_and_the_next_goes_on(hub: HubServer, tmp_path: Path) -> None:
    package_of(tmp_path, a=b"one" * 1000, b=b"two" * 1000)
    code = (
        "import sys; from pathlib import Path; from vla_ops_tests.publishing.hub.packages import *; "
        "from vla_ops.publishing.hub import additions; additions._COMMIT_FILES = 1; folder = Path(sys.argv[1]); "
        "published(package_of(folder, a=b'one' * 1000, b=b'two' * 1000), folder)"
    )
    # The second large file is never answered.
    hub.held = lambda: len(list(hub.folder.iterdir())) == 1
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[3])
    deadline = time.monotonic() + 120
    while sum(line.startswith("PUT") for line in hub.asked) < 2:
        assert process.poll() is None, "it ended by itself"
        assert time.monotonic() < deadline, hub.asked
        time.sleep(0.02)
    process.kill()
    process.wait()
    hub.held = lambda: False
    while len(list(hub.folder.iterdir())) < 2:  # The request that was held is answered, to nobody.
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert files_of(hub) == {}
    assert hub.repo("lab/pick", "dataset").tags == {}
    hub.asked.clear()
    done = published(package_of(tmp_path, a=b"one" * 1000, b=b"two" * 1000), tmp_path)
    assert not any(line.startswith("PUT") for line in hub.asked)
    assert done.pointed_to == done.manifest.version
    assert len(files_of(hub)) == 2


def test_a_file_that_changes_meanwhile_is_found(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = package_of(tmp_path, a=b"one")
    hashed = publish.hashed

    def late(*given: object) -> object:
        files = hashed(*given)  # type: ignore[arg-type]
        package.files["data/a"].write_bytes(b"\0One")
        return files

    monkeypatch.setattr(publish, "hashed", late)
    with pytest.raises(PublishError, match=r"a file changed while it was sent.*data/a"):
        published(package, tmp_path)
    assert files_of(hub) == {}


def test_a_small_file_that_changes_just_before_its_commit_is_found(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")

    def trouble(method: str, path: str) -> None:
        if method == "GET" and path.endswith("/refs") and any("/preupload/" in line for line in hub.asked):
            package.files["data/a"].write_text("One")

    hub.trouble = trouble
    with pytest.raises(PublishError, match=r"data/a has other bytes|a file changed while it was sent"):
        published(package, tmp_path)
    assert files_of(hub) == {}
    assert hub.repo("lab/pick", "dataset").tags == {}


def test_a_small_file_that_changes_after_its_version_is_tagged_is_in_main_as_it_was(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")

    def trouble(method: str, path: str) -> None:
        if method == "DELETE":  # The branch goes when the tag has been compared.
            package.files["data/a"].write_text("One")

    hub.trouble = trouble
    done = published(package, tmp_path)
    assert package.files["data/a"].read_text() == "One"
    assert files_of(hub) == files_of(hub, f"version-{done.manifest.version}") == {"data/a": b"one"}


@pytest.mark.parametrize("before", ["/commit/publishing", "/tree/", "/refs"])
def test_who_publishes_what_another_finishes_meanwhile_goes_on_with_that(hub: HubServer, tmp_path: Path, before: str) -> None:
    first: list[Published] = []
    package, same = (package_of(tmp_path / name, a="one", b=b"two") for name in ("ours", "theirs"))

    def trouble(method: str, path: str) -> None:
        uploaded = sum("/preupload/" in line for line in hub.asked)
        if not first and uploaded and before in path:
            hub.trouble = lambda *_: None
            first.append(published(same, tmp_path / "other"))

    # In a thread of its own: the server is asked within an answer of its own.
    def started(method: str, path: str) -> None:
        thread = threading.Thread(target=trouble, args=(method, path))
        thread.start()
        running.append(thread)

    running: list[threading.Thread] = []
    hub.trouble = started
    done = published(package, tmp_path)
    for thread in running:
        thread.join()
    repo = hub.repo("lab/pick", "dataset")
    assert first[0].manifest.version == done.manifest.version == done.pointed_to
    assert list(repo.tags) == [f"version-{done.manifest.version}"]
    assert files_of(hub) == {"data/a": b"one", "data/b": b"\0two"}


def test_a_branch_that_was_left_behind_is_removed(hub: HubServer, tmp_path: Path) -> None:
    done = published(package_of(tmp_path, a="one"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    repo.branches[f"publishing-{done.manifest.version}"] = repo.head.oid
    published(package_of(tmp_path, a="one"), tmp_path)
    assert list(repo.branches) == ["main"]


def test_a_gitignore_there_is_not_asked(hub: HubServer, tmp_path: Path) -> None:
    hub.make("lab/pick", "dataset", files={".gitignore": b"data/\n"})
    published(package_of(tmp_path, a="one", b=b"two"), tmp_path)
    assert len(files_of(hub)) == 2


def test_files_of_one_that_moved_are_not_sent_and_nothing_is_divided_by_nothing(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_SAY_EVERY_S", 0.0)
    published(package_of(tmp_path / "1", a=b"one"), tmp_path)
    assert published(package_of(tmp_path / "2", b=b"one"), tmp_path).bytes_sent == 0
    assert files_of(hub) == {"data/b": b"\0one"}


def test_a_name_that_the_client_does_not_take_is_refused_before_anything_is_made(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")
    odd = type(package)(**{**vars(package), "files": {".cache/a": package.files["data/a"]}})
    with pytest.raises(PublishError, match=r"takes no file of this name.*\.cache/a"):
        published(odd, tmp_path)
    assert not hub.repos


def test_what_the_hub_does_not_keep_is_found_and_not_pointed_to(hub: HubServer, tmp_path: Path) -> None:
    def trouble(method: str, path: str) -> None:
        # Somebody commits to the branch before it is read back.
        repo = hub.repos.get(("dataset", "lab/pick"))
        branch = next((name for name in repo.branches if name != "main"), None) if repo else None
        if repo and branch and method == "GET" and "/tree/" in path and MANIFEST_FILE in repo.commits[repo.branches[branch]].tree:
            tree = dict(repo.commits[repo.branches[branch]].tree)
            tree.pop("data/a", None)
            repo.commit(tree, branch, "by hand")
            repo.commits[path.rpartition("/")[2]] = repo.commits[repo.branches[branch]]

    hub.trouble = trouble
    with pytest.raises(PublishError, match=r"what the Hub has is not what was published.*data/a is missing.*not pointed to"):
        published(package_of(tmp_path, a="one", b="two"), tmp_path)
    assert files_of(hub) == {}
    assert hub.repo("lab/pick", "dataset").tags == {}


def test_of_two_who_publish_other_versions_at_once_both_are_there_and_main_is_one_of_them(hub: HubServer, tmp_path: Path) -> None:
    packages = [package_of(tmp_path / str(k), a=bytes([k]) * 100, b="same") for k in range(2)]
    hub.make("lab/pick", "dataset")
    failed: list[Exception] = []

    def run(k: int) -> None:
        try:
            published(packages[k], tmp_path / f"work{k}")
        except PublishError as error:
            failed.append(error)

    threads = [threading.Thread(target=run, args=(k,)) for k in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failed == []
    repo = hub.repo("lab/pick", "dataset")
    assert len(repo.tags) == 2
    version = published_at(URI)
    assert version is not None
    assert files_of(hub) == files_of(hub, f"version-{version.manifest.version}")


def test_a_main_that_moves_meanwhile_is_looked_at_again(hub: HubServer, tmp_path: Path) -> None:
    hub.make("lab/pick", "dataset")
    moved: list[str] = []

    def trouble(method: str, path: str) -> web.Response | None:
        if method == "POST" and path.endswith("/commit/main") and not moved:
            repo = hub.repo("lab/pick", "dataset")
            tree = dict(repo.head.tree)
            moved.append(repo.commit(tree, "main", "by hand").oid)
        return None

    hub.trouble = trouble
    done = published(package_of(tmp_path, a="one"), tmp_path)
    repo = hub.repo("lab/pick", "dataset")
    assert repo.head.parent == moved[0]
    assert done.pointed_to == done.manifest.version


def test_a_lerobot_dataset_gets_the_tag_that_lerobot_looks_for(hub: HubServer, tmp_path: Path) -> None:
    package = package_of(tmp_path, a="one")
    info = tmp_path / "meta/info.json"
    info.parent.mkdir()
    info.write_text(json.dumps({"codebase_version": "v3.0"}))
    for content in ("one", "two"):
        package.files["data/a"].write_text(content)
        published(type(package)(**{**vars(package), "files": {**package.files, "meta/info.json": info}}), tmp_path)
        repo = hub.repo("lab/pick", "dataset")
        assert repo.tags["v3.0"] == repo.branches["main"]
