"""Published to a real S3 server, and used from there by a machine that has nothing but the URI."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.sources import locate
from vla_ops.errors import FetchError, PublishError
from vla_ops.policies.policy import Policy
from vla_ops.published.pull import published_at, pull
from vla_ops.published.registry import publications
from vla_ops.publishing.package import package_at
from vla_ops.publishing.publish import Published, publish
from vla_ops.publishing.stores import store_at
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import seen
from vla_ops_tests.services.s3 import Bucket, s3, s3_server  # noqa: F401 - fixtures

s3fs = pytest.importorskip("s3fs", reason="s3fs is not installed: uv sync --extra s3")
pytestmark = pytest.mark.services


@pytest.fixture
def done(s3: Bucket, small_run: Run, tmp_path: Path) -> Published:  # noqa: F811
    return publish(package_at(small_run.folder / "7"), store_at(s3.uri), work=tmp_path)


def test_a_policy_that_was_fetched_does_what_the_one_that_was_published_does(done: Published, small_run: Run, tmp_path: Path) -> None:
    version = published_at(done.uri)
    assert version is not None
    fetched = Policy.load(str(pull(version, tmp_path / "cache")), home=tmp_path / "home", seed=3)
    original = Policy.load(str(small_run.folder / "7"), home=tmp_path / "home", seed=3)
    np.testing.assert_array_equal(fetched.infer(seen()), original.infer(seen()))


def test_only_what_changed_travels(done: Published, s3: Bucket, small_run: Run, tmp_path: Path) -> None:  # noqa: F811
    package = package_at(small_run.folder / "7")
    changed = tmp_path / "state.json"
    changed.write_text("{}")
    other = type(package)(package.kind, package.name, {**package.files, "vla_ops/state.json": changed}, package.origin, package.measured)
    again = publish(other, store_at(s3.uri), work=tmp_path)
    assert (again.bytes_sent, again.pointed_to) == (2, again.manifest.version)
    assert published_at(f"{done.uri}@{done.manifest.version}") is not None


def test_what_was_published_is_published_elsewhere_as_the_same_version(done: Published, tmp_path: Path) -> None:
    there = locate(done.uri, tmp_path / "home")
    again = publish(package_at(there), store_at(str(tmp_path / "mirror")), work=tmp_path / "work")
    assert again.manifest.version == done.manifest.version
    assert (again.manifest.files, again.manifest.origin) == (done.manifest.files, done.manifest.origin)
    (there / "run.json").write_text("{}")
    with pytest.raises(PublishError, match=r"not what was published.*run\.json"):
        package_at(there)


def test_an_object_that_is_damaged_there_is_not_served(done: Published, s3: Bucket, tmp_path: Path) -> None:  # noqa: F811
    (name,) = [name for name in done.manifest.files if name.endswith("norm_stats.json")]
    key = f"{done.uri.removeprefix(f'{s3.uri}/')}/{done.manifest.folder}/{name}"
    s3.put(key, b"x" * done.manifest.files[name].bytes)
    version = published_at(done.uri)
    assert version is not None
    with pytest.raises(PublishError, match=rf"not what was published.*{name}"):
        pull(version, tmp_path / "cache")


def test_all_that_is_there_is_listed_and_a_wrong_key_is_not_taken_for_an_empty_place(
    done: Published,
    s3: Bucket,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (found,) = publications(s3.uri)
    assert not isinstance(found, PublishError)
    assert found.manifest == done.manifest
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "anotheroneanotherone")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(FetchError, match="cannot be listed"):
        list(publications(s3.uri))
