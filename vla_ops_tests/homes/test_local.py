"""A home in a folder that machines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.errors import SpecError
from vla_ops.files import only_one
from vla_ops.homes.at_home import at_home, checkpoints_every_s
from vla_ops.homes.needs import everything
from vla_ops.homes.there import there_in
from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.contract import HomeContract
from vla_ops_tests.homes.machines import Machine
from vla_ops_tests.launchers.contract import wait_for


class TestInASharedFolder(HomeContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "share/arm")


def test_checkpoints_are_at_home_before_the_training_is_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLA_OPS_HOME", f"file://{tmp_path}/share")
    monkeypatch.setenv("VLA_OPS_HOME_COPY", str(tmp_path / "one"))
    store = LocalStore(tmp_path / "share/arm")
    one, said = Machine(store, tmp_path / "one"), list[str]()
    with at_home({"arm": everything}, said.append, every_s=0.01), only_one(one.root / "trainings/pi0/run1", lambda _: None):
        one.train("run1", 100)
        wait_for(lambda: "trainings/pi0/run1/100" in there_in(store).state.units)
        # What cannot be sent now is said, and does not end the training.
        (tmp_path / "share/arm/blobs").rename(tmp_path / "blobs")
        (tmp_path / "share/arm/blobs").write_text("in the way")
        one.train("run1", 200)
        wait_for(lambda: any("tried again" in line for line in said))
        (tmp_path / "share/arm/blobs").unlink()
        (tmp_path / "blobs").rename(tmp_path / "share/arm/blobs")
    assert "trainings/pi0/run1/200" in there_in(store).state.units


@pytest.mark.parametrize("asked", ["soon", "0", "-1"])
def test_how_often_is_a_time(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert checkpoints_every_s() == 600
    monkeypatch.setenv("VLA_OPS_HOME_MINUTES", asked)
    with pytest.raises(SpecError, match="VLA_OPS_HOME_MINUTES"):
        checkpoints_every_s()
