"""`vla-ops publish`, `policies` and `lineage`, and serving what was published."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.cli_serve import Serve
from vla_ops.errors import PublishError
from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run
from vla_ops_tests.services.hub import HubServer
from vla_ops_tests.terminal import Terminal


@pytest.fixture(scope="module")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("published"))


@pytest.fixture
def terminal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Terminal:
    return Terminal(tmp_path, monkeypatch, capsys)


def test_what_is_published_is_listed_and_its_lineage_told(terminal: Terminal, small_run: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    done = terminal("publish", small_run.folder / "7", store)
    assert done.code == 0
    uri = done.out.strip()
    assert uri.startswith(f"{store}/{small_run.recipe.robot}/{small_run.recipe.name}@")
    assert "MB sent" in done.err
    assert "nothing had to be sent" in terminal("publish", small_run.folder / "7", store).err
    listed = terminal("policies", store)
    assert (listed.code, uri.rpartition("@")[2] in listed.out) == (0, True)
    told = terminal("lineage", uri).out
    assert small_run.recipe.dataset_version in told
    assert "recordings (" in told


def test_what_is_published_on_the_hub_is_listed_told_and_served(
    terminal: Terminal,
    small_run: Run,
    tmp_path: Path,
    hub: HubServer,
) -> None:
    done = terminal("publish", small_run.folder / "7", "hub:lab/pick", "--licence", "mit")
    uri = done.out.strip()
    assert (done.code, uri.partition("@")[0]) == (0, "hub:lab/pick")
    listed = terminal("policies", "hub:lab").out
    assert all(part in listed for part in uri.split("@"))
    assert small_run.recipe.dataset_version in terminal("lineage", uri).out
    assert hub.repo("lab/pick").private
    pulled = terminal("pull", uri)
    assert (pulled.code, "fetching" in pulled.err) == (0, True)
    assert (Path(pulled.out.strip()) / "params").is_dir()
    assert terminal("pull", "hub:lab/pick").out == pulled.out
    assert Serve(policy="hub:lab/pick")._policy().metadata["robot"] == small_run.recipe.robot
    assert "there can be no such repository" in terminal("publish", small_run.folder / "7", "hub:lab/a--b").err
    assert "nothing is published" in terminal("policies", "hub:nobody").err


def test_where_nothing_is_published_that_is_said(terminal: Terminal, tmp_path: Path) -> None:
    for command in ("policies", "lineage", "pull"):
        refused = terminal(command, tmp_path)
        assert (refused.code, "nothing is published" in refused.err) == (2, True)


def test_places_and_options_that_cannot_be_are_refused(terminal: Terminal, small_run: Run, tmp_path: Path) -> None:
    assert "this kind of place" in terminal("publish", small_run.folder / "7", "ftp://lab/x").err
    assert "this place has no such options" in terminal("publish", small_run.folder / "7", tmp_path / "store", "--acl", "private").err


def test_a_published_policy_is_served_from_its_copy_and_a_damaged_one_is_not(
    terminal: Terminal,
    small_run: Run,
    tmp_path: Path,
) -> None:
    uri = terminal("publish", small_run.folder / "7", tmp_path / "store").out.strip()
    folder = Path(uri.rpartition("@")[0]) / "versions" / uri.rpartition("@")[2]
    for named in (uri, uri.rpartition("@")[0], str(folder)):
        assert Serve(policy=named)._policy().metadata["robot"] == small_run.recipe.robot
    next(folder.rglob("norm_stats.json")).write_text("{}")
    with pytest.raises(PublishError, match=r"not what was published.*norm_stats.json"):
        Serve(policy=uri)._policy()
