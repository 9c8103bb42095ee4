"""What several trainings of small models share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

from vla_ops_tests.training.arm import Arm, make_arm


@pytest.fixture(scope="module")
def compiled_fast() -> Iterator[None]:
    """What is computed here is small, and compiling it takes most of the time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="module")
def arm(tmp_path_factory: pytest.TempPathFactory) -> Arm:
    """Two episodes to train on, and one that is held out."""
    return make_arm(tmp_path_factory.mktemp("arm"), [20, 20, 10], held_out=(2,))


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """VLA_OPS_HOME of the module's runs."""
    return tmp_path_factory.mktemp("home")
