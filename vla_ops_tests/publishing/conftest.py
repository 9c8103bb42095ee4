"""A run of this project, to be published."""

from __future__ import annotations

import pytest

from vla_ops.training.run import Run
from vla_ops_tests.policies.small_run import make_run


@pytest.fixture(scope="session")
def small_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run with one checkpoint, 7."""
    return make_run(tmp_path_factory.mktemp("published"))
