"""Jobs on this machine."""

from __future__ import annotations

import pytest

from vla_ops.launchers import Launcher, LocalLauncher, launcher_of
from vla_ops_tests.launchers.contract import LauncherContract


class TestLocal(LauncherContract):
    MADE_BY = "from vla_ops.launchers import LocalLauncher; launcher = LocalLauncher()"

    @pytest.fixture
    def launcher(self) -> Launcher:
        return LocalLauncher()


def test_the_launcher_of_a_training_is_found_by_its_name() -> None:
    assert isinstance(launcher_of("local"), LocalLauncher)
