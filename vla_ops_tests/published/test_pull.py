"""Published versions are compared with their manifest before anybody uses them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from vla_ops.errors import FetchError, PublishError
from vla_ops.published.manifest import MANIFEST_FILE
from vla_ops.published.pull import Version, bring, published_at, pull, split
from vla_ops.publishing.stores import LocalStore
from vla_ops_tests.publishing.packages import NAME, published
from vla_ops_tests.services.http import HttpServer


@pytest.fixture
def there(tmp_path: Path) -> Path:
    """The folder of a version in a store."""
    store = LocalStore(tmp_path / "store")
    done = published(store, tmp_path / "made", a="one", b="two")
    return store.folder / NAME / done.manifest.folder


def version_at(uri: str | Path) -> Version:
    found = published_at(str(uri))
    assert found is not None
    return found


def test_where_nothing_is_published_there_is_none(tmp_path: Path) -> None:
    assert published_at(str(tmp_path)) is None
    assert published_at("aloha_sim/pi0_tiny@best") is None


def test_a_version_can_be_named_by_its_own_folder(there: Path) -> None:
    assert version_at(there).manifest == version_at(there.parents[1]).manifest


def test_a_version_that_is_not_there_or_not_finished_is_refused(there: Path) -> None:
    with pytest.raises(PublishError, match="no such version"):
        published_at(f"{there.parents[1]}@0123")
    (there / MANIFEST_FILE).unlink()
    with pytest.raises(PublishError, match="never finished"):
        published_at(f"{there.parents[1]}@{there.name}")


@pytest.mark.parametrize(("content", "found"), [(b"ONE", "sha256"), (b"on", "2 bytes instead of 3"), (None, "is missing")])
def test_a_file_that_is_not_what_was_published_is_refused_by_its_name(
    there: Path, tmp_path: Path, content: bytes | None, found: str
) -> None:
    (there / "params/a").unlink()
    if content is not None:
        (there / "params/a").write_bytes(content)
    with pytest.raises(PublishError, match=rf"params/a.*found .*{found}"):
        pull(version_at(there), tmp_path / "cache")


def test_a_manifest_of_a_newer_version_says_so(there: Path) -> None:
    edit(there, format=99)
    with pytest.raises(PublishError, match=r"newer version of vla-ops.*format 99; expected format 1.*Install the newest"):
        published_at(str(there))


def test_an_edited_manifest_is_not_that_of_its_version(there: Path) -> None:
    edit(there, origin={"robot": "another"})
    with pytest.raises(PublishError, match="the manifest is not that of its version"):
        published_at(str(there))


@pytest.mark.parametrize("name", ["../../outside", "/etc/passwd", MANIFEST_FILE])
def test_a_manifest_that_names_files_elsewhere_is_refused(there: Path, name: str) -> None:
    edit(there, files={name: {"bytes": 1, "sha256": "0"}})
    with pytest.raises(PublishError, match="outside of its version"):
        published_at(str(there))


def edit(there: Path, **changed: object) -> None:
    file = there / MANIFEST_FILE
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))


# From elsewhere


@pytest.fixture
def elsewhere(there: Path) -> Iterator[str]:
    """The version's folder in a store that is not this disk."""
    memory = fsspec.filesystem("memory")
    memory.put(str(there), "/elsewhere/v", recursive=True)
    yield "memory://elsewhere/v"
    memory.rm("/elsewhere", recursive=True)


def test_it_is_fetched_once(elsewhere: str, tmp_path: Path) -> None:
    said: list[str] = []
    first = pull(version_at(elsewhere), tmp_path / "cache", say=said.append)
    assert (first / "params/b").read_text() == "two"
    assert pull(version_at(elsewhere), tmp_path / "cache", say=said.append) == first
    assert len(said) == 1


def test_beyond_its_size_the_cache_loses_what_nobody_uses(elsewhere: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "cache/other/version"
    (old / "content").mkdir(parents=True)
    monkeypatch.setenv("VLA_OPS_MODEL_CACHE_GB", "0")
    assert (pull(version_at(elsewhere), tmp_path / "cache") / "params/b").read_text() == "two"
    # A folder that no process ever held has nothing to tell when it was used: it is the oldest.
    assert not old.exists()


def test_a_copy_that_was_damaged_is_fetched_again(elsewhere: str, tmp_path: Path) -> None:
    said: list[str] = []
    first = pull(version_at(elsewhere), tmp_path / "cache")
    (first / "params/b").write_text("TWO")
    assert (pull(version_at(elsewhere), tmp_path / "cache", say=said.append) / "params/b").read_text() == "two"
    assert "fetched again" in said[0]


def test_what_is_damaged_there_is_never_taken(elsewhere: str, tmp_path: Path) -> None:
    version = version_at(elsewhere)
    fsspec.filesystem("memory").pipe_file("/elsewhere/v/params/b", b"TWO")
    with pytest.raises(PublishError, match=r"not what was published.*params/b"):
        pull(version, tmp_path / "cache")
    assert [path.name for path in (tmp_path / "cache").rglob("params/b")] == []
    fsspec.filesystem("memory").pipe_file("/elsewhere/v/params/b", b"two")
    assert (pull(version, tmp_path / "cache") / "params/b").read_text() == "two"


def test_where_the_place_cannot_be_reached_what_the_uri_named_last_is_taken(tmp_path: Path, http: HttpServer) -> None:
    done = published(LocalStore(http.folder), tmp_path / "made", a="one")
    uri, said = f"{http.uri}/{NAME}", list[str]()
    first = bring(uri, tmp_path / "cache")
    http.trouble = lambda *_: 503
    again = bring(uri, tmp_path / "cache", say=said.append)
    assert first is not None
    assert again == first
    assert first[0].manifest.version == done.manifest.version
    assert f"Taken is {uri}@{done.manifest.version}, which was fetched before" in said[-1]
    assert bring(f"{uri}@{done.manifest.version}", tmp_path / "cache") is None


def test_a_fetch_that_breaks_off_is_said_and_nothing_else_is_taken(tmp_path: Path, http: HttpServer) -> None:
    published(LocalStore(http.folder), tmp_path / "made", a="one")
    http.trouble = lambda request, _: 503 if request.path.endswith("params/a") else "none"
    with pytest.raises(FetchError, match="cannot be listed"):
        bring(f"{http.uri}/{NAME}", tmp_path / "cache")


def test_a_page_in_the_place_of_a_manifest_is_no_publication(tmp_path: Path, http: HttpServer) -> None:
    for name in (MANIFEST_FILE, "latest.json"):
        (http.folder / name).write_text("<html>no such page</html>")
    assert published_at(http.uri) is None


def test_passwords_of_a_url_are_not_kept_and_not_said(tmp_path: Path, http: HttpServer) -> None:
    published(LocalStore(http.folder), tmp_path / "made", a="one")
    uri, said = f"{http.uri}/{NAME}".replace("://", "://joe:s3cret@"), list[str]()
    found = bring(uri, tmp_path / "cache", say=said.append)
    assert found is not None
    http.trouble = lambda *_: 503
    assert bring(uri, tmp_path / "cache", say=said.append) is not None
    notes = [note.read_text() for note in (tmp_path / "cache/uris").iterdir()]
    assert "s3cret" not in "".join([found[0].name, *said, *notes])


def test_a_copy_that_was_damaged_here_is_not_taken_where_the_place_cannot_be_read(tmp_path: Path, http: HttpServer) -> None:
    published(LocalStore(http.folder), tmp_path / "made", a="one")
    uri, said = f"{http.uri}/{NAME}", list[str]()
    found = bring(uri, tmp_path / "cache")
    assert found is not None
    (found[1] / "params/a").write_text("two")
    http.trouble = lambda *_: 503
    assert bring(uri, tmp_path / "cache", say=said.append) is None
    assert "The copy on this machine is damaged" in said[-1]


def test_a_part_of_a_version_is_compared_and_the_rest_is_left_there(tmp_path: Path, http: HttpServer) -> None:
    done = published(LocalStore(http.folder), tmp_path / "made", a="one", b="two")
    found = bring(f"{http.uri}/{NAME}", tmp_path / "cache", only=lambda name: name.endswith("/a"))
    assert found is not None
    assert sorted(path.name for path in found[1].rglob("*") if path.is_file()) == ["a", MANIFEST_FILE]
    (http.folder / NAME / done.manifest.folder / "params/a").write_text("ONE")
    with pytest.raises(PublishError, match="not what was published"):
        bring(f"{http.uri}/{NAME}", tmp_path / "other", only=lambda name: name.endswith("/a"))


@pytest.mark.parametrize(
    ("uri", "named", "version"),
    [
        ("s3://lab/a@b/pick@12ab", "s3://lab/a@b/pick", "12ab"),
        ("s3://lab/a@b/pick/", "s3://lab/a@b/pick", ""),
        ("https://joe:pw@host/pick@12ab", "https://joe:pw@host/pick", "12ab"),
        ("/store", "/store", ""),
        ("/store@12ab", "/store", "12ab"),
        ("store", "store", ""),
        ("hub:lab/pick@main", "hub:lab/pick", "main"),
    ],
)
def test_a_version_stands_behind_the_last_at_of_the_name(uri: str, named: str, version: str) -> None:
    assert split(uri) == (named, version)
