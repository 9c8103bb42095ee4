"""A home in a folder that machines share."""

from __future__ import annotations

from pathlib import Path

import pytest

from vla_ops.publishing.stores import LocalStore
from vla_ops.publishing.stores.base import Store
from vla_ops_tests.homes.contract import HomeContract


class TestInASharedFolder(HomeContract):
    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return LocalStore(tmp_path / "share/arm")
