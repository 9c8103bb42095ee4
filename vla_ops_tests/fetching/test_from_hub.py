"""`init:` and norm stats from a repository on the Hub, by fsspec."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vla_ops.checkpoints.layout import open_checkpoint
from vla_ops.checkpoints.reading import read_params
from vla_ops.errors import FetchError
from vla_ops.fetching.download import download
from vla_ops_tests.checkpoints.small import saved, small_state
from vla_ops_tests.services.hub import HubServer


@pytest.fixture
def there(hub: HubServer, tmp_path: Path) -> Path:
    """A checkpoint, and its copy in the private repository lab/base."""
    folder = saved(tmp_path / "made", small_state(5))
    files = {f"5/{path.relative_to(folder).as_posix()}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    hub.make("lab/base", files=files)
    return folder


def test_a_checkpoint_in_a_repository_is_fetched_once(hub: HubServer, there: Path, tmp_path: Path) -> None:
    fetched = download("hf://lab/base/5", tmp_path / "cache")
    one, two = (read_params(open_checkpoint(path)) for path in (there, fetched))
    assert all(np.array_equal(one[path], two[path]) for path in one)
    hub.asked.clear()
    assert download("hf://lab/base/5", tmp_path / "cache") == fetched
    assert not any("/resolve/" in line for line in hub.asked)


@pytest.mark.usefixtures("there")
def test_what_changed_there_is_another_version(hub: HubServer, tmp_path: Path) -> None:
    first = download("hf://lab/base/5", tmp_path / "cache")
    repo = hub.repo("lab/base")
    name = next(name for name in repo.head.tree if name.endswith("_METADATA"))
    repo.commit({**repo.head.tree, name: hub.add(b"{}")}, "main", "changed")
    assert download("hf://lab/base/5", tmp_path / "cache") != first
    assert download(f"hf://lab/base@{repo.head.parent}/5", tmp_path / "cache") != first


@pytest.mark.usefixtures("there")
def test_a_token_that_is_not_known_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_unknownunknown")
    with pytest.raises(FetchError, match=r"cannot be listed.*hf://lab/base/5.*HF_TOKEN") as refused:
        download("hf://lab/base/5", tmp_path / "cache")
    assert "hf_unknownunknown" not in str(refused.value)
