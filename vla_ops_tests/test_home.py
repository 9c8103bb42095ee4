"""Where VLA_OPS_HOME is, and where what was written down elsewhere is in it."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.errors import SpecError
from vla_ops.home import home, moved_here, remote_home


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("VLA_OPS_HOME", "VLA_OPS_HOME_COPY", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def test_a_folder_is_the_home_itself(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert (home(), remote_home()) == (tmp_path / "data", None)
    for folder in ("here", str(tmp_path / "here")):
        monkeypatch.setenv("VLA_OPS_HOME", folder)
        assert (home(), remote_home()) == (tmp_path / "here", None)


@pytest.mark.parametrize(
    "asked",
    [
        "s3://lab/vla", "gs://lab/vla", "s3://lab/vla/", "s3://lab", "file:///mnt/share/vla", "file:///mnt/me@lab/x",
        "hf://datasets/lab/home", "hf://datasets/lab/home/", "hf://datasets/lab/home/of/arms",
    ],
)  # fmt: skip
def test_a_place_in_a_store_has_a_copy_that_is_always_the_same(asked: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", asked)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert remote_home() == asked.rstrip("/")
    assert home() == home()
    assert home().parent == tmp_path / "vla_ops/homes"
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "copy"))
    assert home() == tmp_path / "copy"


@pytest.mark.parametrize(
    "asked",
    ["s3://", "http://lab/x", "hf://lab/x", "gs:///lab", "file://share/x", "s3://lab/x?y=1", "s3:///x", "s3:/lab/x", "file:/mnt/x"],
)
def test_what_cannot_be_a_home_is_refused_with_what_can(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", asked)
    with pytest.raises(SpecError, match="VLA_OPS_HOME cannot be this") as refused:
        home()
    assert "s3://BUCKET/PREFIX" in str(refused.value)


@pytest.mark.parametrize(
    ("asked", "todo"),
    [
        ("hf://lab/home", "hf://datasets/OWNER/NAME"),
        ("hf://models/lab/home", "hf://datasets/OWNER/NAME"),
        ("hf://datasets/lab", "hf://datasets/OWNER/NAME"),
        ("hub:lab/home", "hf://datasets/OWNER/NAME"),
        ("hub:datasets/lab/home", "hf://datasets/OWNER/NAME"),
        ("hf://datasets/lab/-home", "not starting or ending with"),
        ("hf://datasets/lab/a--b", "refuses '--'"),
        ("hf://datasets/lab/home/.git/x", "'.git': the Hub takes no folder"),
        ("hf://datasets/lab/home//x", "'': the Hub takes no folder"),
        ("hf://datasets/lab/home/../x", "'..': the Hub takes no folder"),
    ],
)
def test_what_the_hub_would_refuse_is_refused_when_it_is_read(asked: str, todo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", asked)
    with pytest.raises(SpecError, match="VLA_OPS_HOME cannot be this") as refused:
        remote_home()
    assert asked in str(refused.value)
    assert todo in str(refused.value)


def test_a_token_in_it_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    for asked in ("hf://planted@datasets/lab/home", "hf://datasets/lab/home?token=planted", "hub:lab/home@planted"):
        monkeypatch.setenv("VLA_OPS_HOME", asked)
        with pytest.raises(SpecError) as refused:
            home()
        assert "planted" not in str(refused.value)


def test_a_copy_does_not_lie_in_its_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", f"file://{tmp_path}/share")
    for copy in ("share", "share/copy", "."):
        monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / copy))
        with pytest.raises(SpecError, match="lie in one another"):
            home()


def test_a_password_in_it_is_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", "s3://KEY:planted@lab/x")
    with pytest.raises(SpecError) as refused:
        home()
    assert "planted" not in str(refused.value)


def test_a_path_of_another_machine_is_found_in_this_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "here"))
    there = Path("/nowhere/home/arm/lerobot_v3/0123")
    assert moved_here(there) == there
    here = tmp_path / "here/arm/lerobot_v3/0123"
    here.mkdir(parents=True)
    assert moved_here(there) == here
    assert moved_here(here) == here
    assert moved_here(Path("/nowhere/home/other/lerobot_v3/0123")) == Path("/nowhere/home/other/lerobot_v3/0123")

    def refused(_: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    # Of another user.
    monkeypatch.setattr(Path, "exists", refused)
    assert moved_here(there) == there
