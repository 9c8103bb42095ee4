"""Robots as they are shipped, each with a store of its own."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from vla_ops_tests.episodes.ingesting import convert_in_this_process
from vla_ops_tests.robots.shipped import Shipped


@pytest.fixture
def shipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Shipped]:
    """Make the robot of a name, without recordings yet."""
    monkeypatch.setenv("VLA_OPS_HOME", str(tmp_path / "home"))
    convert_in_this_process(monkeypatch)
    return lambda name: Shipped(name, tmp_path)
